-- Each of these has a mistake in its metadata.
CREATE SOURCE a (x TEXT METADATA FROM 'topik') WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't');
CREATE SOURCE b (x TEXT METADATA FROM 'weather') WITH (connector = 'http');
CREATE SOURCE c (topic TEXT METADATA) WITH (connector = 'http');
CREATE SOURCE d (qos TEXT METADATA) WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't');
CREATE SOURCE e (heard BIGINT METADATA FROM 'arrival_time') WITH (connector = 'http');
CREATE SOURCE f (x TEXT METADATA FROM topic) WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't');
CREATE SOURCE g (topic TEXT METADATA METADATA) WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't');
CREATE SOURCE h (topic TEXT METADATA FROM 'topic' VIRTUAL) WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't');
CREATE SOURCE i (x MAP<TEXT, DOUBLE>) WITH (connector = 'http');
CREATE SOURCE j (x BYTES) WITH (connector = 'http');
CREATE SOURCE k (x TEXT METADATA FROM 'path') WITH (connector = 'generate');
CREATE SOURCE l (site TEXT METADATA FROM 'topic') WITH (connector = 'mqtt', url = 'mqtt://h', topic = 'plant/{site}');
CREATE SOURCE m (p MAP<TEXT, TEXT> METADATA FROM 'user_properties', ts TIMESTAMP, WATERMARK FOR ts AS ts)
WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't');
CREATE MATERIALIZED VIEW n AS SELECT p, window_start, count(*) AS n FROM TUMBLE(m, ts, INTERVAL '1 minute') GROUP BY p, window_start;
CREATE MATERIALIZED VIEW o AS SELECT window_start, max(p) AS n FROM TUMBLE(m, ts, INTERVAL '1 minute') GROUP BY window_start;
