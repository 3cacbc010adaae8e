//! `CREATE SINK … WITH (connector = 'mqtt')`: from options to a destination.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidemill_engine::clock::Dice;
use tidemill_engine::storage::Storage;

use super::client::{Address, keep_alive_s, session_expiry_s};
use super::courier::{MqttCourier, Publishing};
use super::credentials::{Credentials, FIELD_BYTES_MAX};
use super::link::Broker;
use super::local::{LocalBrokers, LocalCourier};
use super::packet::{QoS, Version};
use super::template::TopicTemplate;
use super::topic::TOPIC_BYTES_MAX;
use crate::Context;
use crate::format::JsonRows;
use crate::options::{OptionError, Options};
use crate::outbox::{Courier, Destination, Encoded, Encoder};
use crate::tls::TlsClient;

/// What `url` begins with for the subscribers of a listener in the same process.
const LOCAL: &str = "listener:";

/// Where an `mqtt` sink delivers to.
struct MqttDestination {
    encoder: Arc<MqttEncoder>,
    way: Way,
    storage: Arc<dyn Storage>,
    client_id_path: String,
    dice: Arc<dyn Dice>,
}

enum Way {
    Broker(Publishing),
    Local { brokers: LocalBrokers, source: String, qos: QoS, retain: bool },
}

/// A topic and a JSON object for each row.
struct MqttEncoder {
    template: TopicTemplate,
    rows: JsonRows,
}

/// Makes the destination from its options; does no I/O. `dir` is the folder of the sink.
pub fn destination(
    dir: &str,
    schema: &SchemaRef,
    options: &mut Options,
    context: &Context,
) -> Result<Arc<dyn Destination>, OptionError> {
    let url = options.require("url")?;
    let topic = options.require("topic")?;
    let template = TopicTemplate::parse(&topic, schema).map_err(|problem| OptionError::new("topic", problem))?;
    let rows = JsonRows::take(schema, options)?;
    let qos = [("0", QoS::AtMostOnce), ("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce)];
    let qos = options.choice("qos", &qos)?.unwrap_or(QoS::AtLeastOnce);
    let retain = options.choice("retain", &[("true", true), ("false", false)])?.unwrap_or(false);
    let way = match url.strip_prefix(LOCAL) {
        Some("") => return Err(OptionError::new("url", "names no source: say 'listener:name'")),
        Some(source) => Way::Local { brokers: context.local_brokers.clone(), source: source.to_owned(), qos, retain },
        None => Way::Broker(publishing(&url, qos, retain, options, context)?),
    };
    Ok(Arc::new(MqttDestination {
        encoder: Arc::new(MqttEncoder { template, rows }),
        way,
        storage: Arc::clone(&context.storage),
        client_id_path: format!("{dir}/client_id"),
        dice: Arc::clone(&context.dice),
    }))
}

fn publishing(
    url: &str,
    qos: QoS,
    retain: bool,
    options: &mut Options,
    context: &Context,
) -> Result<Publishing, OptionError> {
    let Address { host, port, has_tls } = Address::parse(url)?;
    let tls = match has_tls {
        true => Some(Arc::new(TlsClient::take(options, &context.base_dir, &context.clock)?)),
        false => {
            TlsClient::refuse(options, "say mqtts:// in the url")?;
            None
        }
    };
    if let Some(tls) = &tls {
        tls.server_name(&host).map_err(|error| OptionError::new("url", error.to_string()))?;
    }
    let client_id = options.take("client_id");
    if client_id.as_deref() == Some("") {
        let problem = "is empty: the broker could not find our session again; leave it out, and one is made and kept";
        return Err(OptionError::new("client_id", problem));
    }
    if client_id.as_deref().is_some_and(|id| id.len() > FIELD_BYTES_MAX || id.contains('\0')) {
        return Err(OptionError::new("client_id", format!("must have at most {FIELD_BYTES_MAX} bytes and no NUL")));
    }
    let credentials = Credentials::take(options, &context.base_dir)?;
    let version = options.choice("version", &[("5", Version::V5), ("3.1.1", Version::V311)])?.unwrap_or(Version::V5);
    let broker = Broker {
        host,
        port,
        tls,
        client_id: client_id.unwrap_or_default(),
        username: None,
        password: None,
        keep_alive_s: keep_alive_s(options)?,
        session_expiry_s: session_expiry_s(options, 0)?,
    };
    Ok(Publishing { broker, credentials, version, qos, retain })
}

impl Destination for MqttDestination {
    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::clone(&self.encoder) as Arc<dyn Encoder>
    }

    fn courier(&self) -> Box<dyn Courier> {
        match &self.way {
            Way::Broker(publishing) => Box::new(MqttCourier {
                publishing: publishing.clone(),
                storage: Arc::clone(&self.storage),
                client_id_path: self.client_id_path.clone(),
                dice: Arc::clone(&self.dice),
                outbound: None,
                marks_failed: 0,
            }),
            Way::Local { brokers, source, qos, retain } => Box::new(LocalCourier {
                brokers: brokers.clone(),
                source: source.clone(),
                qos: *qos,
                retain: *retain,
                dice: Arc::clone(&self.dice),
                waiting: Vec::new(),
                end: 0,
            }),
        }
    }
}

impl Encoder for MqttEncoder {
    fn encode(&self, rows: &RecordBatch, out: &mut Encoded) -> Result<(), String> {
        let texts = self.rows.texts(rows, self.template.columns())?;
        let payloads = self.rows.write(rows)?;
        let mut topic = String::new();
        for (row, payload) in payloads.rows().enumerate() {
            self.template.render(&mut topic, |column, text| texts.write(column, row, text));
            match topic.len() <= TOPIC_BYTES_MAX {
                true => out.push(topic.as_bytes(), payload),
                false => out.reject(|| {
                    format!("its topic would have {} bytes, and MQTT carries {TOPIC_BYTES_MAX}", topic.len())
                }),
            }
        }
        Ok(())
    }
}
