CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v AS
SELECT device, window_start, count(*) FILTER (WHERE ok) AS good, sum(temperature) FILTER (WHERE temperature > 0) AS above, min(seq) AS first
FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start;
