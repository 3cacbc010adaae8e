CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

-- Written the wrong way round: the order does not matter.
CREATE MATERIALIZED VIEW hour AS
SELECT device, window_start, window_end, max(avg_c) AS hottest, sum(n) AS n
FROM TUMBLE(minute, window_start, INTERVAL '1 hour') GROUP BY device, window_start, window_end;

CREATE MATERIALIZED VIEW minute AS
SELECT device, window_start, window_end, count(*) AS n, avg(temperature) AS avg_c
FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, window_end;
