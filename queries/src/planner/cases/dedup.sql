CREATE SOURCE readings (
    id BIGINT NOT NULL, temperature DOUBLE, ts TIMESTAMP,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds',
    DEDUP KEY (site, id) WITHIN INTERVAL '10 minutes'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}');

CREATE SOURCE calls ("Id" TEXT, dedup TEXT, DEDUP KEY ("Id") WITHIN INTERVAL '1' DAY)
WITH (connector = 'http');

CREATE MATERIALIZED VIEW raw AS SELECT * FROM readings;
CREATE MATERIALIZED VIEW once AS SELECT "Id" FROM calls;
CREATE MATERIALIZED VIEW room AS
SELECT site, window_end, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '1 minute') WHERE temperature > 0
GROUP BY site, window_end;
