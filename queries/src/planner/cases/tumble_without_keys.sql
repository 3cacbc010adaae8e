CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW total AS
SELECT window_start, count(*), count(humidity) AS humid, sum(seq), avg(seq) AS mean
FROM TUMBLE(readings, ts, INTERVAL 1 MINUTE) GROUP BY window_start;
