CREATE SOURCE a (b TEXT) WITH (connector = 'http);
