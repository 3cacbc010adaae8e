CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW room_1m
WITH (storage = 'delta', location = 's3://acme-iot/room_1m', partition_by = 'day(window_start)', late = 'keep') AS
SELECT site, device, window_start, window_end,
       count(*)         AS n,
       avg(temperature) AS avg_c,
       max(temperature) AS max_c
FROM   TUMBLE(readings, ts, INTERVAL '1 minute')
GROUP  BY site, device, window_start, window_end
EMIT ON WINDOW CLOSE;
