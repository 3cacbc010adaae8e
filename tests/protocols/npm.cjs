// Libraries of npm send to the program: node npm.cjs HTTP_PORT
const { InfluxDB, Point } = require("@influxdata/influxdb-client");
const influx = require("influx");
const { pushTimeseries } = require("prometheus-remote-write");
const { MeterProvider, PeriodicExportingMetricReader } = require("@opentelemetry/sdk-metrics");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const json = require("@opentelemetry/exporter-metrics-otlp-http");
const proto = require("@opentelemetry/exporter-metrics-otlp-proto");

const port = Number(process.argv[2]);
const base = `http://127.0.0.1:${port}`;
const begin = 1_700_000_000_000;
// The libraries wait for ten seconds, which is not much beside other tests.
const PATIENCE_MS = 60_000;

async function influxOfBothVersions() {
  const writer = new InfluxDB({ url: `${base}/influx`, token: "any", timeout: PATIENCE_MS }).getWriteApi("any", "cpu", "ms", { batchSize: 300 });
  for (let n = 0; n < 1_000; n++) {
    writer.writePoint(new Point("two").tag("host", `h ${n % 3}`).floatField("usage", n / 4).timestamp(begin + n));
  }
  await writer.close();
  const one = new influx.InfluxDB({ host: "127.0.0.1", port, path: "/influx", database: "cpu" });
  await one.writePoints([
    { measurement: "one", tags: { host: "a,b" }, fields: { usage: 1.5, text: 'say "x"' }, timestamp: new Date(begin) },
    { measurement: "one", tags: { host: "c" }, fields: { usage: 2 }, timestamp: new Date(begin + 1) },
  ]);
}

async function remoteWrite() {
  const series = (instance, values) => ({
    labels: { __name__: "up", job: "npm", instance },
    samples: values.map((value, n) => ({ value, timestamp: begin + n * 1_000 })),
  });
  const result = await pushTimeseries([series("x", [1, 0]), series("y", [1])], { url: `${base}/prom/api/v1/write`, fetch });
  if (result.errorMessage || result.status >= 300) throw new Error(JSON.stringify(result));
}

async function openTelemetry(room, Exporter) {
  const exporter = new Exporter({ url: `${base}/otlp/v1/metrics`, timeoutMillis: PATIENCE_MS });
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 600_000, exportTimeoutMillis: PATIENCE_MS });
  const resource = resourceFromAttributes({ "service.name": "npm" });
  const meter = new MeterProvider({ resource, readers: [reader] }).getMeter("test");
  meter.createCounter("requests").add(3, { room });
  meter.createHistogram("rtt").record(0.25, { room });
  // It exports once more.
  await reader.shutdown();
}

async function main() {
  await influxOfBothVersions();
  await remoteWrite();
  await openTelemetry("json", json.OTLPMetricExporter);
  await openTelemetry("proto", proto.OTLPMetricExporter);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
