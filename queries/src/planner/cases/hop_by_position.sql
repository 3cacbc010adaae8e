CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v AS
SELECT device, window_start, window_end, avg(temperature) AS c
FROM HOP(readings, ts, INTERVAL '10 seconds', INTERVAL '1 minute') AS h GROUP BY h.device, h.window_start, h.window_end;
