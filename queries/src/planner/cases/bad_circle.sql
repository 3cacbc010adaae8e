CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW a AS SELECT device FROM b;
CREATE MATERIALIZED VIEW b AS SELECT device FROM c;
CREATE MATERIALIZED VIEW c AS SELECT device FROM a;
CREATE MATERIALIZED VIEW d AS SELECT device FROM a;
