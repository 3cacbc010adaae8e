//! Bodies that only the declaration of their source explains: records of Avro, messages of Protobuf, text, bytes.

use std::path::Path;

use super::*;
use crate::format::Encoding;
use crate::options::Options;

const AVRO: &str = r#"{"type": "record", "name": "R", "fields": [
    {"name": "device", "type": ["null", "string"]}, {"name": "temperature", "type": "double"}]}"#;

/// A source with a format that needs options, and these columns.
async fn serve_declared(encoding: Encoding, columns: Vec<Field>, options: &[(&str, &str)]) -> Server {
    let folder = format!("{}/src/format/testdata", env!("CARGO_MANIFEST_DIR"));
    let mut options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    let layout = Layout::new(&Arc::new(Schema::new(columns)));
    let format = TaggedFormat::take(encoding, layout, &mut options, Path::new(&folder)).unwrap();
    options.finish().unwrap();
    serve_as(HttpIngest::new(), format).await
}

fn columns() -> Vec<Field> {
    vec![Field::new("device", DataType::Utf8View, true), Field::new("temperature", DataType::Float64, false)]
}

/// A `plant.Reading` of a device, without a temperature if there is none.
fn reading(device: &str, temperature: Option<f64>) -> Vec<u8> {
    let mut bytes = [&[0x0a, device.len() as u8][..], device.as_bytes()].concat();
    temperature.iter().for_each(|value| bytes.extend([&[0x11][..], &value.to_le_bytes()].concat()));
    bytes
}

fn delimited(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| [&[message.len() as u8][..], message].concat()).collect()
}

async fn protobuf() -> Server {
    let options = [("descriptor_file", "readings.desc"), ("message", "plant.Reading")];
    serve_declared(Encoding::Protobuf, columns(), &options).await
}

#[tokio::test]
async fn a_body_is_one_message_of_protobuf_or_many_behind_their_lengths() {
    let server = protobuf().await;
    let one = reading("a", Some(1.5));
    for content_type in ["application/x-protobuf", "application/octet-stream", "application/protobuf; delimited=false"]
    {
        let (status, answer) = server.post_as("content-type", content_type, one.clone()).await;
        assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!(1)), "{content_type}: {answer}");
    }
    let many = delimited(&[one.clone(), reading("", Some(2.5)), reading("c", Some(3.5))]);
    let (status, answer) = server.post_as("content-type", "application/x-protobuf; delimited=true", many.clone()).await;
    assert_eq!((status, &answer["rows"], &answer["position"]), (StatusCode::OK, &json!(3), &json!("readings@6")));
    assert_eq!(server.intake.messages()[5].payload, reading("c", Some(3.5)), "each is a message of its own");
    let request = Request::post("/api/v1/ingest/readings?ack=accepted").header("content-encoding", "gzip");
    let request = request.header("content-type", "application/vnd.google.protobuf; encoding=delimited");
    let (status, answer) = server.send(request.body(Body::from(gzip(&many))).unwrap()).await;
    assert_eq!((status, &answer["rows"]), (StatusCode::ACCEPTED, &json!(3)), "{answer}");
    // JSON goes to the same columns, as it says what it is.
    let (status, _) = server.post_as("content-type", "application/json", "{\"temperature\": 4.5}").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_message_that_cannot_be_used_says_which_it_is_and_takes_all_with_it_unless_told_otherwise() {
    let server = protobuf().await;
    let kind = "application/x-protobuf; delimited=true";
    let body = delimited(&[reading("a", Some(1.0)), reading("b", None), vec![0xff], reading("d", Some(4.0))]);
    let (status, answer) = server.post_as("content-type", kind, body.clone()).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2103")), "{answer}");
    assert_eq!(answer["errors"][0]["row"], 2);
    assert_eq!(answer["errors"][0]["column"], "temperature");
    assert_eq!(answer["errors"][1]["row"], 3);
    assert!(answer["errors"][1]["message"].as_str().unwrap().starts_with("not a plant.Reading message: "));
    let cut = body[..body.len() - 1].to_vec();
    let (status, answer) = server.post_as("content-type", kind, cut).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::BAD_REQUEST, Some("TM2108")), "{answer}");
    assert!(
        answer["detail"].as_str().unwrap().starts_with("message 4, at byte 19, is not whole: it is 12"),
        "{answer}"
    );
    let many = vec![0; 100_001];
    let (status, answer) = server.post_as("content-type", kind, many).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    let long = reading("a", Some(1.0)).repeat((1 << 20) / 12 + 1);
    let (status, answer) = server.post_as("content-type", "application/protobuf", long).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    assert!(server.nothing_was_stored());
    let request = Request::post("/api/v1/ingest/readings?on_error=dead_letter").header("content-type", kind);
    let (status, answer) = server.send(request.body(Body::from(body)).unwrap()).await;
    assert_eq!((status, &answer["rows"], &answer["rejected_count"]), (StatusCode::OK, &json!(2), &json!(2)));
    assert_eq!(server.intake.messages().len(), 4);
}

