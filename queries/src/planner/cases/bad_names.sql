CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW readings AS SELECT device FROM readings;
CREATE MATERIALIZED VIEW my$view AS SELECT device FROM readings;
CREATE MATERIALIZED VIEW "../etc" AS SELECT device FROM readings;
CREATE MATERIALIZED VIEW v AS SELECT reason FROM readings$dead;
CREATE MATERIALIZED VIEW public.w AS SELECT device FROM readings;
