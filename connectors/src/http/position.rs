//! `GET /api/v1/positions/{source@offset}`: how far the rows before a position have come.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidemill_engine::source::{Offset, Stage};

use super::admission::Reached;
use super::api::parameter::{self, Text, Wait};
use super::api::{Media, Operation, Verb};
use super::problem::{Kind, Problem};
use super::{HttpIngest, WAIT_MAX};

const POSITION: Text = Text {
    place: "path",
    name: "position",
    description: "what the answer to a POST has said, such as readings@3",
    is_required: true,
};
const WAIT: Wait = Wait { name: "wait", description: "how long the answer waits for the commit", max: WAIT_MAX };

const REFUSALS: [Kind; 5] =
    [Kind::Parameter, Kind::UnknownPosition, Kind::UnknownSource, Kind::NotRunning, Kind::ReadOnly];

pub(super) fn operation() -> Operation<HttpIngest> {
    Operation::new(Verb::Get, "/api/v1/positions/{position}", "position", answer)
        .other_methods(method_not_allowed)
        .summary("ingest", "Tells how far the rows before a position have come")
        .parameters(&[&POSITION, &WAIT])
        .answer(200, "durable or committed", [Media::json::<Where>("")])
        .refusals(REFUSALS.map(Kind::refusal))
}

async fn method_not_allowed() -> Response {
    Problem::new(Kind::Method, "a position is asked for with GET").into_response()
}

/// Where rows stand, and how far they are.
#[derive(Serialize)]
struct Where {
    position: String,
    state: Reached,
}

crate::describe!(Where as "Position" { position: "as it was asked", state: "durable or committed" });

/// How far the rows before a position have come.
async fn answer(
    State(ingest): State<HttpIngest>,
    position: Result<Path<String>, PathRejection>,
    parameters: Result<Query<BTreeMap<String, String>>, QueryRejection>,
) -> Response {
    match look(&ingest, position, parameters).await {
        Ok(found) => Json(found).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn look(
    ingest: &HttpIngest,
    position: Result<Path<String>, PathRejection>,
    parameters: Result<Query<BTreeMap<String, String>>, QueryRejection>,
) -> Result<Where, Problem> {
    let position = position.map_err(|error| Problem::new(Kind::UnknownPosition, error.body_text()))?.0;
    let parameters = parameters.map_err(|error| Problem::new(Kind::Parameter, error.body_text()))?.0;
    let wait = read_parameters(&parameters)?;
    let (source, offset) = parse(&position).ok_or_else(|| {
        Problem::new(Kind::UnknownPosition, format!("{position:?} is not a position"))
            .hint("a position is what the answer to a POST says, such as readings@3")
    })?;
    let endpoint = ingest.endpoint(source)?;
    let stage = match wait {
        Some(wait) => endpoint.committed(offset, wait).await,
        None => endpoint.intake.stage(offset),
    };
    let stage: Stage = stage.ok_or_else(|| {
        Problem::new(Kind::UnknownPosition, format!("the log does not reach to {position}"))
            .hint("was the log or the data folder replaced since?")
    })?;
    Ok(Where { position, state: Reached::from(stage) })
}

fn read_parameters(given: &BTreeMap<String, String>) -> Result<Option<Duration>, Problem> {
    parameter::check_known(given, &[&WAIT])?;
    given.get(WAIT.name).map(|value| WAIT.read(value)).transpose()
}

/// Reads `source@offset`; a source's name may have an `@` too.
fn parse(position: &str) -> Option<(&str, Offset)> {
    let (source, offset) = position.rsplit_once('@')?;
    let is_number = !offset.is_empty() && offset.bytes().all(|byte| byte.is_ascii_digit());
    Some((source, Offset(offset.parse().ok().filter(|_| is_number)?)))
}

#[cfg(test)]
mod tests {
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    #[test]
    fn a_position_is_a_source_and_a_number() {
        assert_eq!(parse("readings@3"), Some(("readings", Offset(3))));
        assert_eq!(parse("a@b@18446744073709551615"), Some(("a@b", Offset(u64::MAX))));
        for wrong in ["", "readings", "readings@", "readings@-1", "readings@+1", "readings@18446744073709551616"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fuzz_positions() {
        fuzz(format!("{}/src/http/corpus/position", env!("CARGO_MANIFEST_DIR")), |input| {
            let text = String::from_utf8_lossy(input);
            let parsed = parse(&text);
            assert!(
                parsed.is_none_or(|(source, offset)| text.starts_with(source) && text.contains(&offset.0.to_string()))
            );
            parsed.is_some()
        });
    }
}
