CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT device, date_trunc('second', ts) AS ts FROM readings;
CREATE MATERIALIZED VIEW v AS
SELECT window_start, count(*) AS n FROM TUMBLE(a, ts, INTERVAL '1 minute') GROUP BY window_start;
