//! `CREATE SINK … WITH (connector = 'file')`: rows leave as files, each row in exactly one of them.
//!
//! ```text
//!   outbox ─► enough bytes, or old enough ─► claim rows [first, end) ─► write, sync ─► link to its name ─► confirm
//!             two phases of the engine        durable: the same file     hidden         visible, whole, once
//!                                             after a crash
//! ```
//! The name of a file has the numbers of its rows: `<sink>-<log>-<first>-<end>.parquet`. After a crash the same rows are claimed,
//! so the same name is tried again, and what is there already is not written twice. A folder that cannot be written to holds up
//! nobody else: rows wait in the outbox, and go there when it can.
//!
//! In the outbox lie Arrow batches, and a file is made of them when it is due: so numbers, times and what is not a number stay
//! what they are, and an option that changes holds for what waits too.

mod courier;
mod encode;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use self::courier::{FileCourier, Filing};
use self::encode::{FileFormat, GROUP_ROWS_MAX, to_ipc};
use crate::Context;
use crate::format::JsonRows;
use crate::options::{OptionError, Options};
use crate::outbox::{Courier, Destination, Encoded, Encoder};

/// A file is made when so many bytes wait, unless the options say otherwise: it is made in memory.
const ROLL_BYTES_DEFAULT: u64 = 32 << 20;
const ROLL_BYTES_MAX: u64 = 256 << 20;
/// A file is made when its first row has waited so long, unless the options say otherwise.
const ROLL_INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
const ROLL_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

struct FileDestination {
    encoder: Arc<FileEncoder>,
    filing: Filing,
}

struct FileEncoder(JsonRows);

/// Makes the destination from its options; does no I/O.
pub(crate) fn destination(
    schema: &SchemaRef,
    options: &mut Options,
    context: &Context,
) -> Result<Arc<dyn Destination>, OptionError> {
    let path = options.require("path")?;
    if path.is_empty() {
        return Err(OptionError::new("path", "is empty: name a folder"));
    }
    if path.contains("://") {
        return Err(OptionError::new("path", "is for a later version: give a folder of this machine"));
    }
    let Some(format) = options.choice("format", &FileFormat::WORDS)? else {
        return Err(OptionError::new("format", "is missing: say 'parquet', 'ndjson' or 'csv'"));
    };
    let roll_bytes = options.bytes("roll_bytes")?.unwrap_or(ROLL_BYTES_DEFAULT);
    if !(1..=ROLL_BYTES_MAX).contains(&roll_bytes) {
        return Err(OptionError::new("roll_bytes", "must be from '1 B' to '256 MiB'"));
    }
    let roll_interval = options.duration("roll_interval")?.unwrap_or(ROLL_INTERVAL_DEFAULT);
    if roll_interval.is_zero() || roll_interval > ROLL_INTERVAL_MAX {
        return Err(OptionError::new("roll_interval", "must be longer than nothing and at most '1 day'"));
    }
    let folder: PathBuf = context.base_dir.join(path);
    let filing = Filing { folder, format, roll_bytes, roll_interval };
    let encoder = Arc::new(FileEncoder(JsonRows::take_columns(schema, options)?));
    Ok(Arc::new(FileDestination { encoder, filing }))
}

impl Destination for FileDestination {
    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::clone(&self.encoder) as Arc<dyn Encoder>
    }

    fn courier(&self) -> Box<dyn Courier> {
        Box::new(FileCourier::new(self.filing.clone()))
    }
}

impl Encoder for FileEncoder {
    fn encode(&self, rows: &RecordBatch, out: &mut Encoded) -> Result<(), String> {
        let rows = self.0.project(rows)?;
        for at in (0..rows.num_rows()).step_by(GROUP_ROWS_MAX) {
            let group = rows.slice(at, GROUP_ROWS_MAX.min(rows.num_rows() - at));
            out.push_group(&to_ipc(&group)?, group.num_rows());
        }
        Ok(())
    }
}
