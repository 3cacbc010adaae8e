//! SQL for tidemill: the stored history as tables that can be asked, and the HTTP service.

pub mod problem;

pub mod history;

pub mod answer;
pub mod session;

pub mod server;
