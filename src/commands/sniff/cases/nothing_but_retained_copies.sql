-- Heard in 10 s on plant/#: nothing that was published meanwhile.
-- There were 2 retained copies: old readings that the broker sends again. They show the fields, but say
--   nothing about rate and lateness, and the source skips them (retained = 'skip'). Listen longer with
--   --seconds.
-- Only 2 readings: look at types and NOT NULL before you rely on them.
-- How late ts is could not be measured; ten seconds is a guess.

CREATE SOURCE readings (
    v  DOUBLE NOT NULL,
    ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
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
