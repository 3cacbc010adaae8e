//! Tidemill inside a program: readings come from a channel, averages of a minute go to a table and to the screen.
//!
//! `cargo run --example embed`

use arrow::util::pretty::pretty_format_batches;
use tidemill::prelude::*;

#[derive(serde::Serialize)]
struct Reading {
    device: &'static str,
    temperature: f64,
    ts: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("tidemill-embed-{}", std::process::id()));
    let mill = Pipeline::open(&folder); // the log and the tables live here
    let (sender, receiver) = tokio::sync::mpsc::channel(64);

    let per_minute = mill
        .source("readings", Channel::new(receiver))
        .columns([text("device"), double("temperature"), timestamp("ts")])
        .event_time("ts")
        .lateness(secs(10))
        .filter("temperature > -100") // a broken sensor says -273
        .key_by(["device"])
        .window(tumbling(minutes(1)))
        .aggregate([count().named("n"), avg("temperature").named("avg_c"), max("temperature").named("max_c")]);
    per_minute.to_table("device_1m");
    let mut live = per_minute.subscribe();

    let job = mill.start().await?;
    for second in 0..300 {
        let ts = format!("2026-11-20T09:{:02}:{:02}Z", second / 60, second % 60);
        sender.send(Reading { device: "freezer-17", temperature: -20.0 + f64::from(second) / 60.0, ts }).await?;
    }
    drop(sender); // the input has ended, so all windows close

    let mut window_count = 0;
    while window_count < 5 {
        let Some(rows) = live.next().await else { break };
        window_count += rows.num_rows();
        println!("{}", pretty_format_batches(&[rows])?);
    }
    job.drain().await?;
    assert_eq!(window_count, 5, "one device, five minutes");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
