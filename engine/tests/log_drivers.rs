//! Log drivers besides json-file, with receivers of their protocols on loopback.

mod support;

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use skep_engine::{ContainerConfig, Engine, Error, LogConfig, LogFrame, LogOptions, WaitCondition};
use support::{Fixture, Outcome};

const LONG: Duration = Duration::from_secs(60);

fn sh(driver: &str, options: &[(&str, &str)], script: &str) -> ContainerConfig {
    ContainerConfig {
        image: "bb:1".into(),
        cmd: Some(["sh", "-c", script].map(str::to_owned).into()),
        labels: [("team".to_owned(), "a b".to_owned()), ("other".to_owned(), "x".to_owned())].into(),
        log: LogConfig::from_options(driver, options.iter().copied()).expect("valid options"),
        ..Default::default()
    }
}

fn both() -> LogOptions {
    LogOptions { stdout: true, stderr: true, ..Default::default() }
}

async fn frames(e: &Engine, id: &str, o: LogOptions) -> Result<Vec<LogFrame>, Error> {
    e.logs(id, o).await?.collect::<Vec<_>>().await.into_iter().collect()
}

fn text(frames: &[LogFrame]) -> String {
    frames.iter().map(|f| String::from_utf8_lossy(&f.data)).collect()
}

async fn logs(e: &Engine, id: &str, o: LogOptions) -> Result<String, Error> {
    Ok(text(&frames(e, id, o).await?))
}

/// Follows a log until so many more messages of this text are there.
async fn followed(e: &Engine, id: &str, word: &str, count: usize, o: LogOptions) -> Outcome {
    let frames = e.logs(id, LogOptions { follow: true, ..o }).await?;
    let wanted = frames.filter(|f| {
        let has = f.as_ref().is_ok_and(|f| String::from_utf8_lossy(&f.data).contains(word));
        std::future::ready(has)
    });
    let got = tokio::time::timeout(LONG, wanted.take(count).count()).await?;
    assert_eq!(got, count, "messages with {word:?}");
    Ok(())
}

/// Runs a container to its end.
async fn finish(e: &Engine, name: &str, config: ContainerConfig) -> Result<i32, Error> {
    e.create(Some(name.into()), config).await?;
    let exit = e.wait(name, WaitCondition::NextExit)?;
    e.start(name).await?;
    Ok(exit.await?.code)
}

fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    let stream = listener.accept()?.0;
    stream.set_read_timeout(Some(LONG))?;
    Ok(stream)
}

