CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW warm AS SELECT device, ts AS at, temperature AS t FROM readings WHERE temperature > 0;
CREATE MATERIALIZED VIEW per_minute AS SELECT device, window_end, count(*) AS n
FROM TUMBLE(warm, at, INTERVAL '1 minute') GROUP BY device, window_end;
