-- Of each mistake one line, and none of what reads what is broken.
CREATE SOURCE readings (device TEXT, c DOUBLE) WITH (connector = 'htpp');
CREATE MATERIALIZED VIEW warm AS SELECT device, c FROM readings WHERE c > 0;
CREATE MATERIALIZED VIEW hot AS SELECT device, c FROM warm WHERE c > 30;
CREATE MATERIALIZED VIEW cold AS SELECT device, c FROM nothing;
CREATE SINK warm_out FROM warm WITH (connector = 'stdout');
CREATE SINK hot_out FROM hot WITH (connector = 'stdout');
CREATE SINK cold_out FROM cold WITH (connector = 'stdout');
CREATE SINK none_out FROM none WITH (connector = 'stdout');
