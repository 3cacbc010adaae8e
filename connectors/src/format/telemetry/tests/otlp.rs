//! OTLP, from JSON as the specification shows it and from the same in protobuf; other tests have it from real clients.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;

/// Every kind of metric, in the JSON of OTLP: some numbers as text, as the specification wants, and some not.
fn metrics() -> Value {
    let attributes = |value: &str| json!([{"key": "host", "value": {"stringValue": value}}]);
    json!({"resourceMetrics": [{
        "resource": {"attributes": [
            {"key": "service.name", "value": {"stringValue": "pump"}},
            {"key": "host", "value": {"stringValue": "of the resource"}}
        ]},
        "scopeMetrics": [{
            "scope": {"name": "meter", "version": "1"},
            "metrics": [
                {"name": "temperature", "unit": "Cel", "gauge": {"dataPoints": [
                    {"asDouble": 20.5, "timeUnixNano": "1700000000000000999", "attributes": attributes("a")},
                    {"asInt": "-3", "timeUnixNano": 1000},
                    {"timeUnixNano": "2000", "flags": 1, "asDouble": 7.0}
                ]}},
                {"name": "requests", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
                    {"asInt": 12, "startTimeUnixNano": "1000", "attributes": attributes("b")}
                ]}},
                {"name": "rtt", "unit": "s", "histogram": {"aggregationTemporality": 1, "dataPoints": [
                    {"count": "6", "sum": 9.5, "min": 0.25, "max": 4.0, "bucketCounts": ["1", "2", "3"],
                     "explicitBounds": [0.5, 1.0], "timeUnixNano": "3000"}
                ]}},
                {"name": "size", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [
                    {"count": 7, "sum": 1.0, "scale": 0, "zeroCount": "1", "zeroThreshold": 0.0,
                     "positive": {"offset": 1, "bucketCounts": ["2", "0", "3"]},
                     "negative": {"offset": 0, "bucketCounts": [1]}, "timeUnixNano": "4000"}
                ]}},
                {"name": "latency", "summary": {"dataPoints": [
                    {"count": "2", "sum": 3.0, "timeUnixNano": "5000",
                     "quantileValues": [{"quantile": 0.5, "value": 1.0}, {"quantile": 1.0, "value": 2.0}]}
                ]}}
            ]
        }]
    }]})
}

fn both(protocol: Protocol, columns: &[Field], json: &Value, protobuf: Vec<u8>) -> Vec<String> {
    let from_json = rows(protocol, columns, json.to_string());
    assert_eq!(rows(protocol, columns, format!("\n {json}")), from_json, "JSON behind a line end");
    assert_eq!(rows(protocol, columns, protobuf), from_json);
    from_json
}

fn protobuf(json: &Value) -> Vec<u8> {
    serde_json::from_value::<ExportMetricsServiceRequest>(json.clone()).expect("OTLP").encode_to_vec()
}

#[test]
fn a_data_point_is_a_row_with_the_attributes_of_its_resource_behind_its_own() {
    let columns = [
        text("metric"),
        text("type"),
        double("value"),
        time("ts"),
        text("host"),
        text("service_name"),
        map("attributes"),
    ];
    let shown = both(Protocol::OtlpMetrics, &columns, &metrics(), protobuf(&metrics()));
    assert_eq!(
        shown,
        [
            "temperature gauge 20.5 1700000000000000 a pump {host: a}",
            "temperature gauge -3.0 1 of the resource pump {}",
            "temperature gauge - 2 of the resource pump {}",
            "requests sum 12.0 1000 b pump {host: b}",
            "rtt histogram - 3 of the resource pump {}",
            "size exponential_histogram - 4 of the resource pump {}",
            "latency summary - 5 of the resource pump {}",
        ]
    );
}

#[test]
fn what_a_metric_says_of_itself_has_columns() {
    let columns = [
        text("metric"),
        text("unit"),
        text("temporality"),
        Field::new("monotonic", DataType::Boolean, true),
        Field::new("count", DataType::Int64, true),
        double("sum"),
        double("min"),
        double("max"),
        time("start_ts"),
        map("resource"),
        text("scope"),
    ];
    let shown = both(Protocol::OtlpMetrics, &columns, &metrics(), protobuf(&metrics()));
    let resource = "{host: of the resource, service.name: pump} meter";
    assert_eq!(shown[0], format!("temperature Cel - - - - - - - {resource}"));
    assert_eq!(shown[3], format!("requests - cumulative true - - - - 1 {resource}"));
    assert_eq!(shown[4], format!("rtt s delta - 6 9.5 0.25 4.0 - {resource}"));
    assert_eq!(shown[6], format!("latency - - - 2 3.0 - - - {resource}"));
}

#[test]
fn buckets_and_quantiles_are_rows_where_their_columns_are_declared() {
    let columns = [text("metric"), double("value"), double("le"), double("quantile")];
    let shown = both(Protocol::OtlpMetrics, &columns, &metrics(), protobuf(&metrics()));
    assert_eq!(
        shown[4..],
        [
            "rtt - - -",
            "rtt_bucket 1.0 0.5 -",
            "rtt_bucket 3.0 1.0 -",
            "rtt_bucket 6.0 inf -",
            "size - - -",
            "size_bucket 1.0 -1.0 -",
            "size_bucket 2.0 0.0 -",
            "size_bucket 4.0 4.0 -",
            "size_bucket 7.0 16.0 -",
            "size_bucket 7.0 inf -",
            "latency - - -",
            "latency 1.0 - 0.5",
            "latency 2.0 - 1.0",
        ]
    );
}

