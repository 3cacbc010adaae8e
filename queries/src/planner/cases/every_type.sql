CREATE SOURCE types (a DOUBLE PRECISION, b REAL, c INT, d BIGINT, e SMALLINT, f TINYINT, g INT UNSIGNED, h BOOLEAN, i VARCHAR(20), j STRING,
  k TIMESTAMP WITH TIME ZONE, l DATE, m FLOAT8, WATERMARK FOR k AS k - INTERVAL '1' MINUTE)
WITH (connector = 'http', idle_after = '1 minute', future_limit = '90 s',);
CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT l, window_start, sum(c) AS c, sum(b) AS b, sum(g) AS g, avg(c) AS mean, max(l) AS day, max(i) AS i, min(h) AS h, max(k) AS latest
FROM TUMBLE(types, k, INTERVAL '1 day') GROUP BY l, window_start;
