-- Columns of metadata stand where they are declared; what every message has is never null.
CREATE SOURCE readings (
    heard       TIMESTAMP METADATA FROM 'arrival_time',
    temperature DOUBLE NOT NULL,
    user_properties MAP<TEXT, TEXT> METADATA,
    "from"      TEXT METADATA FROM 'topic',
    qos         TINYINT METADATA NOT NULL,
    kind        TEXT NOT NULL METADATA FROM 'content_type',
    correlation_data BYTES METADATA,
    place       BIGINT METADATA FROM 'position',
    WATERMARK FOR heard AS heard - INTERVAL '1 second'
) WITH (connector = 'mqtt', url = 'mqtt://localhost', topic = 'plant/{site}/#');

CREATE MATERIALIZED VIEW raw AS
SELECT *, user_properties['line'] AS line FROM readings WHERE user_properties['line'] <> 'test';

CREATE MATERIALIZED VIEW per_line AS
SELECT user_properties['line'] AS line, window_start, count(*) AS n, count(user_properties) AS maps
FROM TUMBLE(readings, heard, INTERVAL '1 minute') GROUP BY user_properties['line'], window_start;
