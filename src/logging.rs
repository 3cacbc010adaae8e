//! The log on stderr, and what a user sees if we panic.

use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Whether a command is a service whose log is read, or a tool whose answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Logs at the configured level.
    Service,
    /// Logs warnings and errors.
    Tool,
}

/// Starts the log: `RUST_LOG` first, then the configuration.
pub(crate) fn start(config: &Config, verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Service => config.log_level.as_str(),
        Verbosity::Tool => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = std::io::stderr().is_terminal();
    let json = match config.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let color = takes_color(&std::io::stderr());
    // Whoever read the log may have left; telling them so on stderr would be a panic, since they have.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .log_internal_errors(false);
    if json { subscriber.json().flatten_event(true).init() } else { subscriber.init() }
}

/// Whether a stream shows colors: a terminal does, unless its user does not want them.
pub(crate) fn takes_color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes a line to stderr, if anybody still reads it.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Replaces a panic's backtrace by a sentence. Whoever catches the panic decides what ends: a query, or the program
/// with exit code 3.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        tell(&format!(
            "tidemill: internal error{place}: {message}\n(this is a bug in tidemill {version}: please report it)"
        ));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            tell(&std::backtrace::Backtrace::force_capture().to_string());
        }
    }));
}
