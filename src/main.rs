//! x
mod cli;
mod config;
mod demo;
mod logging;
fn main() {}
