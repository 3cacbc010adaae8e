-- Heard in 10 s on readings: 4 messages (0.4 a second) on 1 topic.
-- Only 4 readings: look at types and NOT NULL before you rely on them.
-- No field is a time in every reading: a reading counts for when it arrives.

CREATE SOURCE readings (
    device       TEXT NOT NULL,
    v            DOUBLE NOT NULL,
    arrival_time TIMESTAMP METADATA FROM 'arrival_time',  -- no field is a time in every reading
    WATERMARK FOR arrival_time AS arrival_time - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'readings',
    qos       = 1   -- acknowledged after it is on the disk
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT device, window_start, window_end,
       count(*) AS n,
       avg(v)   AS v_avg,
       min(v)   AS v_min,
       max(v)   AS v_max
FROM   TUMBLE(readings, arrival_time, INTERVAL '1 minute')
GROUP  BY device, window_start, window_end;
