CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT window_start, count(DISTINCT device) AS n FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start;
CREATE MATERIALIZED VIEW b AS SELECT window_start, approx_percentile_cont(temperature, 0.95) AS p FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start;
CREATE MATERIALIZED VIEW c AS SELECT device, row_number() OVER (PARTITION BY device) AS n FROM readings;
CREATE MATERIALIZED VIEW d AS SELECT device, window_start, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY ROLLUP (device, window_start);
