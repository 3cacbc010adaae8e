-- A secret is written once, before or after its source, and is nowhere in the plan.
CREATE SOURCE readings (v DOUBLE) WITH (connector = 'mqtt', url = 'mqtts://broker.example.com', topic = 'plant/{site}', secret = 'broker', 'tls.ca' = 'ca.pem');
CREATE SECRET broker (TYPE mqtt, USERNAME 'tide', PASSWORD ENV 'MQTT_PASSWORD');
CREATE SECRET other (type MQTT, username FILE 'secrets/name', password 'hunter2');
CREATE SOURCE plain (v DOUBLE) WITH (connector = 'mqtt', url = 'mqtt://broker.example.com', topic = 'plant', secret = 'other');
CREATE MATERIALIZED VIEW kept AS SELECT site, v FROM readings;
