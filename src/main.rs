//! The program: arguments, configuration, one match. What the commands do stands in `commands/` and `demo/`.

mod cli;
mod config;
mod logging;

mod commands;
mod demo;

use std::process::ExitCode;

use clap::Parser;
use tidemill::{Error, Result};

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::logging::Verbosity;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    logging::install_panic_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers; everything else is the user's input.
            let _ = answer.print();
            return ExitCode::from(u8::from(answer.use_stderr()));
        }
    };
    // The panic hook has said what happened; a panic is ours, so it is exit code 3.
    match std::panic::catch_unwind(|| run(cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            if !error.to_string().is_empty() {
                logging::tell(&format!("tidemill: {error}"));
            }
            ExitCode::from(error.exit_code())
        }
        Err(_) => ExitCode::from(3),
    }
}

fn run(cli: Cli) -> Result<()> {
    let config =
        Config::load(cli.config.as_deref(), std::env::vars()).map_err(|error| Error::Input(error.to_string()))?;
    let verbosity = match cli.command {
        Command::Serve(_) | Command::Run(_) => Verbosity::Service,
        Command::Check(_)
        | Command::Sql(_)
        | Command::Sniff(_)
        | Command::Inspect(_)
        | Command::Restore(_)
        | Command::Verify(_)
        | Command::Password(_)
        | Command::Demo(_) => Verbosity::Tool,
    };
    logging::start(&config, verbosity);
    tidemill_connectors::descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Environment(format!("cannot start threads: {error}")))?;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => commands::serve(args, config).await,
            Command::Run(args) => commands::run(args, config, cli.format).await,
            Command::Check(args) => commands::check(args, &config, cli.format),
            Command::Sql(args) => commands::sql(args, config, cli.format).await,
            Command::Inspect(args) => commands::inspect(&args, &config, cli.format),
            Command::Restore(args) => commands::restore(args, &config, cli.format),
            Command::Sniff(args) => commands::sniff(args, cli.format).await,
            Command::Verify(args) => commands::verify(args, &config).await,
            Command::Password(args) => commands::password(&args),
            Command::Demo(args) => demo::run(args, config).await,
        }
    });
    // A blocking call that still waits for a disk must not hold up the end.
    runtime.shutdown_timeout(commands::SHUTDOWN_MAX);
    done
}
