-- The pipeline of `tidemill demo`: fifty freezers, averaged over five seconds.
-- It is an ordinary pipeline file: tidemill check src/demo/demo.sql && tidemill serve src/demo/demo.sql

-- Freezers that speak MQTT connect straight to us; two levels of the topic become the columns site and device.
CREATE SOURCE telemetry (
    seq         BIGINT,
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (
    connector    = 'mqtt_listener',
    bind         = '127.0.0.1:1883',
    topic        = 'plant/{site}/{device}/telemetry',
    format       = 'json',
    future_limit = '1 minute',       -- a wrong clock cannot close other windows
    idle_after   = '10 seconds'      -- a silent connection does not hold windows open
);

-- Freezers without MQTT post to /api/v1/ingest/readings and say in the body who they are.
CREATE SOURCE readings (
    site        TEXT NOT NULL,
    device      TEXT NOT NULL,
    seq         BIGINT,
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (
    connector    = 'http',
    format       = 'json',
    future_limit = '1 minute',
    idle_after   = '10 seconds'
);

-- The raw history of telemetry: every reading as it came, what came twice included.
CREATE MATERIALIZED VIEW raw AS
SELECT site, device, seq, temperature, humidity, ts
FROM   telemetry;

CREATE MATERIALIZED VIEW room_5s AS
SELECT site, device, window_start, window_end,
       count(*)         AS n,
       avg(temperature) AS avg_c,
       max(temperature) AS max_c
FROM   TUMBLE(telemetry, ts, INTERVAL '5 seconds')
GROUP  BY site, device, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW web_5s AS
SELECT site, device, window_start, window_end,
       count(*)         AS n,
       avg(temperature) AS avg_c,
       max(temperature) AS max_c
FROM   TUMBLE(readings, ts, INTERVAL '5 seconds')
GROUP  BY site, device, window_start, window_end
EMIT ON WINDOW CLOSE;
