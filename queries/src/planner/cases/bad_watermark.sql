CREATE SOURCE a (ts TIMESTAMP, WATERMARK FOR tss AS tss) WITH (connector = 'http');
CREATE SOURCE b (ts DOUBLE, WATERMARK FOR ts AS ts) WITH (connector = 'http');
CREATE SOURCE c (ts TIMESTAMP, WATERMARK FOR ts AS ts + INTERVAL '1 second') WITH (connector = 'http');
CREATE SOURCE d (ts TIMESTAMP, WATERMARK FOR ts AS ts - 10) WITH (connector = 'http');
