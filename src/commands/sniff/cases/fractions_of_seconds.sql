-- Heard in 10 s on #: 2 messages (0.2 a second) on 1 topic.
-- Only 2 readings: look at types and NOT NULL before you rely on them.
-- x is behind the arrival by 0.2 s mostly, 0.2 s for 99 % of the readings, 0.2 s at most.

CREATE SOURCE readings (
    x TIMESTAMP NOT NULL,
    v DOUBLE NOT NULL,
    WATERMARK FOR x AS x - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'm',
    qos       = 1,  -- acknowledged after it is on the disk
    time_unit = 's'
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT window_start, window_end,
       count(*) AS n,
       avg(v)   AS v_avg,
       min(v)   AS v_min,
       max(v)   AS v_max
FROM   TUMBLE(readings, x, INTERVAL '1 minute')
GROUP  BY window_start, window_end;
