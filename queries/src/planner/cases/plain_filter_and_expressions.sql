CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW warm
WITH (storage = 'parquet', location = '/data/warm', partition_by = 'day(at)') AS
SELECT upper(device) AS device, temperature * 1.8 + 32 AS f, ts AS at
FROM readings r
WHERE r.temperature > -15 AND site IN ('a', 'b') AND device LIKE 'freezer-%';
