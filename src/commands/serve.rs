//! `tidemill serve`: pipeline files as a daemon.

use std::pin::Pin;

use tidemill::Result;
use tidemill::assemble::{self, Folder, Service};
use tidemill_queries::server::Exposure;

use crate::cli::ServeArgs;
use crate::commands::{STOP_MAX, explain, read_and_check, settings, stop_requested, with_flags};
use crate::config::Config;

/// Runs pipeline files until somebody asks it to stop, or the job fails.
pub(crate) async fn serve(args: ServeArgs, config: Config) -> Result<()> {
    let mut config = with_flags(config, args.folder);
    if let Some(http) = args.http {
        config.server_http = http;
    }
    let (files, _) = read_and_check(&args.files, &config)?;
    let settings = settings(&config);
    let exposure = if config.server_insecure { Exposure::Insecure } else { Exposure::LoopbackOnly };

    let bound = assemble::bind(&config.server_http, exposure).await?;
    let folder = Folder::open(&config.data)?;
    let data = folder.path().display().to_string();
    let context = assemble::context(folder.storage(), &settings)?;
    let pipeline = assemble::compile(&files, &context).map_err(explain)?;
    let (source_count, table_count) = (pipeline.sources.len(), pipeline.tables.len());

    let mut stop_requested = std::pin::pin!(stop_requested());
    let mut starting = std::pin::pin!(Service::start(folder, pipeline, &context.http, bound, &settings));
    let service = tokio::select! {
        started = &mut starting => started?,
        requested = &mut stop_requested => {
            requested?;
            tracing::info!("stopped while starting");
            // Nothing was acknowledged and nothing has to be finished. The folder stays locked until the threads that
            // replay the log are gone, too.
            std::process::exit(0);
        }
    };
    tracing::info!(
        http = %service.address(), data, sources = source_count, tables = table_count, workers = settings.workers,
        "{}", if service.is_read_only() { "started read only" } else { "running" }
    );

    let ended = until_stopped(&service, stop_requested).await;
    tracing::info!("stopping");
    let stopped = service.stop(STOP_MAX).await;
    // What went wrong first is what the user needs to know.
    ended.and(stopped)?;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for a request to stop. A job whose sources have all ended goes on answering questions, and so does one whose
/// disk fails, until it can go on.
async fn until_stopped(
    service: &Service,
    mut stop_requested: Pin<&mut impl Future<Output = Result<()>>>,
) -> Result<()> {
    tokio::select! {
        requested = &mut stop_requested => return requested,
        ended = service.finished() => ended?,
    }
    tracing::info!("all sources have ended and everything is committed; questions are still answered");
    stop_requested.await
}
