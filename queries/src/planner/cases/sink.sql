CREATE SINK alerts FROM room_1m WITH (connector = 'mqtt', url = 'mqtt://broker:1883', topic = 'alerts/{device}/{window_start}', qos = 2, retain = true, columns = 'device, n');
CREATE SOURCE readings (device TEXT NOT NULL, temperature DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') WITH (connector = 'http');
CREATE MATERIALIZED VIEW room_1m AS
SELECT device, window_start, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, window_end;
CREATE SINK "Everything" FROM readings WITH (connector = 'mqtt', url = 'listener:readings', topic = 'all', on_full = 'drop_newest', outbox_bytes = '64 MiB', outbox_rows = 1000000, commit_interval = '1 second');