/// Reads until the words have come.
fn until(stream: &mut impl Read, words: &str) -> std::io::Result<String> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&got).contains(words) {
        match stream.read(&mut buffer)? {
            0 => {
                return Err(std::io::Error::other(format!("ended with {:?}", String::from_utf8_lossy(&got))));
            }
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&got).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn local_logs_are_rotated_compressed_and_read_with_every_option() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let options =
        [("max-size", "20k"), ("max-file", "100"), ("labels", "team"), ("env", "A"), ("tag", "{{.Name}}")];
    e.create(
        Some("ll".into()),
        sh(
            "local",
            &options,
            "seq 1 3000; echo oops >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; echo end",
        ),
    )
    .await?;
    let exit = e.wait("ll", WaitCondition::NextExit)?;
    e.start("ll").await?;
    let followed = logs(e, "ll", LogOptions { follow: true, ..both() }).await?;
    exit.await?;
    let mut wanted: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    let long = "x".repeat(40_000);
    wanted += &format!("oops\n{long}\nend\n");
    let all = frames(e, "ll", both()).await?;
    // Two streams: which of two lines written at once came first is nobody's promise.
    let sorted = |t: &str| {
        let mut lines: Vec<String> = t.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert!(sorted(&text(&all)) == sorted(&wanted), "{} of {} bytes", text(&all).len(), wanted.len());
    assert!(sorted(&followed) == sorted(&wanted), "followed {} of {} bytes", followed.len(), wanted.len());
    let attributes = [("A", "1"), ("tag", "ll"), ("team", "a b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(all[0].attributes, attributes);
    let path = e.inspect("ll")?.log_path.clone();
    assert!(std::path::PathBuf::from(format!("{}.2.gz", path.display())).exists(), "it was compressed");
    let raw = std::fs::read(&path)?;
    let length = u32::from_be_bytes(raw[..4].try_into()?) as usize;
    assert_eq!(raw[..4], raw[4 + length..8 + length], "an entry stands between its lengths");
    for tail in [0, 1, 2500] {
        let got = logs(e, "ll", LogOptions { tail: Some(tail), ..both() }).await?;
        assert!(text(&all).ends_with(&got), "tail {tail}");
        assert_eq!(frames(e, "ll", LogOptions { tail: Some(tail), ..both() }).await?.len() as u64, tail);
    }
    assert_eq!(logs(e, "ll", LogOptions { stderr: true, ..Default::default() }).await?, "oops\n");
    assert_eq!(logs(e, "ll", LogOptions { since_ns: Some(i64::MAX), ..both() }).await?, "");
    assert_eq!(logs(e, "ll", LogOptions { until_ns: Some(1), ..both() }).await?, "");

    // Cut short by a crash of the host: told of, and repaired by the next run.
    std::fs::write(&path, &raw[..raw.len() - 3])?;
    let cut = e.logs("ll", both()).await?.collect::<Vec<_>>().await;
    assert!(matches!(cut.last(), Some(Err(Error::DamagedLog { .. }))));
    let exit = e.wait("ll", WaitCondition::NextExit)?;
    e.start("ll").await?;
    exit.await?;
    assert!(logs(e, "ll", LogOptions { tail: Some(1), ..both() }).await?.ends_with('\n'));
    frames(e, "ll", both()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_goes_out_in_its_formats_and_is_read_from_the_cache() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.set_read_timeout(Some(LONG))?;
    let address = format!("udp://{}", udp.local_addr()?);
    let options = [
        ("syslog-address", address.as_str()),
        ("syslog-format", "rfc5424micro"),
        ("syslog-facility", "local3"),
        ("tag", "{{.Name}}/{{.ImageName}}"),
    ];
    assert_eq!(finish(e, "udp", sh("syslog", &options, "echo one; echo two >&2")).await?, 0);
    let mut got = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 2048];
        let n = udp.recv(&mut buffer)?;
        got.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    got.sort();
    // local3 is 19; stderr is an error (3), stdout is information (6).
    for (message, (priority, word)) in
        got.iter().zip([("<155>1 ", " udp/bb:1 - two\n"), ("<158>1 ", " udp/bb:1 - one\n")])
    {
        assert!(message.starts_with(priority) && message.ends_with(word), "{message:?}");
    }
    let mut cached: Vec<String> = logs(e, "udp", both()).await?.lines().map(str::to_owned).collect();
    cached.sort();
    assert_eq!(cached, ["one", "two"]);

    let path = f.dir().join("log");
    let unix = UnixDatagram::bind(&path)?;
    unix.set_read_timeout(Some(LONG))?;
    let address = format!("unix://{}", path.display());
    let options = [("syslog-address", address.as_str()), ("cache-disabled", "true")];
    finish(e, "unix", sh("syslog", &options, "echo three")).await?;
    let mut buffer = [0; 2048];
    let n = unix.recv(&mut buffer)?;
    let id = e.inspect("unix")?.id.to_string();
    let message = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(message.starts_with("<30>") && message.contains(&format!(" {}[", &id[..12])), "{message:?}");
    let error = logs(e, "unix", both()).await.err().ok_or("read without a cache")?.to_string();
    assert_eq!(error, "configured logging driver does not support reading");
    Ok(())
}

/// A server that wants certificates of its own authority, whose file it leaves in a directory with a client's.
fn tls_server(dir: &Path) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = rcgen::Issuer::new(params, key);
    let signed = |name: &str| -> Result<(rcgen::Certificate, rcgen::KeyPair), rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        Ok((rcgen::CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?, key))
    };
    let (client, client_key) = signed("client")?;
    std::fs::write(dir.join("ca.pem"), authority.pem())?;
    std::fs::write(dir.join("cert.pem"), client.pem())?;
    std::fs::write(dir.join("key.pem"), client_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let (server, server_key) = signed("127.0.0.1")?;
    let key = PrivateKeyDer::try_from(server_key.serialize_der())?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![server.der().clone()], key)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_over_tls_is_framed_and_both_ends_are_verified() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let config = Arc::new(tls_server(f.dir())?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp+tls://{}", listener.local_addr()?);
    // Every connection is told of by what came over it, or by why nothing did.
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(stream) = accept(&listener) {
            let Ok(connection) = ServerConnection::new(config.clone()) else { break };
            let mut stream = StreamOwned::new(connection, stream);
            let mut got = String::new();
            let ended = stream.read_to_string(&mut got);
            if told.send(ended.map(|_| got.clone()).map_err(|e| format!("{got}: {e}"))).is_err() {
                break;
            }
        }
    });
    let file = |name: &str| f.dir().join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let trusting = [
        ("syslog-address", address.as_str()),
        ("syslog-tls-ca-cert", ca.as_str()),
        ("syslog-tls-cert", cert.as_str()),
        ("syslog-tls-key", key.as_str()),
        ("syslog-format", "rfc5424"),
    ];
    assert_eq!(finish(e, "known", sh("syslog", &trusting, "echo one; echo two")).await?, 0);
    let got = hears.recv_timeout(LONG)??;
    // RFC 5425: each message after its length.
    let (mut rest, mut messages) = (got.as_str(), Vec::new());
    while let Some((length, after)) = rest.split_once(' ') {
        let (message, after) = after.split_at(length.parse()?);
        messages.push(message.trim_end().rsplit(' ').next());
        rest = after;
    }
    assert_eq!(messages, [Some("one"), Some("two")], "{got:?}");

    // A server whose authority nobody named is not spoken to.
    std::fs::create_dir(f.dir().join("other"))?;
    tls_server(&f.dir().join("other"))?;
    let other = file("other/ca.pem");
    let distrusting = [("syslog-address", address.as_str()), ("syslog-tls-ca-cert", other.as_str())];
    let error = finish(e, "unknown", sh("syslog", &distrusting, "echo x")).await.err();
    let error = error.ok_or("spoke to a stranger")?.to_string();
    assert!(
        error.contains("failed to initialize logging driver") && error.contains("certificate"),
        "{error}"
    );
    assert!(hears.recv_timeout(LONG)?.is_err_and(|e| e.starts_with(": ")), "nothing was said to it");
    // One that asks for no verification has it.
    let blind = [&trusting[..1], &trusting[2..], &[("syslog-tls-skip-verify", "true")]].concat();
    assert_eq!(finish(e, "blind", sh("syslog", &blind, "echo three")).await?, 0);
    assert!(hears.recv_timeout(LONG)??.trim_end().ends_with(" three"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_stops_a_start_but_no_container() -> Outcome {
    let mut f = Fixture::new().await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp://{}", listener.local_addr()?);
    let options = [("syslog-address", address.as_str())];
    let counting = "n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo line $n; sleep 0.05; done";
    f.engine.create(Some("tcp".into()), sh("syslog", &options, counting)).await?;
    f.engine.start("tcp").await?;
    let mut stream = accept(&listener)?;
    until(&mut stream, "line 3\n")?;
    // The daemon is gone; the shim goes on.
    f.crash().await?;
    let got = until(&mut stream, "\n")?;
    until(&mut stream, "\n")?;
    assert!(got.contains("line "));
    f.reopen().await?;
    until(&mut stream, "line ")?;
    // The receiver is gone, connection and all, and comes back.
    drop((stream, listener));
    let e = &f.engine;
    followed(e, "tcp", "line ", 40, LogOptions { tail: Some(0), ..both() }).await?;
    let listener = TcpListener::bind(address.trim_start_matches("tcp://"))?;
    let mut stream = accept(&listener)?;
    until(&mut stream, "line ")?;
    e.stop("tcp", Some(Duration::ZERO)).await?;
    drop((stream, listener));
    let error = e.start("tcp").await.err().ok_or("started without a receiver")?.to_string();
    assert!(error.contains("failed to initialize logging driver: dial tcp 127.0.0.1:"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fluentd_gets_every_message_also_after_it_was_away() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let options = [
        ("fluentd-address", address.as_str()),
        ("fluentd-retry-wait", "50ms"),
        ("labels-regex", "^te"),
        ("tag", "app.{{.Name}}"),
    ];
    e.create(
        Some("fl".into()),
        sh("fluentd", &options, "echo first; sleep 1; echo second; sleep 0.2; echo third >&2"),
    )
    .await?;
    e.start("fl").await?;
    let mut stream = accept(&listener)?;
    let got = until(&mut stream, "first")?;
    // [tag, time, record, options], with a tag of six bytes.
    assert!(got.len() > 10 && got.contains("app.fl"), "{got:?}");
    for word in ["container_id", "container_name\u{fffd}/fl", "source", "stdout", "team\u{fffd}a b"] {
        assert!(got.replace(['\u{a3}', '\u{a6}'], "\u{fffd}").contains(word), "{got:?} lacks {word}");
    }
    assert!(!got.contains("other"));
    drop((stream, listener));
    let exit = e.wait("fl", WaitCondition::NotRunning)?;
    followed(e, "fl", "second", 1, both()).await?;
    let listener = TcpListener::bind(&address)?;
    let mut stream = accept(&listener)?;
    let got = until(&mut stream, "third")?;
    assert!(got.contains("second") && got.contains("stderr"), "{got:?}");
    assert_eq!(exit.await?.code, 0);

    // Asynchronous: nothing listens, and the container neither waits nor grows.
    drop((stream, listener));
    let options =
        [("fluentd-address", address.as_str()), ("fluentd-async", "true"), ("fluentd-buffer-limit", "64k")];
    assert_eq!(finish(e, "away", sh("fluentd", &options, "seq 1 50000")).await?, 0);
    assert_eq!(frames(e, "away", both()).await?.len(), 50_000, "the cache has it all");

    // With acknowledgements.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let options = [
        ("fluentd-address", address.as_str()),
        ("fluentd-request-ack", "true"),
        ("fluentd-sub-second-precision", "true"),
    ];
    let receiver = std::thread::spawn(move || -> std::io::Result<usize> {
        let mut stream = accept(&listener)?;
        let mut acknowledged = 0;
        let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
        while acknowledged < 2 {
            let n = stream.read(&mut buffer)?;
            got.extend_from_slice(&buffer[..n]);
            // {"chunk": 32 hexadecimal digits} ends a message.
            if let Some(at) = got.windows(6).position(|w| w == b"\xa5chunk")
                && let Some(chunk) = got.get(at + 8..at + 40)
            {
                stream.write_all(&[b"\x81\xa3ack\xd9\x20", chunk].concat())?;
                acknowledged += 1;
                got.drain(..at + 40);
            }
        }
        Ok(acknowledged)
    });
    assert_eq!(finish(e, "ack", sh("fluentd", &options, "echo a; sleep 0.1; echo b")).await?, 0);
    assert_eq!(receiver.join().map_err(|_| "panicked")??, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_nothing_holds_up_only_those_who_wait_for_it() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp://{}", listener.local_addr()?);
    let lines = "seq 1 100000";
    let options =
        [("syslog-address", address.as_str()), ("mode", "non-blocking"), ("max-buffer-size", "64k")];
    assert_eq!(finish(e, "nb", sh("syslog", &options, lines)).await?, 0);
    let options = [("syslog-address", address.as_str()), ("cache-disabled", "true")];
    e.create(Some("bl".into()), sh("syslog", &options, lines)).await?;
    let exit = e.wait("bl", WaitCondition::NextExit)?;
    e.start("bl").await?;
    // The first connection is the other container's.
    drop(accept(&listener)?);
    let stream = accept(&listener)?;
    let lines = std::io::BufReader::new(stream).lines().take(100_000).collect::<Result<Vec<_>, _>>()?;
    assert!(lines.last().is_some_and(|l| l.ends_with(": 100000")), "{:?}", lines.last());
    assert_eq!(exit.await?.code, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_given_up_a_while_after_the_containers_end() -> Outcome {
    let f = Fixture::new().await?;
    let e = &f.engine;
    let unused = TcpListener::bind("127.0.0.1:0")?;
    let address = unused.local_addr()?.to_string();
    drop(unused);
    // Each of these waits for longer than it may, at once or by many attempts.
    for (name, wait) in [("often", "100ms"), ("seldom", "60s")] {
        let options =
            [("fluentd-address", address.as_str()), ("fluentd-async", "true"), ("fluentd-retry-wait", wait)];
        assert_eq!(finish(e, name, sh("fluentd", &options, "echo lost")).await?, 0);
    }
    let deadline = std::time::Instant::now() + LONG;
    while !support::shims(f.dir()).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?} go on", support::shims(f.dir()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
