CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT window_start FROM TUMBLE(readings, ts, INTERVAL '1 month') GROUP BY window_start;
CREATE MATERIALIZED VIEW b AS SELECT window_start FROM TUMBLE(readings, ts, '1 minute') GROUP BY window_start;
CREATE MATERIALIZED VIEW c AS SELECT window_start FROM TUMBLE(readings, ts, INTERVAL '0 seconds') GROUP BY window_start;
CREATE MATERIALIZED VIEW d AS SELECT window_start FROM TUMBLE(readings, ts) GROUP BY window_start;
