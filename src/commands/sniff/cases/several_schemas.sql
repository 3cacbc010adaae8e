-- Heard in 10 s on plant/#: 10 messages (1 a second) on 6 topics.
-- Only 3 readings: look at types and NOT NULL before you rely on them.
-- ts is behind the arrival by 0.2 s mostly, 0.3 s for 99 % of the readings, 0.3 s at most.
-- Not in this source: 1 message with other fields (battery, online) on plant/a/f1/status.
-- Not in this source: 1 message with other fields (code, error) on plant/a/f2/telemetry. The source gets them
--   too: what lacks a NOT NULL column becomes a dead letter.
-- Not in this source: 1 message that is a plain number, such as "17" on plant/a/counter.
-- Not in this source: 1 message that is empty on plant/a/empty.
-- Not in this source: 3 messages that are no JSON, such as "on" on plant/a/lamp.

CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    ts          TIMESTAMP NOT NULL,
    humidity    DOUBLE,  -- in 33 % of the readings
    WATERMARK FOR ts AS ts - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'plant/a/{device}/telemetry',
    qos       = 1   -- acknowledged after it is on the disk
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT device, window_start, window_end,
       count(*)         AS n,
       avg(temperature) AS temperature_avg,
       min(temperature) AS temperature_min,
       max(temperature) AS temperature_max,
       avg(humidity)    AS humidity_avg,
       min(humidity)    AS humidity_min,
       max(humidity)    AS humidity_max
FROM   TUMBLE(readings, ts, INTERVAL '1 minute')
GROUP  BY device, window_start, window_end;
