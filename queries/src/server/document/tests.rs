//! The status, member by member, and beside its description.

use std::collections::BTreeSet;

use tidemill_engine::epoch::Epoch;

use super::*;
use crate::server::openapi;

fn document(service: &ServiceStatus) -> Value {
    json!(Document::of(service))
}

#[test]
fn the_state_of_the_service_is_one_word() {
    let job = |change: fn(&mut JobStatus)| {
        let mut job = JobStatus::default();
        change(&mut job);
        Some(job)
    };
    let read_only = || Some(ReadOnly { reason: "disk full".into(), since_us: 0 });
    for (job, read_only, state) in [
        (None, None, "starting"),
        (job(|_| ()), None, "running"),
        (job(|job| job.finished = true), None, "finished"),
        (job(|job| job.failure = Some("a bug".into())), None, "failed"),
        (job(|job| job.failure = Some("disk full".into())), read_only(), "read_only"),
        (None, read_only(), "read_only"),
    ] {
        let document = document(&ServiceStatus { job, read_only: read_only.clone(), ..ServiceStatus::default() });
        assert_eq!(document["state"], state);
        assert_eq!(document["read_only"]["reason"].as_str(), read_only.map(|_| "disk full"));
    }
}

#[test]
fn status_shows_watermarks_as_times() {
    let watermarked = |watermark| SourceStatus { watermark, ..SourceStatus::default() };
    let status = JobStatus {
        sources: vec![
            watermarked(Some(Watermark(1_500_000))),
            watermarked(Some(Watermark::END)),
            watermarked(Some(Watermark::UNKNOWN)),
            watermarked(None),
        ],
        tables: vec![TableStatus { name: "t".into(), rows: 3, committed: Epoch(7) }],
        ..JobStatus::default()
    };
    let document = document(&ServiceStatus { job: Some(status), ..ServiceStatus::default() });
    let shown: Vec<&Value> = (0..4).map(|n| &document["sources"][n]["watermark"]).collect();
    assert_eq!(shown, [&json!("1970-01-01T00:00:01.500Z"), &json!("end"), &Value::Null, &Value::Null]);
    assert_eq!(document["tables"][0], json!({"name": "t", "rows": 3, "committed_epoch": 7}));
}

/// Goes through a value beside its description, and collects the descriptions that were seen.
fn is_described(value: &Value, schema: &Value, schemas: &Value, seen: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        seen.insert(name.to_owned());
        return is_described(value, &schemas[name], schemas, seen);
    }
    if let Some(either) = schema["anyOf"].as_array() {
        let not_null = Some(&either[0]).filter(|_| !value.is_null());
        return not_null.into_iter().for_each(|schema| is_described(value, schema, schemas, seen));
    }
    if let Some(words) = schema["enum"].as_array() {
        return assert!(words.contains(value), "{value} is none of {words:?}");
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let described = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                assert!(described.is_object(), "{name} is not described");
                is_described(member, described, schemas, seen);
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(members.contains_key(name.as_str().expect("a name")), "{name} is not there");
            }
        }
        Value::Array(items) => items.iter().for_each(|item| is_described(item, &schema["items"], schemas, seen)),
        Value::Null => assert!(schema["type"].as_array().is_some_and(|types| types.contains(&json!("null")))),
        Value::String(_) => assert!(schema["type"].to_string().contains("string"), "{schema}"),
        Value::Bool(_) => assert_eq!(schema["type"], "boolean"),
        Value::Number(_) => assert!(schema["type"] == "integer" || schema["type"] == "number", "{schema}"),
    }
}

#[test]
fn every_member_of_the_status_is_described() {
    let target = TargetStatus {
        target: "http://a".into(),
        connected: true,
        breaker: BreakerState::HalfOpen.word(),
        breaker_level: 1,
        failures: 2,
        error: Some("no answer".into()),
    };
    let source = SourceStatus {
        name: "readings".into(),
        errors: vec![("too_large", 1)],
        watermark: Some(Watermark(0)),
        targets: vec![target],
        ..SourceStatus::default()
    };
    let job = JobStatus {
        sources: vec![source],
        windows: vec![WindowStatus::default()],
        dedups: vec![DedupStatus::default()],
        tables: vec![TableStatus::default()],
        checkpoint: CheckpointStatus { made_us: 1, ..CheckpointStatus::default() },
        ..JobStatus::default()
    };
    let sink = OutboxStatus { name: "alerts".into(), connector: "http", ..OutboxStatus::default() };
    let service = ServiceStatus {
        job: Some(job),
        read_only: Some(ReadOnly { reason: "disk full".into(), since_us: 1 }),
        disk_failures: 1,
        sinks: vec![sink],
    };
    let api = openapi::document("1");
    let content = &api["paths"]["/api/v1/status"]["get"]["responses"]["200"]["content"]["application/json"];
    let mut seen = BTreeSet::new();
    is_described(&document(&service), &content["schema"], &api["components"]["schemas"], &mut seen);
    let expected = ["Checkpoint", "Dedup", "ReadOnly", "Sink", "Source", "Status", "Table", "Target", "Window"];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
