//! The sources that fetch, against servers on this machine.

mod lab;
mod polling;
mod redirects;
mod streaming;
mod talking;
