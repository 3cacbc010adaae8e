//! The table of routes: what is answered, and all that is said of it, in one place.
//!
//! ```text
//!   Operation: method, path, parameters, bodies, answers, refusals, handler
//!        │
//!        ├──► Api::router()       what the service answers
//!        └──► Description::with()  what `/api/v1/openapi.json` says that it does
//! ```
//!
//! There is no other way to a route, so none is left out of the description. What is said comes from what the handlers use: the
//! parameters are those that read them ([`parameter`]), bodies and answers the types that are read and written (`describe!`), and
//! refusals the kinds of problems.

pub mod parameter;
pub mod shape;

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::{Map, Value, json};

pub use parameter::Parameter;
pub use shape::{Components, Shape};

/// The methods that routes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `GET`, and with it `HEAD`.
    Get,
    /// `POST`.
    Post,
}

impl Verb {
    /// Returns its name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
        }
    }
}

/// A body in one media type.
#[derive(Clone, Copy, Debug)]
pub struct Media {
    /// Its media type.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// How it looks.
    pub shape: fn(&mut Components) -> Value,
}

impl Media {
    /// Makes a body of JSON.
    pub fn json<T: Shape>(description: &'static str) -> Media {
        Media { name: "application/json", description, shape: T::shape }
    }

    /// Makes a body that is no JSON: bytes, or text of another kind.
    pub fn bytes(name: &'static str, description: &'static str) -> Media {
        Media { name, description, shape: |_| json!({"type": "string"}) }
    }

    fn describe(&self, components: &mut Components) -> (String, Value) {
        let mut schema = (self.shape)(components);
        if let Value::Object(schema) = &mut schema
            && !self.description.is_empty()
        {
            schema.insert("description".to_owned(), json!(self.description));
        }
        (self.name.to_owned(), json!({"schema": schema}))
    }
}

/// An answer that is no refusal.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    description: &'static str,
    bodies: Vec<Media>,
    headers: &'static [(&'static str, &'static str)],
}

/// A refusal: one kind of problem, and how it is told.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The code of the kind, which never changes its meaning.
    pub code: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Whether `Retry-After` says when to come again.
    pub has_retry_after: bool,
    /// How it is written.
    pub told: Told,
}

/// How a refusal is written.
#[derive(Clone, Debug)]
pub enum Told {
    /// As a problem document (RFC 9457) of this shape, with the code in it.
    Document(fn(&mut Components) -> Value),
    /// As the clients of another protocol expect it.
    As(Vec<Media>),
}

/// A method of a path: how it is answered, and what is said of it.
pub struct Operation<S> {
    verb: Verb,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: String,
    parameters: Vec<&'static dyn Parameter>,
    bodies: Vec<Media>,
    answers: Vec<Answer>,
    refusals: Vec<Refusal>,
    handler: MethodRouter<S>,
}

