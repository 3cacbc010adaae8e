-- Heard in 10 s on #: 2 messages (0.2 a second) on 2 topics.
-- Only 2 readings: look at types and NOT NULL before you rely on them.
-- timestamp is behind the arrival by 0.1 s mostly, 0.2 s for 99 % of the readings, 0.2 s at most.

CREATE SOURCE readings (
    -- temp: another field differs from it in capital letters only
    -- a b: no column can be called so
    -- x�); DROP: no column can be called so
    -- $: no column can be called so
    "Temp"       DOUBLE NOT NULL,
    "order"      TEXT NOT NULL,
    n            DOUBLE NOT NULL,
    window_start DOUBLE NOT NULL,
    level4       DOUBLE NOT NULL,
    timestamp    TIMESTAMP NOT NULL,
    n_           DOUBLE NOT NULL,
    WATERMARK FOR timestamp AS timestamp - INTERVAL '1 second'
) WITH (
    connector = 'mqtt',
    url       = 'mqtt://localhost',
    topic     = 'o''brien/+/+/{topic_level4}',
    qos       = 1   -- acknowledged after it is on the disk
);

CREATE MATERIALIZED VIEW readings_1m AS
SELECT topic_level4, window_start, window_end,
       count(*)    AS n,
       avg("Temp") AS "Temp_avg",
       min("Temp") AS "Temp_min",
       max("Temp") AS "Temp_max",
       avg(n)      AS n_avg,
       min(n)      AS n_min,
       max(n)      AS n_max,
       avg(level4) AS level4_avg,
       min(level4) AS level4_min,
       max(level4) AS level4_max,
       avg(n_)     AS n__avg,
       min(n_)     AS n__min,
       max(n_)     AS n__max
FROM   TUMBLE(readings, timestamp, INTERVAL '1 minute')
GROUP  BY topic_level4, window_start, window_end;
