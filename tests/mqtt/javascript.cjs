// MQTT.js publishes numbered messages: node javascript.cjs PORT VERSION QOS COUNT
// It keeps its session, connects again by itself, and ends when every message is acknowledged.
const mqtt = require("mqtt");
const [port, protocolVersion, qos, count] = process.argv.slice(2).map(Number);

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

const waiting = Array.from({ length: count }, (_, seq) => seq);
let underWay = 0;
client.once("connect", () => {
  const timer = setInterval(() => {
    // Only what a session can hold is under way at once.
    for (let burst = 0; burst < 5 && waiting.length > 0 && underWay < 60; burst++) {
      const seq = waiting.shift();
      underWay++;
      client.publish(`js/${protocolVersion}/${qos}`, JSON.stringify({ seq }), { qos }, (error) => {
        underWay--;
        // It was not sent, nor will be: the connection broke while the session was being resumed.
        if (error) waiting.push(seq);
      });
    }
    if (waiting.length === 0 && underWay === 0) {
      clearInterval(timer);
      client.end(false, () => process.exit(0));
    }
  }, 4);
});
