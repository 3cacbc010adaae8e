CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v AS
SELECT device, 1 + 2 AS three, 'x' AS tag, ts FROM readings WHERE ts >= TIMESTAMP '2026-01-01 00:00:00' AND temperature > 2 * 5;
