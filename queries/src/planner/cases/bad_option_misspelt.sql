CREATE SOURCE readings (
    device TEXT, v BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '2 seconds'
) WITH (conector = 'http');

CRAETE SOURCE b (a INT) WITH (connector = 'http');
HELLO;
