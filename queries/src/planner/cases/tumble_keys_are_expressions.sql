CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v AS
SELECT split_part(device, '-', 1) AS kind, CAST(temperature AS BIGINT) / 10 AS decade, window_start, sum(CASE WHEN ok THEN 1 ELSE 0 END) AS good, min(device) AS first
FROM TUMBLE(readings, ts, INTERVAL '5 minutes')
GROUP BY split_part(device, '-', 1), CAST(temperature AS BIGINT) / 10, window_start
HAVING split_part(device, '-', 1) <> 'test';
