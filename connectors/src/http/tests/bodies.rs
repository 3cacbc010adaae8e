//! Bodies that hold columns.

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use parquet::basic::Compression;

use super::*;
use crate::format::enclosed_bytes::{arrow_lz4, arrow_stream, avro_container, parquet_file};

const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";
const AVRO: &str = "application/avro";

fn batch(values: Vec<Option<f64>>) -> RecordBatch {
    let devices: ArrayRef = Arc::new(StringArray::from_iter_values((0..values.len()).map(|row| format!("d{row}"))));
    let values: ArrayRef = Arc::new(Float64Array::from(values));
    RecordBatch::try_from_iter_with_nullable([("device", devices, true), ("temperature", values, true)]).unwrap()
}

fn each_kind(batch: &RecordBatch) -> [(&'static str, Vec<u8>); 4] {
    let batches = std::slice::from_ref(batch);
    [
        (ARROW, arrow_stream(batches)),
        (ARROW, arrow_lz4(batches)),
        (PARQUET, parquet_file(batches, Compression::SNAPPY)),
        (AVRO, avro_container(batches, Some(arrow_avro::compression::CompressionCodec::ZStandard))),
    ]
}

#[tokio::test]
async fn arrow_parquet_and_avro_are_logged_as_they_came_after_a_check() {
    let server = serve(PayloadEncoding::Json).await;
    for (kind, body) in each_kind(&batch(vec![Some(1.0), Some(2.0)])) {
        let (status, answer) = server.post_as("content-type", kind, body.clone()).await;
        assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!(2)), "{answer}");
        assert_eq!(server.intake.messages().last().unwrap().payload, body);
        let packed = zstd::stream::encode_all(&body[..], 3).unwrap();
        let request = Request::post("/api/v1/ingest/readings").header("content-type", kind);
        let request = request.header("content-encoding", "zstd").body(Body::from(packed)).unwrap();
        assert_eq!(server.send(request).await.0, StatusCode::OK);
    }
    // What the dataflow makes of it.
    let columns = Arc::new(Schema::new(vec![Field::new("temperature", DataType::Float64, false)]));
    let format = TaggedFormat::new(Layout::new(&columns), PayloadEncoding::Json);
    use tidemill_engine::decode::{Format, Place};
    let data = tidemill_engine::source::Data::Messages(server.intake.messages());
    let decoded = format.decoder().decode(&data, &Place::default());
    assert_eq!(decoded.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 16);
}

#[tokio::test]
async fn a_bad_row_of_columns_names_row_and_column_and_takes_all_with_it_unless_told_otherwise() {
    let server = serve(PayloadEncoding::Json).await;
    for (kind, body) in each_kind(&batch(vec![Some(1.0), None, Some(3.0)])) {
        let (status, answer) = server.post_as("content-type", kind, body.clone()).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2103")));
        let message = "column temperature: missing or null, but declared NOT NULL";
        assert_eq!(answer["errors"], json!([{"row": 2, "column": "temperature", "message": message}]));
        assert!(server.nothing_was_stored());
    }
    for (kind, body) in each_kind(&batch(vec![Some(1.0), None, Some(3.0)])) {
        let request = Request::post("/api/v1/ingest/readings?on_error=dead_letter").header("content-type", kind);
        let (status, answer) = server.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!((status, &answer["rows"], &answer["rejected"][0]["row"]), (StatusCode::OK, &json!(2), &json!(2)));
    }
}

#[tokio::test]
async fn damaged_columns_are_refused_with_what_and_where_whatever_is_to_happen_with_bad_rows() {
    let server = serve(PayloadEncoding::Json).await;
    for (kind, body) in each_kind(&batch(vec![Some(1.0)])) {
        let request = || Request::post("/api/v1/ingest/readings?on_error=dead_letter").header("content-type", kind);
        let cut = request().body(Body::from(body[..body.len() - 9].to_vec())).unwrap();
        let (status, answer) = server.send(cut).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2108")), "{answer}");
        assert!(answer["detail"].as_str().unwrap().starts_with("the body is not a"), "{answer}");
        let (status, _) = server.send(request().body(Body::from(TWO)).unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "text is not columns");
    }
    let other: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    for (kind, body) in each_kind(&RecordBatch::try_from_iter([("humidity", other)]).unwrap()) {
        let (status, answer) = server.post_as("content-type", kind, body).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2116")), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("no column temperature"), "{answer}");
    }
    assert!(server.nothing_was_stored());
}

#[tokio::test]
async fn columns_over_the_limit_of_rows_are_refused() {
    let server = serve(PayloadEncoding::Json).await;
    for (kind, body) in each_kind(&batch(vec![Some(1.0); 100_001])) {
        let (status, answer) = server.post_as("content-type", kind, body).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    }
    assert!(server.nothing_was_stored());
}
