//! The options of `connector = 'mqtt'`, each with what is wrong with a bad one and what would be right.

use std::time::Duration;

use crate::Context;
use crate::mqtt::credentials::{Credentials, FIELD_BYTES_MAX};
use crate::mqtt::packet::{QoS, Version};
use crate::mqtt::receiver::RECEIVE_MAXIMUM;
use crate::mqtt::session::Retained;
use crate::mqtt::subscribing::{DROPS_TOPIC, Drops, OnDowngrade};
use crate::mqtt::topics::TopicPatterns;
use crate::options::{OptionError, Options};
use crate::tls::TlsClient;

const PORT_DEFAULT: u16 = 1883;
const TLS_PORT_DEFAULT: u16 = 8883;
const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(30);
const SESSION_EXPIRY_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Each connection is a task, a session at the broker, and a partition.
pub(super) const CONNECTIONS_MAX: u16 = 64;

/// What the options say.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) tls: Option<TlsClient>,
    pub(super) topics: TopicPatterns,
    pub(super) qos: QoS,
    pub(super) on_downgrade: OnDowngrade,
    pub(super) drops: Drops,
    pub(super) connections: u16,
    pub(super) credentials: Credentials,
    pub(super) version: Version,
    pub(super) keep_alive_s: u16,
    pub(super) session_expiry_s: u32,
    pub(super) receive_maximum: u16,
    pub(super) retained: Retained,
    pub(super) on_session_loss: OnSessionLoss,
    pub(super) on_foreign_session: OnForeignSession,
}

/// What to do when the broker has lost our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnSessionLoss {
    /// Say it loudly, and go on.
    Continue,
    /// Say it, and end the source.
    Fail,
}

/// What to do when the broker has a session under the client id of a source that never had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnForeignSession {
    /// Take what waits there: it may be our own, from before the data folder was lost.
    Keep,
    /// Throw it away, and begin with what comes next.
    Forget,
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mqtt) struct Address {
    pub(in crate::mqtt) host: String,
    pub(in crate::mqtt) port: u16,
    pub(in crate::mqtt) has_tls: bool,
}

impl Settings {
    /// Takes the options, and the client id if one is given.
    pub(super) fn take(options: &mut Options, context: &Context) -> Result<(Settings, Option<String>), OptionError> {
        let address = Address::parse(&options.require("url")?)?;
        let tls = match address.has_tls {
            true => {
                let tls = TlsClient::take(options, &context.base_dir, &context.clock)?;
                tls.server_name(&address.host).map_err(|error| OptionError::new("url", error.to_string()))?;
                Some(tls)
            }
            false => {
                TlsClient::refuse(options, "say mqtts:// in the url")?;
                None
            }
        };
        let topics = TopicPatterns::parse(&options.require("topic")?)?;
        let qos_words = [("0", QoS::AtMostOnce), ("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce)];
        let qos = options.choice("qos", &qos_words)?.unwrap_or(QoS::AtLeastOnce);
        let connections = number(options, "connections", 1, CONNECTIONS_MAX)?.unwrap_or(1);
        let client_id = options.take("client_id");
        check_client_id(client_id.as_deref(), connections)?;
        let credentials = Credentials::take(options, &context.base_dir)?;
        let yes_or_no = [("true", true), ("false", false)];
        let accepts_downgrade = options.choice("allow_qos_downgrade", &yes_or_no)?.unwrap_or(false);
        let watches_drops = options.choice("watch_drops", &yes_or_no)?.unwrap_or(false);
        if watches_drops && topics.accepts(DROPS_TOPIC) {
            return Err(OptionError::new("watch_drops", format!("the topic takes {DROPS_TOPIC} as messages already")));
        }
        let foreign = [("keep", OnForeignSession::Keep), ("forget", OnForeignSession::Forget)];
        let losses = [("continue", OnSessionLoss::Continue), ("fail", OnSessionLoss::Fail)];
        let settings = Settings {
            address,
            tls,
            topics,
            qos,
            on_downgrade: if accepts_downgrade { OnDowngrade::Accept } else { OnDowngrade::Refuse },
            drops: if watches_drops { Drops::Watch } else { Drops::Ignore },
            connections,
            credentials,
            version: options.choice("version", &[("5", Version::V5), ("3.1.1", Version::V311)])?.unwrap_or(Version::V5),
            keep_alive_s: keep_alive_s(options)?,
            // At QoS 0 nothing waits for us at the broker, so a session need not outlive its connection.
            session_expiry_s: session_expiry_s(options, if qos == QoS::AtMostOnce { 0 } else { 1 })?,
            receive_maximum: number(options, "receive_maximum", 1, u16::MAX)?.unwrap_or(RECEIVE_MAXIMUM),
            retained: options
                .choice("retained", &[("use", Retained::Use), ("skip", Retained::Skip)])?
                .unwrap_or(Retained::Skip),
            on_session_loss: options.choice("on_session_loss", &losses)?.unwrap_or(OnSessionLoss::Continue),
            on_foreign_session: options.choice("on_foreign_session", &foreign)?.unwrap_or(OnForeignSession::Keep),
        };
        Ok((settings, client_id))
    }
}

impl Address {
    /// Reads `mqtt://host[:port]` or `mqtts://host[:port]`.
    pub(in crate::mqtt) fn parse(url: &str) -> Result<Address, OptionError> {
        let error = |problem: String| Err(OptionError::new("url", problem));
        // First of all, and without repeating it: a password may stand there.
        if url.contains('@') {
            return error("credentials do not belong in the URL: use username and password, or a secret".to_owned());
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return error(format!("{url:?} is not a URL such as 'mqtt://broker.example.com:1883'"));
        };
        let has_tls = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => false,
            "mqtts" => true,
            "ssl" | "tls" => return error(format!("write mqtts:// in place of {scheme}://")),
            "tcp" => return error("write mqtt:// in place of tcp://".to_owned()),
            _ => return error(format!("{scheme}:// is not supported: only mqtt:// and mqtts:// work")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return error(format!("{url:?} has a path: a broker has only host and port"));
        }
        // An IPv6 address stands in brackets, because it holds colons itself.
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(None) => return error(format!("{url:?} has no ] after its address")),
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, port))) => (host, port.strip_prefix(':').or(Some(port))),
            None if rest.matches(':').count() > 1 => {
                return error(format!("{url:?} has several colons: an address of IPv6 stands in brackets, [::1]"));
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return error(format!("{url:?} has no host"));
        }
        if host.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
            return error(format!("{host:?} is not the name of a host"));
        }
        let port = match port {
            None if has_tls => TLS_PORT_DEFAULT,
            None => PORT_DEFAULT,
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return error(format!("{text:?} is not a port: use a number from 1 to 65535")),
            },
        };
        Ok(Address { host: host.to_owned(), port, has_tls })
    }
}