#[tokio::test]
async fn the_same_key_with_the_same_bytes_in_other_framing_is_another_body() {
    let server = protobuf().await;
    // A message with a text of nine bytes; or a length of ten, and ten bytes.
    let body = [&[0x0a, 9][..], b"no number"].concat();
    let request = |kind: &str| {
        let request = Request::post("/api/v1/ingest/readings?on_error=dead_letter").header("idempotency-key", "k");
        request.header("content-type", kind).body(Body::from(body.clone())).unwrap()
    };
    assert_eq!(server.send(request("application/protobuf")).await.0, StatusCode::OK);
    let (status, answer) = server.send(request("application/protobuf")).await;
    assert_eq!((status, &answer["duplicate"]), (StatusCode::OK, &json!(true)));
    for kind in ["application/protobuf; delimited=true", "application/json"] {
        let (status, answer) = server.send(request(kind)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{kind}: {answer}");
    }
}

#[tokio::test]
async fn where_a_schema_is_declared_a_body_is_a_record_or_a_container() {
    let server = serve_declared(Encoding::Avro, columns(), &[("schema", AVRO)]).await;
    let record = [&[2, 2, b'a'][..], &1.5f64.to_le_bytes()].concat();
    for content_type in ["avro/binary", "application/octet-stream"] {
        let (status, answer) = server.post_as("content-type", content_type, record.clone()).await;
        assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!(1)), "{answer}");
    }
    let container = std::fs::read(format!("{}/src/format/corpus/avro_container/null", env!("CARGO_MANIFEST_DIR")));
    let (_, answer) = server.post_as("content-type", "application/avro", container.unwrap()).await;
    assert!(answer["detail"].as_str().unwrap().contains("has no column temperature"), "{answer}");
    for end in 0..record.len() {
        let (status, answer) = server.post_as("content-type", "application/avro", record[..end].to_vec()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
    assert_eq!(server.intake.chunks.lock().len(), 2);
    let server = serve_declared(Encoding::Avro, columns(), &[]).await;
    let (status, answer) = server.post(record).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["detail"].as_str().unwrap().contains("not an Avro container, which begins with"), "{answer}");
}

#[tokio::test]
async fn each_line_of_text_is_a_row_and_one_that_is_none_is_named() {
    let line = |data_type| vec![Field::new("line", data_type, false)];
    let server = serve_declared(Encoding::Text, line(DataType::Utf8View), &[]).await;
    let (status, answer) = server.post_as("content-type", "text/plain", "one\n\nthree").await;
    assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!(3)), "{answer}");
    let (status, answer) = server.post("\n").await;
    assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!(1)), "an empty line is a row: {answer}");
    let (status, answer) = server.post(&b"one\ntwo\n\xff\nfour"[..]).await;
    assert_eq!((status, &answer["errors"][0]["row"]), (StatusCode::BAD_REQUEST, &json!(3)), "{answer}");
    let (status, _) = server.post(vec![b'\n'; 100_001]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, answer) = server.post([&b"a\n"[..], &vec![b'x'; (1 << 20) + 1]].concat()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["detail"].as_str().unwrap().starts_with("row 2 has more than 1 MiB"), "{answer}");
    assert_eq!(server.intake.chunks.lock().len(), 2);
}

#[tokio::test]
async fn bytes_are_kept_as_they_came_whatever_they_say_of_themselves() {
    let image = vec![Field::new("image", DataType::Binary, false)];
    let server = serve_declared(Encoding::Raw, image, &[]).await;
    for (content_type, body) in
        [("image/jpeg", &b"\xff\xd8\xff"[..]), ("application/json", b"{\"a\": 1}"), ("text/csv", b"\n ")]
    {
        let (status, answer) = server.post_as("content-type", content_type, body.to_vec()).await;
        assert_eq!((status, &answer["rows"]), (StatusCode::OK, &json!(1)), "{answer}");
        let stored = server.intake.messages();
        assert_eq!((&stored.last().unwrap().payload[..], stored.last().unwrap().attributes.len()), (body, 0));
    }
    let (status, _) = server.post("").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let note = vec![Field::new("note", DataType::Utf8View, false)];
    let server = serve_declared(Encoding::Raw, note, &[]).await;
    let (status, answer) = server.post(&b"ok\xff"[..]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["errors"][0]["message"], "not UTF-8 at byte 2: declare the column as BYTES to keep it");
}
