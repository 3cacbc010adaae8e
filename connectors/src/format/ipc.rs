//! Columns as messages of the log: streams of Arrow IPC, which `enclosed` reads.

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

/// Bytes of one message that is written.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Writes rows as messages, each a stream of its own, with the number of their rows.
pub(crate) fn ipc_messages(rows: &RecordBatch) -> Result<Vec<(usize, Bytes)>, String> {
    let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref()).map_err(|error| error.to_string())?;
    writer.write(rows).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    let bytes = writer.into_inner().map_err(|error| error.to_string())?;
    if bytes.len() <= MESSAGE_BYTES_MAX {
        return Ok(vec![(rows.num_rows(), Bytes::from(bytes))]);
    }
    let half = rows.num_rows() / 2;
    if half == 0 {
        return Err(format!("a row of {} bytes is too large for the log", bytes.len()));
    }
    let mut messages = ipc_messages(&rows.slice(0, half))?;
    messages.extend(ipc_messages(&rows.slice(half, rows.num_rows() - half))?);
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, AsArray, Float64Array, Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field, Float64Type, Schema};
    use tidemill_engine::decode::{Format, Place};
    use tidemill_engine::source::{Data, Message, Offset};

    use super::*;
    use crate::Metadata;
    use crate::format::{Encoding, Layout};
    use crate::mqtt::TopicPattern;

    fn format() -> Arc<dyn Format> {
        let columns = Schema::new(vec![
            Metadata::Position.column("place"),
            Field::new("device", DataType::Utf8View, true),
            Field::new("temperature", DataType::Float64, false),
            Field::new("n", DataType::Int8, true),
        ]);
        let topic = TopicPattern::parse("t/{line}").unwrap();
        Encoding::Arrow.format(Layout::new(&Arc::new(columns)).with_topic(topic).unwrap())
    }

    fn rows(temperatures: &[Option<i32>]) -> RecordBatch {
        let devices = StringArray::from_iter_values((0..temperatures.len()).map(|n| format!("d{n}")));
        let temperatures = Int32Array::from(temperatures.to_vec());
        let numbers = Int32Array::from_iter_values((0..temperatures.len()).map(|n| n as i32 * 100));
        let (devices, temperatures, numbers) =
            (Arc::new(devices) as _, Arc::new(temperatures) as _, Arc::new(numbers) as _);
        RecordBatch::try_from_iter([("temperature", temperatures), ("device", devices), ("n", numbers)]).unwrap()
    }

    #[test]
    fn a_message_gives_its_rows_beside_its_topic_and_its_place() {
        let payload = ipc_messages(&rows(&[Some(1), None, Some(3)])).unwrap().remove(0).1;
        let cut = payload.slice(..payload.len() - 40);
        let messages = [payload, cut, Bytes::from("nonsense"), Bytes::new()];
        let messages = messages.map(|payload| Message::new("t/one", payload)).to_vec();
        let place = Place { runs: &[(Offset(7), 4)], ..Place::default() };
        let decoded = format().decoder().decode(&Data::Messages(messages), &place);
        let batch = &decoded.batches[0];
        assert_eq!(batch.column(2).as_primitive::<Float64Type>().values().as_ref(), [1.0, 3.0]);
        assert_eq!(batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().as_ref(), [7, 7]);
        assert_eq!(batch.column(4).as_string_view().value(1), "one");
        assert_eq!((batch.column(3).null_count(), decoded.nulled), (1, 1), "200 is no TINYINT");
        let dead: Vec<usize> = decoded.dead.iter().map(|letter| letter.message).collect();
        assert_eq!(dead, [0, 1, 2, 3], "{:?}", decoded.dead);
        assert!(decoded.dead[0].reason.ends_with("column temperature: missing or null, but declared NOT NULL"));
        assert_eq!(
            (&decoded.dead[0].topic[..], &decoded.dead[0].payload[..]),
            (&b"t/one"[..], &br#"{"device":"d1","n":100}"#[..])
        );
    }

    #[test]
    fn rows_are_written_in_messages_that_the_log_takes() {
        let long = "x".repeat(100_000);
        let texts = StringArray::from_iter_values((0..500).map(|n| format!("{n}{long}")));
        let numbers = Float64Array::from_iter_values((0..500).map(f64::from));
        let rows =
            RecordBatch::try_from_iter([("device", Arc::new(texts) as _), ("temperature", Arc::new(numbers) as _)])
                .unwrap();
        let messages = ipc_messages(&rows).unwrap();
        assert!(messages.len() > 2 && messages.iter().all(|(_, bytes)| bytes.len() <= MESSAGE_BYTES_MAX));
        assert_eq!(messages.iter().map(|(rows, _)| rows).sum::<usize>(), 500);
        let messages = messages.into_iter().map(|(_, payload)| Message::new("t/one", payload)).collect();
        let decoded = format().decoder().decode(&Data::Messages(messages), &Place::default());
        let values =
            decoded.batches.iter().map(|batch| batch.column(2).as_primitive::<Float64Type>().values().to_vec());
        let found: Vec<f64> = values.flatten().collect();
        assert_eq!(found, (0..500).map(f64::from).collect::<Vec<_>>());
        assert!(decoded.dead.is_empty() && decoded.batches[0].column(1).null_count() == 0);
    }
}
