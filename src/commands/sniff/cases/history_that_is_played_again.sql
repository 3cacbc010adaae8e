-- Heard in 10 s on #: 4 messages (0.4 a second) on 2 topics.
-- Only 4 readings: look at types and NOT NULL before you rely on them.
-- ts is behind the arrival by 365 days mostly, 365 days for 99 % of the readings, 365 days at most. They are
--   history: the watermark's 10 seconds are their disorder.

CREATE SOURCE readings (
    v  DOUBLE NOT NULL,
    ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'm/{level2}',
    qos       = 1   -- acknowledged after it is on the disk
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT level2, window_start, window_end,
       count(*) AS n,
       avg(v)   AS v_avg,
       min(v)   AS v_min,
       max(v)   AS v_max
FROM   TUMBLE(readings, ts, INTERVAL '1 minute')
GROUP  BY level2, window_start, window_end;
