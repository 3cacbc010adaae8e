CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v AS
SELECT max(temperature) - min(temperature) AS spread, window_end AS until, device
FROM TUMBLE(readings, ts, INTERVAL '30' SECOND)
WHERE ok AND humidity IS NOT NULL
GROUP BY device, window_end
HAVING count(*) > 3 AND avg(temperature) < 100;