impl<S: Clone + Send + Sync + 'static> Operation<S> {
    /// Makes an operation; `id` names it for programs.
    pub fn new<H: Handler<T, S>, T: 'static>(verb: Verb, path: &'static str, id: &'static str, handler: H) -> Self {
        Operation {
            verb,
            path,
            id,
            tag: "",
            summary: "",
            description: String::new(),
            parameters: Vec::new(),
            bodies: Vec::new(),
            answers: Vec::new(),
            refusals: Vec::new(),
            handler: on(verb.filter(), handler),
        }
    }

    /// Says under which heading it stands, and what it does.
    pub fn summary(mut self, tag: &'static str, summary: &'static str) -> Self {
        (self.tag, self.summary) = (tag, summary);
        self
    }

    /// Says more about it: its limits.
    pub fn description(mut self, description: String) -> Self {
        self.description = description;
        self
    }

    /// Answers the other methods of the path; `Allow` is added.
    pub fn other_methods<H: Handler<T, S>, T: 'static>(mut self, handler: H) -> Self {
        self.handler = self.handler.fallback(handler);
        self
    }

    /// Adds the parameters that its handler reads.
    pub fn parameters(mut self, parameters: &[&'static dyn Parameter]) -> Self {
        self.parameters.extend_from_slice(parameters);
        self
    }

    /// Adds the bodies that its handler takes.
    pub fn bodies(mut self, bodies: impl IntoIterator<Item = Media>) -> Self {
        self.bodies.extend(bodies);
        self
    }

    /// Adds an answer.
    pub fn answer(mut self, status: u16, description: &'static str, bodies: impl IntoIterator<Item = Media>) -> Self {
        self.answers.push(Answer { status, description, bodies: bodies.into_iter().collect(), headers: &[] });
        self
    }

    /// Adds headers to the last answer: names and what they tell.
    pub fn with_headers(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers = headers;
        }
        self
    }

    /// Adds the kinds of refusals.
    pub fn refusals(mut self, refusals: impl IntoIterator<Item = Refusal>) -> Self {
        self.refusals.extend(refusals);
        self
    }

    fn describe(&self, components: &mut Components) -> Value {
        let mut operation = json!({
            "operationId": self.id, "tags": [self.tag], "summary": self.summary,
            "responses": self.describe_responses(components),
        });
        if !self.description.is_empty() {
            operation["description"] = json!(self.description);
        }
        if !self.parameters.is_empty() {
            let parameters: Vec<Value> = self.parameters.iter().map(|parameter| parameter.describe()).collect();
            operation["parameters"] = json!(parameters);
        }
        if !self.bodies.is_empty() {
            let bodies: Map<String, Value> = self.bodies.iter().map(|media| media.describe(components)).collect();
            operation["requestBody"] = json!({"required": true, "content": bodies});
        }
        operation
    }

    fn describe_responses(&self, components: &mut Components) -> Map<String, Value> {
        let mut responses = Map::new();
        for answer in &self.answers {
            let mut response = json!({"description": answer.description});
            if !answer.bodies.is_empty() {
                let bodies: Map<String, Value> = answer.bodies.iter().map(|media| media.describe(components)).collect();
                response["content"] = json!(bodies);
            }
            for (name, what) in answer.headers {
                response["headers"][*name] = json!({"description": what, "schema": {"type": "string"}});
            }
            responses.insert(answer.status.to_string(), response);
        }
        let mut statuses: BTreeMap<u16, Vec<&Refusal>> = BTreeMap::new();
        for refusal in &self.refusals {
            statuses.entry(refusal.status).or_default().push(refusal);
        }
        for (status, kinds) in statuses {
            let response = describe_refusal(status, &kinds, components);
            responses.entry(status.to_string()).or_insert(response);
        }
        responses
    }
}

/// One status, with all the kinds that have it.
fn describe_refusal(status: u16, kinds: &[&Refusal], components: &mut Components) -> Value {
    let titles: Vec<String> = kinds.iter().map(|kind| format!("{} {}", kind.code, kind.title)).collect();
    let mut response = json!({"description": titles.join(", or ")});
    let mut content = Map::new();
    for kind in kinds {
        match &kind.told {
            Told::As(bodies) => content.extend(bodies.iter().map(|media| media.describe(components))),
            Told::Document(shape) => {
                let codes: Vec<&str> = kinds.iter().map(|kind| kind.code).collect();
                let of_these = json!({"properties": {"status": {"const": status}, "code": {"enum": codes}}});
                let schema = json!({"allOf": [shape(components), of_these]});
                content.insert("application/problem+json".to_owned(), json!({"schema": schema}));
            }
        }
    }
    response["content"] = json!(content);
    if kinds.iter().any(|kind| kind.has_retry_after) {
        response["headers"]["retry-after"] = json!({"description": "seconds", "schema": {"type": "integer"}});
    }
    response
}

/// A table of operations.
pub struct Api<S>(Vec<Operation<S>>);

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// Makes a table.
    pub fn new(operations: impl IntoIterator<Item = Operation<S>>) -> Self {
        Api(operations.into_iter().collect())
    }

    /// Puts another table behind this one.
    pub fn and(mut self, more: Api<S>) -> Self {
        self.0.extend(more.0);
        self
    }

    /// Makes the router that answers.
    pub fn router(self) -> Router<S> {
        self.0.into_iter().fold(Router::new(), |router, operation| router.route(operation.path, operation.handler))
    }

    /// Returns method and path of each operation, for people.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|operation| format!("{} {}", operation.verb.name(), operation.path)).collect()
    }
}

/// An OpenAPI document that grows table by table.
#[derive(Debug, Default)]
pub struct Description {
    components: Components,
    paths: Map<String, Value>,
}

impl Description {
    /// Adds the operations of a table.
    pub fn with<S: Clone + Send + Sync + 'static>(mut self, api: &Api<S>) -> Self {
        for operation in &api.0 {
            let described = operation.describe(&mut self.components);
            let path = self.paths.entry(operation.path).or_insert_with(|| json!({}));
            path[operation.verb.name().to_lowercase()] = described;
        }
        self
    }

    /// Returns the document.
    pub fn finish(self, version: &str) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "tidemill", "version": version,
                "description": "Rows in, questions over what came of them, and how it is going.",
            },
            "paths": self.paths,
            "components": {"schemas": self.components.into_schemas()},
        })
    }
}

#[cfg(test)]
pub(crate) mod conformance;
