//! `tidemill sql`: a question to a running server, or to the tables alone.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;

use tidemill::{Error, Result};
use tidemill_engine::error::with_causes;
use tidemill_queries::answer::AnswerFormat;
use tidemill_queries::history::{History, HistoryError};
use tidemill_queries::problem::{Problem, ProblemKind};
use tidemill_queries::server::{ClientError, query_server};
use tidemill_queries::session::{Limits, SQL_BYTES_MAX, Session};

use crate::cli::{OutputFormat, SqlArgs};
use crate::commands::answer;
use crate::config::Config;

/// Asks, and writes the answer to stdout.
pub(crate) async fn sql(args: SqlArgs, config: Config, format: OutputFormat) -> Result<()> {
    let question = question(args.question)?;
    let format = match format {
        OutputFormat::Table => AnswerFormat::Table,
        OutputFormat::Json => AnswerFormat::Json,
        OutputFormat::Csv => AnswerFormat::Csv,
    };
    match args.data {
        Some(data) => ask_tables(&data, &question, format).await,
        None => {
            let url = args.server.unwrap_or_else(|| format!("http://{}", config.server_http));
            ask_server(&url, &question, format).await
        }
    }
}

/// Returns the question: the argument, or stdin if it is `-`, or missing and stdin is no terminal.
fn question(argument: Option<String>) -> Result<String> {
    match argument {
        Some(question) if question != "-" => return Ok(question),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Input("what is the question? tidemill sql \"SELECT …\"".into()));
        }
        _ => {}
    }
    let mut text = String::new();
    // One byte more than a question may have: the guard then says how long it is allowed to be.
    let limit = SQL_BYTES_MAX as u64 + 1;
    std::io::stdin()
        .take(limit)
        .read_to_string(&mut text)
        .map_err(|error| Error::Input(format!("cannot read the question from stdin: {error}")))?;
    Ok(text)
}

async fn ask_server(url: &str, question: &str, format: AnswerFormat) -> Result<()> {
    match query_server(url, question, format, &mut PatientStdout).await {
        Ok(()) => Ok(()),
        Err(ClientError::Refused(problem)) => Err(refused(&problem)),
        Err(error @ ClientError::BadUrl { .. }) => Err(Error::Input(error.to_string())),
        Err(error) => Err(Error::Environment(error.to_string())),
    }
}

async fn ask_tables(data: &Path, question: &str, format: AnswerFormat) -> Result<()> {
    let dir = data.to_owned();
    let history = tokio::task::spawn_blocking(move || History::discover(&dir))
        .await
        .map_err(|error| Error::Internal(error.to_string()))?
        .map_err(|error| match &error {
            HistoryError::Folder { source, .. } if source.kind() == ErrorKind::NotFound => {
                Error::Input(with_causes(&error))
            }
            _ => Error::Environment(with_causes(&error)),
        })?;
    let session = Session::new(Arc::new(history), Limits::default());
    let mut rows = session.query(question).await.map_err(|problem| refused(&problem))?.encode(format);
    while let Some(bytes) = rows.next().await {
        answer(&bytes.map_err(|problem| refused(&problem))?)?;
    }
    Ok(())
}

/// Sorts a problem by whose it is: the question's, or the machine's.
fn refused(problem: &Problem) -> Error {
    match problem.kind.status() {
        _ if problem.kind == ProblemKind::Unreadable => Error::Environment(problem.to_string()),
        status if status < 500 && status != 429 => Error::Input(problem.to_string()),
        500 => Error::Internal(problem.to_string()),
        _ => Error::Environment(problem.to_string()),
    }
}

/// Standard output that takes a reader's leaving (`| head`) for the end of interest, not for an error.
struct PatientStdout;

impl Write for PatientStdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        answer(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
