//! `GET /api/v1/openapi.json`: the whole API for programs, as the tables of routes describe it.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};
use tidemill_connectors::HttpIngest;
use tidemill_connectors::http::api::{Api, Description, Media, Operation, Verb};

use super::{ServiceState, refusal};
use crate::problem::ProblemKind;

pub(super) fn api() -> Api<ServiceState> {
    Api::new([Operation::new(Verb::Get, "/api/v1/openapi.json", "openapi", openapi)
        .summary("health", "Describes the API")
        .answer(200, "an OpenAPI document", [Media::json::<Map<String, Value>>("")])
        .refusals([refusal(ProblemKind::TimedOut)])])
}

/// Describes the API.
async fn openapi(State(state): State<ServiceState>) -> Json<Value> {
    Json(document(state.version))
}

pub(super) fn document(version: &str) -> Value {
    Description::default().with(&super::api()).with(&HttpIngest::api()).finish(version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_has_a_name_of_its_own_answers_and_whatever_it_refers_to() {
        let document = document("1");
        let mut ids = BTreeSet::new();
        let mut count = 0;
        for operations in document["paths"].as_object().expect("paths").values() {
            for operation in operations.as_object().expect("operations").values() {
                count += 1;
                ids.insert(operation["operationId"].as_str().expect("a name"));
                assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{operation}");
                assert!(operation["responses"].as_object().is_some_and(|responses| !responses.is_empty()));
            }
        }
        assert_eq!((ids.len(), count), (17, 17), "{ids:?}");
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
        }
    }
}
