CREATE SOURCE readings (
    temperature DOUBLE NOT NULL,
    humidity    DOUBLE,
    ok          BOOLEAN,
    seq         BIGINT,
    ts          TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/{device}/telemetry');

CREATE MATERIALIZED VIEW v0 AS SELECT window_start, avg(avg(temperature)) AS c FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start;
CREATE MATERIALIZED VIEW v1 AS SELECT window_start FROM TUMBLE(readings, ts, INTERVAL '1 minute') WHERE count(*) > 3 GROUP BY window_start;
CREATE MATERIALIZED VIEW v2 AS SELECT device, window_start FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, temprature;
CREATE MATERIALIZED VIEW v3 AS SELECT device, window_start FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY 1, 7;
CREATE MATERIALIZED VIEW v4 AS SELECT device, window_start, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start HAVING m > 3;
CREATE MATERIALIZED VIEW v5 AS SELECT window_start, sum(ok) AS s FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start;
CREATE MATERIALIZED VIEW v6 AS SELECT window_start FROM TUMBLE(readngs, ts, INTERVAL '1 minute') GROUP BY window_start;
CREATE MATERIALIZED VIEW v7 AS SELECT device, 1/0 AS x FROM readings;
CREATE MATERIALIZED VIEW v8 AS SELECT window_start, window_end - window_start AS w FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end;
CREATE MATERIALIZED VIEW v9 AS SELECT device, CAST(temperature AS DUBLE) AS x FROM readings;
CREATE MATERIALIZED VIEW v10 AS SELECT named_struct('a', device) AS x FROM readings;
CREATE MATERIALIZED VIEW v11 AS SELECT device FROM readings WHERE device = 5 AND ok > 'x' + 1;
CREATE MATERIALIZED VIEW v12 AS SELECT device FROM tumble(readings, ts);
CREATE MATERIALIZED VIEW v13 AS SELECT device FROM readings, readings b;
CREATE MATERIALIZED VIEW v14 AS SELECT device, window_start FROM readings;
CREATE MATERIALIZED VIEW v15 AS SELECT device, tumble_start(ts, INTERVAL '1 minute') AS s FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start;
CREATE MATERIALIZED VIEW v16 AS SELECT device FROM (VALUES (1)) AS x(device);
CREATE MATERIALIZED VIEW v17 AS SELECT device FROM generate_series(1, 5);
CREATE MATERIALIZED VIEW v18 AS SELECT upper(device, 5) AS x FROM readings;
CREATE MATERIALIZED VIEW v19 AS SELECT device,, site FROM readings;
CREATE MATERIALIZED VIEW v20 AS SELECT device, window_start, min(device || 5) AS x, max(interval '1 day') AS y FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start;