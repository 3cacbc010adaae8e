CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT device, now() AS seen FROM readings;
CREATE MATERIALIZED VIEW b AS SELECT device FROM readings WHERE ts > current_timestamp - INTERVAL '1 hour';
CREATE MATERIALIZED VIEW c AS SELECT random() AS r FROM readings;
