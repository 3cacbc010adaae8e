-- Heard in 10 s on plant/#: 2 messages (0.2 a second) on 2 topics.
-- Beside them 2 retained copies: old readings that the broker sends again, which the source skips (retained =
--   'skip').
-- Only 2 readings: look at types and NOT NULL before you rely on them.
-- ts is behind the arrival by 0.5 s mostly, 0.5 s for 99 % of the readings, 0.5 s at most.

CREATE SOURCE readings (
    v  DOUBLE NOT NULL,
    ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'plant/{level2}/telemetry',
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
