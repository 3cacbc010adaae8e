//! A program that is killed again and again while rows come.

use std::future::Future;

use super::lines;
use crate::harness::program::{Program, Serve};

/// Rows of one request.
const ROWS: u64 = 50;
/// Rows of the last one: they are waited for.
const LAST_ROWS: u64 = 10;

/// See the module.
pub(crate) struct Lives<'s> {
    serve: &'s Serve,
    /// The number of the next row.
    next: u64,
}

impl<'s> Lives<'s> {
    /// Begins without rows.
    pub(crate) fn new(serve: &'s Serve) -> Lives<'s> {
        Lives { serve, next: 0 }
    }

    /// Starts the program, sends it rows until the future is done, and kills it.
    pub(crate) async fn live(&mut self, until: impl Future<Output = ()>) {
        let program = self.serve.start_ready().await;
        let http = program.http.clone();
        let from = self.next;
        let sending = tokio::spawn(async move {
            let mut at = from;
            // Each row is sent once: whether it was taken is told by the table.
            while http.ingest("readings", lines(at, at + ROWS)).await.is_ok() {
                at += ROWS;
            }
            at + ROWS
        });
        until.await;
        program.kill9();
        self.next = sending.await.expect("it sends until it cannot");
    }

    /// Starts the program for good, and waits until the view has some last rows.
    pub(crate) async fn last(self) -> Program {
        let program = self.serve.start_ready().await;
        let Lives { next, .. } = self;
        program.http.ingest_durably("readings", &lines(next, next + LAST_ROWS)).await;
        let sql = format!("SELECT count(*) AS n FROM hot WHERE n >= {next}");
        program.http.query_until(&sql, i64::try_from(LAST_ROWS).expect("small")).await;
        program
    }
}
