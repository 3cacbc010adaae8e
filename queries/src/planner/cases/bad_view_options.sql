CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a WITH (storge = 'delta') AS SELECT device FROM readings;
CREATE MATERIALIZED VIEW b WITH (storage = 'orc') AS SELECT device FROM readings;
CREATE MATERIALIZED VIEW c WITH (partition_by = 'day(tz)') AS SELECT device, ts FROM readings;
CREATE MATERIALIZED VIEW d WITH (partition_by = 'ts') AS SELECT device, ts FROM readings;
CREATE MATERIALIZED VIEW e WITH (late = 'correct 10 minutes, then keep') AS SELECT device FROM readings;
CREATE MATERIALIZED VIEW f WITH (retain = '400 days') AS SELECT device FROM readings;
