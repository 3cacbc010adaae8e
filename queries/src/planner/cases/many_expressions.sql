CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v0 AS SELECT device, window_start, avg(temperature) AS c FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start HAVING c > 5;
CREATE MATERIALIZED VIEW v1 AS SELECT device, window_start, count(*) * 1.0 / 60 AS rate, round(avg(temperature), 1) AS c FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start;
CREATE MATERIALIZED VIEW v2 AS SELECT date_part('hour', ts) AS h, extract(minute FROM ts) AS m, substring(device FROM 1 FOR 3) AS s, site || '/' || device AS path, ts FROM readings WHERE ts BETWEEN '2026-01-01' AND '2027-01-01' AND device ~ '^f';
CREATE MATERIALIZED VIEW v3 AS SELECT to_timestamp_millis(seq) AS at, CAST(seq AS TIMESTAMP) AS at2, temperature::BIGINT AS t, TRY_CAST(device AS INT) AS n, arrow_cast(temperature, 'Float32') AS f, arrow_typeof(ok) AS ty FROM readings WHERE true;
CREATE MATERIALIZED VIEW v4 AS SELECT upper(device) AS device, window_start, count(1) AS a, sum(1) AS b, sum(temperature * 2) / count(*) AS d, avg(temperature) FILTER (WHERE ok) AS e FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY upper(device), window_start;
CREATE MATERIALIZED VIEW v5 AS SELECT temperature > 5 AS warm, window_start AS start, window_end AS stop, max(ts) AS latest FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY temperature > 5, window_start, window_end HAVING max(temperature) - min(temperature) > 5 AND (temperature > 5) IS NOT NULL;
CREATE MATERIALIZED VIEW v6 AS SELECT device, window_end FROM TUMBLE("readings", "ts", INTERVAL '1 minute') AS w GROUP BY w.device, window_end;
CREATE MATERIALIZED VIEW v7 AS SELECT t.* FROM readings AS t WHERE coalesce(t.ok, false) AND nullif(site, 'x') IS NOT NULL;