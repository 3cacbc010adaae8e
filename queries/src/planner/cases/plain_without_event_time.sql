CREATE SOURCE lines (level TEXT, message TEXT) WITH (connector = 'http');
CREATE MATERIALIZED VIEW errors AS SELECT message FROM lines WHERE level = 'error';
