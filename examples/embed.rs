//! Tidemill inside a program: readings come from a channel, one-minute averages go to a table and to the screen.
//!
//! `cargo run --example embed`

use arrow::util::pretty::pretty_format_batches;
use tidemill::prelude::*;

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let folder = std::env::temp_dir().join(format!("tidemill-embed-{}", std::process::id()));
    let mill = Pipeline::open(&folder); // log and tables live here
    let (sender, readings) = channel(64);

    let per_minute = mill
        .source("readings", readings)
        .columns([text("device"), double("temperature"), timestamp("ts")])
        .event_time("ts")
        .lateness(secs(10))
        .filter("temperature > -100") // a broken sensor reads -273
        .key_by(["device"])
        .window(tumbling(minutes(1)))
        .aggregate([count().named("n"), avg("temperature").named("avg_c"), max("temperature").named("max_c")]);
    per_minute.to_table("device_1m");
    let mut live = per_minute.subscribe();

    let job = mill.start().await?;
    for second in 0..300 {
        let (minute, second) = (second / 60, second % 60);
        let row = format!(r#"{{"device": "a", "temperature": {minute}.5, "ts": "2026-11-20T09:0{minute}:{second:02}Z"}}"#);
        sender.send(row).await?;
    }
    drop(sender); // the input has ended: all windows close

    let mut windows = 0;
    while windows < 5 {
        let Some(rows) = live.next().await else { break };
        windows += rows.num_rows();
        println!("{}", pretty_format_batches(&[rows]).expect("columns that can be printed"));
    }
    job.drain().await?;
    assert_eq!(windows, 5, "five minutes, one device");
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    Ok(())
}
