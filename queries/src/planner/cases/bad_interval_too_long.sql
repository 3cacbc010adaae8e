CREATE SOURCE readings (
    device TEXT, v BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '99999999 days'
) WITH (connector = 'http');

CREATE SOURCE other (
    device TEXT, v BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (connector = 'http');

CREATE MATERIALIZED VIEW a AS
SELECT count(*) AS n FROM TUMBLE(other, ts, INTERVAL '36601 days') GROUP BY window_start;
CREATE MATERIALIZED VIEW b AS
SELECT count(*) AS n FROM HOP(other, ts, INTERVAL '1 day', INTERVAL '106000000 days') GROUP BY window_start;
CREATE MATERIALIZED VIEW c AS
SELECT count(*) AS n FROM TUMBLE(other, ts, INTERVAL '10 secnods') GROUP BY window_start;
CREATE MATERIALIZED VIEW d AS
SELECT count(*) AS n FROM TUMBLE(other, ts, INTERVAL '') GROUP BY window_start;
