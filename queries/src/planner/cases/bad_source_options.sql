CREATE SOURCE a (b TEXT) WITH (connector = 'mqtt', tpic = 'x', url = 'mqtt://h', topic = 'y');
CREATE SOURCE c (b TEXT) WITH (connector = 'mqtt', url = 'mqtt://h', topic = 't', qos = 'high');
CREATE SOURCE d (b TEXT) WITH (connector = 'mqtt', url = 'mqtt://h');
CREATE SOURCE e (b TEXT) WITH (connector = 'mqqt');
CREATE SOURCE f (b TEXT);
CREATE SOURCE g (b TEXT) WITH (connector = http);
CREATE SOURCE h (b TEXT) WITH (connector = 'http', idle_after = 'soon');
CREATE SOURCE i (b TEXT) WITH (connector = 'http', Connector = 'http');
