-- Heard in 10 s on meters/+: 3 messages (0.3 a second) on 3 topics.
-- Only 3 readings: look at types and NOT NULL before you rely on them.
-- time is behind the arrival by 0.5 s mostly, 0.5 s for 99 % of the readings, 0.5 s at most.

CREATE SOURCE readings (
    time           TIMESTAMP NOT NULL,
    seen_at        BIGINT NOT NULL,  -- looks like a time in s; a source has one time_unit
    created        BIGINT NOT NULL,  -- looks like a time in s; a source has one time_unit
    installed_date TEXT NOT NULL,
    v              DOUBLE NOT NULL,
    WATERMARK FOR time AS time - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'meters/{meter}',
    qos       = 1,  -- acknowledged after it is on the disk
    time_unit = 'ms'
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT meter, window_start, window_end,
       count(*) AS n,
       avg(v)   AS v_avg,
       min(v)   AS v_min,
       max(v)   AS v_max
FROM   TUMBLE(readings, time, INTERVAL '1 minute')
GROUP  BY meter, window_start, window_end;
