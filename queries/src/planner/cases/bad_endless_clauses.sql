CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT DISTINCT device FROM readings;
CREATE MATERIALIZED VIEW b AS SELECT device FROM readings ORDER BY device;
CREATE MATERIALIZED VIEW c AS SELECT device FROM readings LIMIT 5;
CREATE MATERIALIZED VIEW d AS SELECT device FROM readings UNION ALL SELECT site FROM readings;
CREATE MATERIALIZED VIEW e AS WITH x AS (SELECT device FROM readings) SELECT device FROM x;
CREATE MATERIALIZED VIEW f AS SELECT device FROM (SELECT device FROM readings) x;
CREATE MATERIALIZED VIEW g AS SELECT device FROM readings WHERE temperature > (SELECT max(humidity) FROM readings);
