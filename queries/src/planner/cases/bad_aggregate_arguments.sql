CREATE SOURCE readings (
    device TEXT, v BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (connector = 'http');

CREATE MATERIALIZED VIEW v0 AS SELECT count(device, v) AS a FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start;
CREATE MATERIALIZED VIEW v1 AS SELECT sum(*) AS a FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start;
CREATE MATERIALIZED VIEW v2 AS SELECT sum() AS a FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start;
CREATE MATERIALIZED VIEW v3 AS SELECT max(v, x) AS a FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start;
CREATE MATERIALIZED VIEW v4 AS SELECT sum(avg(x)) AS a FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start;
