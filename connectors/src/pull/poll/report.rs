//! What is reported of each scrape, in the format of the scrape itself, as Prometheus does.

use tidemill_engine::source::Message;

/// The target has answered after so many microseconds.
pub(super) fn up(duration_us: i64) -> Message {
    Message::new("", format!("up 1\nscrape_duration_seconds {}\n", duration_us.max(0) as f64 / 1e6))
}

/// The target has not answered.
pub(super) fn down() -> Message {
    Message::new("", "up 0\n")
}
