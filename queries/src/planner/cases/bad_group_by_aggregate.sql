CREATE SOURCE readings (
    device TEXT, v BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (connector = 'http');

CREATE MATERIALIZED VIEW a AS
SELECT device, window_start, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '10 seconds')
GROUP BY 1, 2, 3;
CREATE MATERIALIZED VIEW b AS
SELECT device, window_start, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '10 seconds')
GROUP BY 1, 2, n;
