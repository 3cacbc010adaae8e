-- Heard in 10 s on #: 2 messages (0.2 a second) on 1 topic.
-- Only 3 readings: look at types and NOT NULL before you rely on them.
-- No field is a time in every reading: a reading counts for when it arrives.

CREATE SOURCE readings (
    -- x: sometimes an object or an array, sometimes not
    id           BIGINT NOT NULL,                         -- a DOUBLE would lose digits
    v            DOUBLE NOT NULL,                         -- sometimes written as text
    w            TEXT NOT NULL,                           -- values of several types
    y            TEXT NOT NULL,                           -- values of several types
    time         TIMESTAMP,                               -- in 66 % of the readings
    arrival_time TIMESTAMP METADATA FROM 'arrival_time',  -- no field is a time in every reading
    WATERMARK FOR arrival_time AS arrival_time - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'm',
    qos       = 1   -- acknowledged after it is on the disk
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT window_start, window_end,
       count(*) AS n,
       avg(v)   AS v_avg,
       min(v)   AS v_min,
       max(v)   AS v_max
FROM   TUMBLE(readings, arrival_time, INTERVAL '1 minute')
GROUP  BY window_start, window_end;
