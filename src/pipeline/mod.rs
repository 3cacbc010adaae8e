//! The builder: a pipeline in Rust instead of SQL, inside your own program. Both end in the same
//! [`Plan`](tidemill_engine::plan::Plan), and run in the same way.
//!
//! ```no_run
//! use tidemill::prelude::*;
//!
//! #[derive(serde::Serialize)]
//! struct Reading {
//!     device: String,
//!     temperature: f64,
//!     ts: String,
//! }
//!
//! # async fn example() -> tidemill::Result<()> {
//! let mill = Pipeline::open("./mill");
//! let (sender, receiver) = tokio::sync::mpsc::channel::<Reading>(100);
//! let readings = mill
//!     .source("readings", Channel::new(receiver))
//!     .columns([text("device"), double("temperature"), timestamp("ts")])
//!     .event_time("ts")
//!     .lateness(secs(2));
//! let per_minute = readings
//!     .key_by(["device"])
//!     .window(tumbling(minutes(1)))
//!     .aggregate([count().named("n"), avg("temperature").named("avg_c")]);
//! per_minute.to_table("device_1m");
//! let mut live = per_minute.subscribe();
//!
//! let job = mill.start().await?;
//! # drop(sender);
//! while let Some(rows) = live.next().await {
//!     println!("{} windows closed", rows.num_rows());
//! }
//! job.drain().await
//! # }
//! ```

mod aggregate;
mod draft;
mod live;
mod source;
mod stream;

pub use aggregate::{Aggregate, avg, count, count_of, hopping, max, min, sum, tumbling};
pub use live::LiveRows;
pub use source::{SourceBuilder, boolean, double, integer, metadata, text, timestamp};
pub use stream::{Keyed, Stream, Windowed};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::runtime::{Job, JobStatus};
use tidemill_engine::sink::Sink;
use tidemill_engine::source::Source;

use crate::assemble::{self, Folder, Settings, stop_job};
use crate::{Error, Result};
use draft::{Finished, LiveSender, Outlet, Shared};

/// A job has so long to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A pipeline in the making. See the [module](self) for an example.
pub struct Pipeline {
    folder: PathBuf,
    settings: Settings,
    draft: Shared,
}

impl Pipeline {
    /// Begins a pipeline whose ingest log and tables lie in a folder. Touches nothing before [`Pipeline::start`].
    pub fn open(folder: impl Into<PathBuf>) -> Self {
        Pipeline { folder: folder.into(), settings: Settings::default(), draft: Shared::default() }
    }

    /// Sets how many threads compute; without, one for each core. Changes no result.
    pub fn workers(mut self, count: usize) -> Self {
        self.settings.workers = count.max(1);
        self
    }

    /// Sets the time between two commits of a table; without, 5 seconds.
    pub fn commit_every(mut self, interval: Duration) -> Self {
        self.settings.commit_interval = interval;
        self
    }

    /// Adds a source: a [`Channel`](tidemill_connectors::channel::Channel), or any other [`Source`].
    pub fn source(&self, name: &str, source: impl Source) -> SourceBuilder {
        SourceBuilder { draft: self.draft.clone(), name: name.to_owned(), source: Arc::new(source) }
    }

    /// Starts the job: locks the folder, replays its log, opens the tables, runs the sources.
    ///
    /// Returns the first mistake of the steps before, if there was one.
    pub async fn start(self) -> Result<Running> {
        let Finished { plan, outlets } = self.draft.finish()?;
        let (settings, path) = (self.settings.clone(), self.folder);
        let opened = tokio::task::spawn_blocking(move || open(&path, outlets, &settings)).await;
        let (folder, sinks, live) =
            opened.map_err(|error| Error::Internal(format!("cannot open the folder: {error}")))??;
        let endless = !assemble::unbounded_sources(&plan).is_empty();
        let job = assemble::start_job(&folder, plan, sinks, live, &self.settings).await?;
        Ok(Running { job, endless, _folder: folder })
    }
}

/// The folder, a sink for each table of the plan, and where rows are shown.
type Opened = (Folder, Vec<Box<dyn Sink>>, BTreeMap<String, LiveSender>);

/// Opens the folder and all outlets, in the order of the plan's tables.
fn open(path: &std::path::Path, outlets: Vec<Outlet>, settings: &Settings) -> Result<Opened> {
    let folder = Folder::open(path)?;
    let tables: Vec<tidemill_queries::TableInfo> = outlets
        .iter()
        .filter_map(|outlet| match outlet {
            Outlet::Table(table, _) => Some(table.clone()),
            Outlet::Live(..) => None,
        })
        .collect();
    assemble::write_catalog(&folder, &tables)?;
    let mut opened = assemble::open_sinks(&folder, &tables, settings)?.into_iter();
    let (mut sinks, mut live): (Vec<Box<dyn Sink>>, _) = (Vec::new(), BTreeMap::new());
    for outlet in outlets {
        match outlet {
            Outlet::Live(name, sender) => {
                live.insert(name.clone(), sender);
                sinks.push(Box::new(live::Nowhere { name }));
            }
            Outlet::Table(table, sender) => {
                live.extend(sender.map(|sender| (table.name, sender)));
                sinks.push(opened.next().expect("a sink was opened for each table"));
            }
        }
    }
    Ok((folder, sinks, live))
}

/// A running pipeline.
pub struct Running {
    job: Job,
    endless: bool,
    /// Held to the end: another process may begin only when this one is done.
    _folder: Folder,
}

impl Running {
    /// Returns what the job is doing now.
    pub fn status(&self) -> JobStatus {
        self.job.status()
    }

    /// Waits until all sources have ended and everything is committed, then stops. If a source has no end, stops now:
    /// everything that was acknowledged is kept, and what is complete is committed.
    ///
    /// A channel ends when its last sender is dropped: drop it before. An input that has ended has passed all event
    /// time: all its windows close, and what a later run in the same folder adds to it is late. A program that means
    /// to go on later keeps its sender, and says [`Running::stop`].
    pub async fn drain(self) -> Result<()> {
        if !self.endless {
            self.job.finished().await?;
        }
        self.stop().await
    }

    /// Stops now: everything that was acknowledged is kept, and what is complete is committed. Windows that are open
    /// go on at the next start.
    pub async fn stop(self) -> Result<()> {
        stop_job(&self.job, STOP_MAX).await
    }
}

#[cfg(test)]
mod tests;
