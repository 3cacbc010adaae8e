CREATE SOURCE readings (device TEXT NOT NULL, seq BIGINT NOT NULL, v BIGINT NOT NULL, ts TIMESTAMP NOT NULL, pad TEXT, WATERMARK FOR ts AS ts - INTERVAL '2 seconds') WITH (connector = 'http');
CREATE MATERIALIZED VIEW raw AS SELECT device, seq, v, ts FROM readings;
CREATE MATERIALIZED VIEW tumbled AS SELECT device, window_start, window_end, count(*) AS n, sum(v) AS total, avg(v) AS mean FROM TUMBLE(readings, ts, INTERVAL '3 seconds') GROUP BY device, window_start, window_end;
CREATE MATERIALIZED VIEW hopped AS SELECT device, window_start, window_end, count(*) AS n, max(v) AS greatest FROM HOP(readings, ts, INTERVAL '1 second', INTERVAL '3 seconds') GROUP BY device, window_start, window_end;
