//! For tests: whether an answer is one that the description has.

use serde_json::Value;

use super::Description;
use crate::http::HttpIngest;

/// Holds an answer against what is said of its operation.
///
/// # Panics
/// If the operation, the status or the code of a problem is not described.
pub(crate) fn assert_described(method: &str, path: &str, status: u16, body: &[u8]) {
    let document = Description::default().add(&HttpIngest::api()).finish("1");
    let fits = |template: &str| {
        let (mut parts, mut found) = (template.split('/'), path.split('/'));
        loop {
            match (parts.next(), found.next()) {
                (None, None) => return true,
                (Some(part), Some(given)) if part == given || part.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    };
    let paths = document["paths"].as_object().expect("paths");
    let Some((template, operations)) = paths.iter().find(|(template, _)| fits(template)) else { return };
    let method = if method == "HEAD" { "GET" } else { method };
    let operation = &operations[method.to_lowercase()];
    if status == 405 && operation.is_null() {
        return;
    }
    let responses =
        operation["responses"].as_object().unwrap_or_else(|| panic!("{method} {template} is not described"));
    let response =
        responses.get(&status.to_string()).unwrap_or_else(|| panic!("{method} {template}: {status} is not described"));
    let codes = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"];
    if let (Some(codes), Ok(problem)) = (codes.as_array(), serde_json::from_slice::<Value>(body)) {
        assert!(
            codes.contains(&problem["code"]),
            "{method} {template}: {status} with {} is not described",
            problem["code"]
        );
    }
}
