CREATE SOURCE readings (
    device TEXT, v BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (connector = 'http');

CREATE MATERIALIZED VIEW a AS SELECT readings.v FROM readings AS r;
