CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT device, temperature + 1 FROM readings;
CREATE MATERIALIZED VIEW b AS SELECT device, upper(site) AS device FROM readings;
CREATE MATERIALIZED VIEW c AS SELECT device AS "the device" FROM readings;
CREATE MATERIALIZED VIEW d AS SELECT *, upper(site) AS site FROM readings;
