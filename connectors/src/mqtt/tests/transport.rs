//! TLS between two of our own streams: what is refused, and that it says why; and that bytes come through in any pieces.

use std::sync::Arc;

use ::bytes::BytesMut;
use tidemill_engine::clock::{Clock, ManualClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};

use super::{options, soon};
use crate::mqtt::transport::Stream;
use crate::tls::testing::{Authority, NOW_US, Pair, write_file};
use crate::tls::{TlsClient, TlsServer};

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(NOW_US))
}

fn server(pair: &Pair, client_ca: Option<&Authority>) -> TlsServer {
    TlsServer::new(pair.certificates.clone(), pair.key.clone(), client_ca.map(Authority::certificate), &clock())
}

fn client(pairs: &[(&str, &str)]) -> TlsClient {
    TlsClient::take(&mut options(pairs), ".".as_ref(), &clock()).unwrap()
}

fn trusting(authority: &Authority) -> TlsClient {
    client(&[("tls.ca", authority.certificate().to_str().unwrap())])
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(connecting, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn connect(tcp: TcpStream, client: &TlsClient, host: &str) -> Result<Stream, String> {
    let config = client.config().await.map_err(|error| error.to_string())?;
    let name = client.server_name(host).map_err(|error| error.to_string())?;
    Stream::connect_tls(tcp, config, name).await.map_err(|error| error.to_string())
}

/// Shakes hands, and lets the client read a byte: in TLS 1.3 it learns only then what the server thinks of its certificate.
async fn shake(client: &TlsClient, host: &str, server: &TlsServer) -> (Result<(), String>, Result<(), String>) {
    let (near, far) = tcp_pair().await;
    let config = server.config().await.unwrap();
    let near = async {
        let mut stream = connect(near, client, host).await?;
        let mut bytes = BytesMut::with_capacity(64);
        read_one(&mut stream, &mut bytes).await.map_err(|error| error.to_string())?;
        assert_eq!(&bytes[..], b"!");
        Ok(())
    };
    let far = async {
        let mut stream = Stream::accept_tls(far, config).await.map_err(|error| error.to_string())?;
        stream.write_all(b"!").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())?;
        stream.linger().await;
        Ok(())
    };
    soon("a handshake", async { tokio::join!(near, far) }).await
}

async fn read_one(stream: &mut Stream, bytes: &mut BytesMut) -> std::io::Result<usize> {
    loop {
        stream.ready(Interest::READABLE).await?;
        match stream.try_read(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

#[tokio::test]
async fn a_server_of_our_authority_is_trusted_by_name_and_by_the_name_of_the_options() {
    let authority = Authority::new("own");
    let server = server(&authority.issue("broker.plant"), None);
    assert_eq!(shake(&trusting(&authority), "broker.plant", &server).await, (Ok(()), Ok(())));
    let ca = authority.certificate();
    let renamed = client(&[("tls.ca", ca.to_str().unwrap()), ("tls.server_name", "broker.plant")]);
    assert_eq!(shake(&renamed, "127.0.0.1", &server).await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn what_cannot_be_verified_is_refused_with_the_remedy() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let good = own.issue("broker.plant");
    for (client, pair, words) in [
        (
            trusting(&other),
            &good,
            "issued by nobody we trust: if by an authority of your own, name its PEM file by 'tls.ca'",
        ),
        (trusting(&own), &own.issue("elsewhere.plant"), "is for elsewhere.plant, not for broker.plant"),
        (trusting(&own), &own.issue_until("broker.plant", 2026), "expired 181 days ago: renew it"),
        (client(&[]), &good, "issued by nobody we trust"),
    ] {
        let (near, far) = shake(&client, "broker.plant", &server(pair, None)).await;
        let problem = near.expect_err(words);
        assert!(problem.contains(words), "{problem}");
        far.expect_err("the server is told");
    }
}

#[tokio::test]
async fn an_authority_of_the_same_name_with_another_key_is_not_trusted() {
    let (own, impostor) = (Authority::new("own"), Authority::new("own"));
    let (near, _) = shake(&trusting(&own), "broker.plant", &server(&impostor.issue("broker.plant"), None)).await;
    let problem = near.expect_err("another key");
    assert!(
        problem.contains("not signed by the authority it names") || problem.contains("nobody we trust"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_server_that_demands_a_certificate_gets_it_or_the_client_is_told() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let server = server(&own.issue("broker.plant"), Some(&own));
    let ca = own.certificate();
    let with = |pair: &Pair| {
        client(&[
            ("tls.ca", ca.to_str().unwrap()),
            ("tls.cert", pair.certificates.to_str().unwrap()),
            ("tls.key", pair.key.to_str().unwrap()),
        ])
    };
    assert_eq!(shake(&with(&own.issue("engine")), "broker.plant", &server).await, (Ok(()), Ok(())));

    let (near, far) = shake(&trusting(&own), "broker.plant", &server).await;
    assert_eq!(near, Err("the server demands a client certificate: name one by 'tls.cert' and 'tls.key'".to_owned()));
    assert_eq!(far, Err("the client shows no certificate, and 'tls.client_ca' demands one".to_owned()));

    for (pair, words) in [(other.issue("engine"), "UnknownIssuer"), (own.issue_until("engine", 2026), "expired")] {
        let (near, far) = shake(&with(&pair), "broker.plant", &server).await;
        let problem = near.expect_err("not accepted");
        assert!(problem.contains("does not accept our client certificate"), "{problem}");
        let problem = far.expect_err("not accepted");
        assert!(problem.contains("the client's certificate is refused") && problem.contains(words), "{problem}");
    }
}

#[tokio::test]
async fn a_peer_without_tls_is_told_apart_and_never_spoken_to_in_the_clear() {
    let authority = Authority::new("own");
    // A broker of plain MQTT answers nothing to a ClientHello, or with a packet of its own, or by closing.
    for (answer, words) in [
        (&[0x20, 0x02, 0x00, 0x00, 0x00][..], "does not speak TLS at this port"),
        (&[], "closed the connection during the TLS handshake"),
    ] {
        let (near, mut far) = tcp_pair().await;
        let client = trusting(&authority);
        let broker = async {
            let mut heard = vec![0u8; 4096];
            let count = far.read(&mut heard).await.unwrap();
            assert_eq!(heard[0], 0x16, "a TLS handshake");
            far.write_all(answer).await.unwrap();
            far.shutdown().await.unwrap();
            heard.truncate(count);
            let _ = far.read_to_end(&mut heard).await;
            heard
        };
        let (shaken, heard) = tokio::join!(connect(near, &client, "broker.plant"), broker);
        let problem = shaken.expect_err(words);
        assert!(problem.contains(words), "{problem}");
        assert!(!heard.windows(4).any(|window| window == b"MQTT"));
    }

    // And a device that does not know our listener speaks TLS.
    let (mut near, far) = tcp_pair().await;
    let server = server(&authority.issue("engine"), None);
    let config = server.config().await.unwrap();
    near.write_all(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00").await.unwrap();
    let problem = Stream::accept_tls(far, config).await.expect_err("no TLS").to_string();
    assert!(problem.contains("the client does not speak TLS"), "{problem}");
}

#[tokio::test]
async fn bytes_come_through_whole_in_any_pieces_and_both_directions() {
    const BYTES: usize = 3 << 20;
    let authority = Authority::new("own");
    let (near, far) = tcp_pair().await;
    let (client, server) = (trusting(&authority), server(&authority.issue("broker.plant"), None));
    let config = server.config().await.unwrap();
    let (near, far) = tokio::join!(connect(near, &client, "broker.plant"), Stream::accept_tls(far, config));
    let sent: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
    let exchange = |mut stream: Stream, sent: Vec<u8>, room: usize| async move {
        let (mut got, mut written) = (Vec::new(), 0);
        while got.len() < BYTES || written < sent.len() || stream.has_unsent() {
            let reading = got.len() < BYTES;
            let writing = written < sent.len() || stream.has_unsent();
            let interest = match (reading, writing) {
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (true, false) => Interest::READABLE,
                _ => Interest::WRITABLE,
            };
            stream.ready(interest).await.unwrap();
            if reading {
                let mut bytes = BytesMut::with_capacity(room);
                match stream.try_read(&mut bytes) {
                    Ok(0) => panic!("ended early"),
                    Ok(_) => got.extend_from_slice(&bytes),
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                }
            }
            if written < sent.len() {
                let end = (written + 70_001).min(sent.len());
                match stream.try_write(&sent[written..end]) {
                    Ok(count) => written += count,
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                }
            }
            stream.try_flush().unwrap();
        }
        // Each waits for the other's good-bye, so that none resets what the other has not read.
        stream.shutdown().await.unwrap();
        stream.linger().await;
        got
    };
    let both = async {
        tokio::join!(exchange(near.unwrap(), sent.clone(), 777), exchange(far.unwrap(), sent.clone(), 100_000))
    };
    let (got_near, got_far) = soon("three megabytes", both).await;
    assert!(got_near == sent && got_far == sent);
}

#[tokio::test]
async fn an_alert_behind_bytes_comes_after_them_and_a_good_bye_is_the_end() {
    let authority = Authority::new("own");
    let (near, far) = tcp_pair().await;
    let (client, server) = (trusting(&authority), server(&authority.issue("broker.plant"), None));
    let config = server.config().await.unwrap();
    let (near, far) = tokio::join!(connect(near, &client, "broker.plant"), Stream::accept_tls(far, config));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    far.write_all(b"last words").await.unwrap();
    far.shutdown().await.unwrap();
    let mut bytes = BytesMut::with_capacity(64);
    assert_eq!(soon("bytes", read_one(&mut near, &mut bytes)).await.unwrap(), 10);
    assert_eq!(soon("the end", read_one(&mut near, &mut bytes)).await.unwrap(), 0);
}

#[tokio::test]
async fn changed_files_are_used_for_the_next_connection_and_bad_ones_are_not() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let (pair, replacement) = (own.issue("broker.plant"), other.issue("broker.plant"));
    let time = Arc::new(ManualClock::at(NOW_US));
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&time);
    let server = TlsServer::new(pair.certificates.clone(), pair.key.clone(), None, &clock);
    let before = server.config().await.unwrap();
    let replace = |from: &std::path::Path, to: &std::path::Path| {
        write_file(to, &std::fs::read_to_string(from).unwrap());
    };
    // Certificate first: for a moment it does not fit its key.
    replace(&replacement.certificates, &pair.certificates);
    assert!(Arc::ptr_eq(&before, &server.config().await.unwrap()), "looked at once a second");
    time.advance(std::time::Duration::from_secs(2));
    assert!(Arc::ptr_eq(&before, &server.config().await.unwrap()), "half exchanged");
    replace(&replacement.key, &pair.key);
    time.advance(std::time::Duration::from_secs(2));
    let after = server.config().await.unwrap();
    assert!(!Arc::ptr_eq(&before, &after), "exchanged");

    // A client with a bad file has none.
    let ca = own.path("trusted.pem");
    write_file(&ca, &std::fs::read_to_string(own.certificate()).unwrap());
    let client = TlsClient::take(&mut options(&[("tls.ca", ca.to_str().unwrap())]), ".".as_ref(), &clock).unwrap();
    client.config().await.unwrap();
    write_file(&ca, "nothing");
    time.advance(std::time::Duration::from_secs(2));
    let problem = client.config().await.expect_err("a bad file").to_string();
    assert!(problem.contains("holds no certificate"), "{problem}");
    client.config().await.expect_err("and again");
}

#[tokio::test]
async fn bad_files_are_named_with_the_remedy() {
    let authority = Authority::new("own");
    let (one, two) = (authority.issue("one"), authority.issue("two"));
    let junk = authority.path("junk.pem");
    write_file(&junk, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    let locked = authority.path("locked.pem");
    write_file(&locked, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let missing = authority.path("missing.pem");
    for (certificates, key, words) in [
        (&missing, &one.key, "cannot read"),
        (&junk, &one.key, "is not a PEM file"),
        (&one.key, &one.key, "holds no certificate"),
        (&one.certificates, &one.certificates, "holds no private key"),
        (&one.certificates, &locked, "openssl pkey"),
        (&one.certificates, &two.key, "is not the key of the first certificate in"),
    ] {
        let server = TlsServer::new(certificates.clone(), key.clone(), None, &clock());
        let problem = server.config().await.expect_err(words).to_string();
        assert!(problem.contains(words) && problem.contains(".pem") | problem.contains(".key"), "{problem}");
    }
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for (pairs, words) in [
        (vec![("tls.cert", "a.pem")], "option tls.cert: needs its private key beside it"),
        (vec![("tls.key", "a.pem")], "option tls.key: needs its certificate beside it"),
        (vec![("tls.ca", "")], "option tls.ca: is empty"),
        (vec![("tls.server_name", "no name")], "option tls.server_name: \"no name\" is neither a host name"),
    ] {
        let problem = TlsClient::take(&mut options(&pairs), ".".as_ref(), &clock()).expect_err(words).to_string();
        assert!(problem.contains(words), "{problem}");
    }
    let problem = TlsServer::take(&mut options(&[("tls.client_ca", "a.pem")]), ".".as_ref(), &clock());
    assert!(problem.expect_err("no certificate").to_string().contains("needs the server's own"));
    let problem = TlsClient::refuse(&mut options(&[("tls.ca", "a.pem")]), "say mqtts:// in the url");
    assert!(problem.expect_err("no TLS").to_string().contains("has no meaning without TLS: say mqtts://"));
}