#[test]
fn a_log_record_is_a_row() {
    let request = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "pump"}}]},
        "scopeLogs": [{"scope": {"name": "log"}, "logRecords": [
            {"timeUnixNano": "5000", "observedTimeUnixNano": "6000", "severityNumber": 10, "severityText": "Information",
             "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
             "body": {"stringValue": "started"}, "attributes": [
                {"key": "port", "value": {"intValue": "8080"}}, {"key": "tls", "value": {"boolValue": true}}]},
            {"observedTimeUnixNano": "7000", "severityNumber": 17, "eventName": "failed",
             "body": {"kvlistValue": {"values": [
                {"key": "a", "value": {"arrayValue": {"values": [{"intValue": 1}, {"doubleValue": 0.5}]}}}]}}},
            {"attributes": [{"key": "empty", "value": {}}]}
        ]}]
    }]});
    let columns = [
        time("ts"),
        time("observed_ts"),
        text("severity"),
        Field::new("severity_number", DataType::Int32, true),
        text("body"),
        text("event_name"),
        text("trace_id"),
        text("span_id"),
        Field::new("port", DataType::Int64, true),
        text("service_name"),
        map("attributes"),
        text("scope"),
    ];
    let protobuf = serde_json::from_value::<ExportLogsServiceRequest>(request.clone()).expect("OTLP").encode_to_vec();
    assert_eq!(
        both(Protocol::OtlpLogs, &columns, &request, protobuf),
        [
            "5 6 Information 10 started - 5b8efff798038103d269b633813fc60c eee19b7ec3c1b174 8080 pump \
             {port: 8080, tls: true} log",
            "7 7 ERROR 17 {\"a\":[1,0.5]} failed - - - pump {} log",
            "1000 - - - - - - - - pump {empty: } log",
        ]
    );
}

#[test]
fn a_point_that_does_not_fit_is_a_dead_letter_in_json() {
    let columns = [text("metric"), Field::new("value", DataType::Int64, false)];
    let decoded = decode(Protocol::OtlpMetrics, &columns, vec![Message::new("", protobuf(&metrics()))]);
    assert_eq!(shown(&decoded), ["temperature -3", "requests 12"]);
    let reasons: Vec<&str> = decoded.dead.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons[0], "column value: expected a whole number (BIGINT), but 20.5 is not a whole number");
    assert_eq!(reasons[1], "column value: missing or null, but declared NOT NULL");
    assert_eq!(reasons.len(), 5);
    let first: Value = serde_json::from_slice(&decoded.dead[0].payload).expect("JSON");
    assert_eq!((&first["asDouble"], &first["timeUnixNano"]), (&json!(20.5), &json!("1700000000000000999")));
    let odd = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
        {"name": "h", "histogram": {"dataPoints": [{"count": 1, "bucketCounts": [1], "explicitBounds": [1.0]}]}},
        {"name": "e", "exponentialHistogram": {"dataPoints": [{"scale": i32::MIN}]}},
        {"name": "nothing"}
    ]}]}]});
    let decoded = decode(Protocol::OtlpMetrics, &[text("metric")], vec![Message::new("", odd.to_string())]);
    assert_eq!(decoded.dead[0].reason, "a histogram has 1 boundaries and 1 counts");
    assert!(decoded.dead[1].reason.contains("scale -2147483648 is not known"), "{}", decoded.dead[1].reason);
    assert!(decoded.batches.is_empty());
}

#[test]
fn what_is_no_request_says_why() {
    for (body, reason) in [
        (&b"{\"resourceMetrics\": 7}"[..], "not OTLP in JSON: invalid type: integer `7`"),
        (b"{\"resourceMetrics\": [", "not OTLP in JSON: EOF while parsing"),
        (b"\x0a\x05abc", "not OTLP in protobuf: failed to decode Protobuf message"),
        (b"hello", "not OTLP in protobuf"),
    ] {
        let problem = Protocol::OtlpMetrics.check_body(body).expect_err("refused");
        assert!(problem.contains(reason), "{problem}");
        let decoded = decode(Protocol::OtlpMetrics, &[text("metric")], vec![Message::new("", body.to_vec())]);
        assert_eq!((decoded.batches.len(), decoded.dead[0].reason.as_str()), (0, problem.as_str()));
    }
}

#[test]
fn fuzz_otlp_metrics() {
    let columns = [text("metric"), double("value"), double("le"), double("quantile"), map("attributes"), time("ts")];
    let good =
        br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{"asInt":1}]}}]}]}]}"#;
    decodes_anything(Protocol::OtlpMetrics, &columns, good, "otlp_metrics");
}

#[test]
fn fuzz_otlp_logs() {
    let columns = [text("severity"), text("body"), map("attributes"), map("resource"), time("ts"), text("trace_id")];
    let good = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}"#;
    decodes_anything(Protocol::OtlpLogs, &columns, good, "otlp_logs");
}
