CREATE TABLE readings (a DOUBLE) WITH (connector = 'http');
