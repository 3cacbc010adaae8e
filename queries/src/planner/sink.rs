//! `CREATE SINK`: a view gets a second way out, and the options become a destination.

use std::sync::Arc;

use tidemill_connectors::connect_sink;
use tidemill_engine::plan::Operator;

use super::source::option_problem;
use super::{Compiler, Unresolved};
use crate::catalog::SinkInfo;
use crate::diagnostic::{Code, Problem};
use crate::statement::CreateSink;

impl Compiler<'_> {
    /// Puts a sink into the plan, or reports what is wrong with it.
    pub(super) fn add_sink(&mut self, sink: CreateSink) {
        if let Err(problem) = self.try_sink(sink) {
            self.report(None, problem);
        }
    }

    fn try_sink(&mut self, sink: CreateSink) -> Result<(), Problem> {
        let CreateSink { name, from, options, text } = sink;
        let Some(relation) = self.relations.get(&from.value).cloned() else {
            if self.broken.contains(&from.value) {
                return Ok(());
            }
            let message = format!("there is no source or view \"{}\"", from.value);
            let known: Vec<&str> = self.relations.keys().map(String::as_str).collect();
            return Err(Problem::new(Code::UnknownRelation, from.span, message).did_you_mean(&from.value, known));
        };
        let given = match self.with_secret(&options) {
            Ok(given) => given,
            Err(Unresolved::Broken) => return Ok(()),
            Err(Unresolved::Missing(problem)) => return Err(problem),
        };
        let connected = connect_sink(&name.value, &relation.schema, given, self.context)
            .map_err(|error| option_problem(&error, &options))?;
        // Not of the options: rows that wait are delivered to wherever the sink points now. But what waits for one connector means
        // nothing to another.
        let kind = match connected.connector {
            "mqtt" => String::new(),
            other => format!(" {other}"),
        };
        let fingerprint = super::fingerprint(&format!("{}\nsink{kind}", relation.canonical));
        let node = Operator::Table { input: relation.node, name: name.value.clone() };
        self.plan.push(Arc::clone(&relation.schema), node);
        self.sinks.push(SinkInfo {
            name: name.value,
            of: from.value,
            sql: text,
            schema: relation.schema,
            connected,
            fingerprint,
        });
        Ok(())
    }
}
