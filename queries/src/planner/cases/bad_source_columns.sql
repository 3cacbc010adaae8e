CREATE SOURCE a (b DUBLE) WITH (connector = 'http');
CREATE SOURCE c (d DECIMAL(10, 2)) WITH (connector = 'http');
CREATE SOURCE e (f TEXT PRIMARY KEY) WITH (connector = 'http');
CREATE SOURCE g (h TEXT, h DOUBLE) WITH (connector = 'http');
CREATE SOURCE i (j TEXT WITH (connector = 'http');
