// MQTT.js publishes numbered messages until a file exists: node javascript.cjs PORT VERSION QOS FILE
// It keeps its session, connects again by itself, ends when every message is acknowledged, and prints how many they were.
const fs = require("fs");
const mqtt = require("mqtt");
const [port, protocolVersion, qos] = process.argv.slice(2, 5).map(Number);
const enough = process.argv[5];

const client = mqtt.connect({
  host: "127.0.0.1",
  port,
  protocolVersion,
  clientId: `js-${protocolVersion}-${qos}`,
  clean: false,
  properties: protocolVersion === 5 ? { sessionExpiryInterval: 3600 } : undefined,
  reconnectPeriod: 50,
  connectTimeout: 10_000,
});
client.on("error", (error) => console.error(String(error)));

const again = [];
let next = 0;
let underWay = 0;
client.once("connect", () => {
  const timer = setInterval(() => {
    const ends = fs.existsSync(enough);
    // Only what a session can hold is under way at once.
    for (let burst = 0; burst < 5 && (again.length > 0 || !ends) && underWay < 60; burst++) {
      const seq = again.shift() ?? next++;
      underWay++;
      client.publish(`js/${protocolVersion}/${qos}`, JSON.stringify({ seq }), { qos }, (error) => {
        underWay--;
        // It was not sent, nor will be: the connection broke while the session was being resumed.
        if (error) again.push(seq);
      });
    }
    if (ends && again.length === 0 && underWay === 0) {
      clearInterval(timer);
      client.end(false, () => {
        console.log(next);
        process.exit(0);
      });
    }
  }, 4);
});
