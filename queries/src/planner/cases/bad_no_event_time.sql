CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE SOURCE lines (level TEXT, at TIMESTAMP) WITH (connector = 'http');
CREATE MATERIALIZED VIEW v AS
SELECT level, window_start, count(*) AS n FROM TUMBLE(lines, at, INTERVAL '1 minute') GROUP BY level, window_start;