/// Takes option `keep_alive`.
pub(in crate::mqtt) fn keep_alive_s(options: &mut Options) -> Result<u16, OptionError> {
    seconds(options, "keep_alive", KEEP_ALIVE_DEFAULT, 1)
}

/// Takes option `session_expiry`.
pub(in crate::mqtt) fn session_expiry_s(options: &mut Options, min: u64) -> Result<u32, OptionError> {
    seconds(options, "session_expiry", SESSION_EXPIRY_DEFAULT, min)
}

fn check_client_id(client_id: Option<&str>, connections: u16) -> Result<(), OptionError> {
    let Some(id) = client_id else { return Ok(()) };
    let error = |problem: &str| Err(OptionError::new("client_id", problem));
    if id.is_empty() {
        return error("is empty: the broker could not find our session again; leave it out, and one is made and kept");
    }
    if id.len() > FIELD_BYTES_MAX / 2 || id.contains('\0') {
        return error("must have at most 32767 bytes and no NUL");
    }
    if connections > 1 && id.contains(['/', '+', '#']) {
        return error("names the group of the connections, and so may not hold /, + or #");
    }
    Ok(())
}

fn number(options: &mut Options, key: &'static str, min: u16, max: u16) -> Result<Option<u16>, OptionError> {
    let Some(text) = options.take(key) else { return Ok(None) };
    match text.parse::<u16>() {
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => Err(OptionError::new(key, format!("{text:?} is not a number from {min} to {max}"))),
    }
}

fn seconds<T: TryFrom<u64> + std::fmt::Display>(
    options: &mut Options,
    key: &'static str,
    default: Duration,
    min: u64,
) -> Result<T, OptionError> {
    let duration = options.duration(key)?.unwrap_or(default);
    let whole = (duration.subsec_nanos() == 0 && duration.as_secs() >= min).then_some(duration.as_secs());
    whole.and_then(|seconds| T::try_from(seconds).ok()).ok_or_else(|| {
        let max = if size_of::<T>() == 2 { u64::from(u16::MAX) } else { u64::from(u32::MAX) };
        OptionError::new(key, format!("must be whole seconds, from {min} to {max}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_url() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/url");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let url = String::from_utf8_lossy(input);
            match Address::parse(&url) {
                Ok(address) => {
                    let Address { host, port, has_tls } = &address;
                    let (scheme, host) = (if *has_tls { "mqtts" } else { "mqtt" }, host.as_str());
                    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                    assert_eq!(Address::parse(&format!("{scheme}://{host}:{port}")), Ok(address), "{url:?}");
                    true
                }
                Err(error) => {
                    assert_eq!(error.key, "url");
                    assert!(!url.contains('@') || !error.problem.contains("hunter2"), "{url:?}: {error}");
                    false
                }
            }
        });
    }

    #[test]
    fn urls_name_host_and_port() {
        for (url, host, port, has_tls) in [
            ("mqtt://localhost", "localhost", 1883, false),
            ("mqtt://localhost:2883/", "localhost", 2883, false),
            ("mqtts://localhost", "localhost", 8883, true),
            ("MQTTS://localhost:1883", "localhost", 1883, true),
            ("mqtt://10.0.0.1:1", "10.0.0.1", 1, false),
            ("mqtt://[::1]", "::1", 1883, false),
            ("mqtts://[::1]:2000", "::1", 2000, true),
        ] {
            assert_eq!(Address::parse(url), Ok(Address { host: host.to_owned(), port, has_tls }), "{url}");
        }
        for (url, words) in [
            ("localhost:1883", "is not a URL such as"),
            ("", "is not a URL such as"),
            ("ssl://x", "write mqtts:// in place of ssl://"),
            ("tcp://x", "write mqtt:// in place of tcp://"),
            ("ws://x", "ws:// is not supported: only mqtt:// and mqtts:// work"),
            ("mqtt://u:hunter2@x", "use username and password, or a secret"),
            ("u:hunter2@x", "use username and password, or a secret"),
            ("mqtt://x/y", "has a path"),
            ("mqtt://x?y=1", "has a path"),
            ("mqtt://", "has no host"),
            ("mqtt://:1883", "has no host"),
            ("mqtt://x:0", "not a port: use a number from 1 to 65535"),
            ("mqtt://x:99999", "not a port"),
            ("mqtt://x:", "not a port"),
            ("mqtt://[::1]x", "not a port"),
            ("mqtt://[::1", "has no ] after its address"),
            ("mqtt://::1", "stands in brackets"),
            ("mqtt://a b", "is not the name of a host"),
        ] {
            let error = Address::parse(url).expect_err(url).to_string();
            assert!(error.starts_with("option url: ") && error.contains(words), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
