CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v AS
SELECT upper(site) AS place, window_start, max(temperature) AS hottest
FROM TUMBLE(readings, ts, INTERVAL '1 hour') GROUP BY place, 2;
