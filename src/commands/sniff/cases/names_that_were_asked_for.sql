-- Heard in 10 s on plant/{hall}/+/telemetry: 2 messages (0.2 a second) on 1 topic.
-- Only 2 readings: look at types and NOT NULL before you rely on them.
-- ts is behind the arrival by 0.1 s mostly, 0.2 s for 99 % of the readings, 0.2 s at most.

CREATE SOURCE readings (
    v    DOUBLE NOT NULL,
    hall DOUBLE NOT NULL,
    ts   TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'plant/{topic_hall}/f1/telemetry',
    qos       = 1   -- acknowledged after it is on the disk
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT topic_hall, window_start, window_end,
       count(*)  AS n,
       avg(v)    AS v_avg,
       min(v)    AS v_min,
       max(v)    AS v_max,
       avg(hall) AS hall_avg,
       min(hall) AS hall_min,
       max(hall) AS hall_max
FROM   TUMBLE(readings, ts, INTERVAL '1 minute')
GROUP  BY topic_hall, window_start, window_end;
