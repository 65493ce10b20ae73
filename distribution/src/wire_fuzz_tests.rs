//! Raw requests at a server that listens, as no client sends them: each is answered below 500 or hung up on, in time,
//! and afterwards the server goes on and has nothing that is not what its digest says. `PROPTEST_CASES=N` looks longer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use skep_registry::digest_of;

use crate::{AuthOptions, Options, Server};

/// Longest wait for an answer; whatever takes as long hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const BLOB: &[u8] = b"a blob that is there";

/// A request and whether all of it is sent, so that an answer has to come.
#[derive(Clone, Debug)]
struct Raw {
    bytes: Vec<u8>,
    whole: bool,
    /// Where it is cut on the wire, in 65,536ths.
    cut: u16,
}

fn path() -> impl Strategy<Value = String> {
    let there = vec![
        "/v2/",
        "/v2/_catalog",
        "/v2/a/b/tags/list",
        "/v2/a/b/manifests/latest",
        "/v2/a/b/manifests/@MANIFEST",
        "/v2/a/b/manifests/../../../../etc/passwd",
        "/v2/a/b/manifests/sha256:%2e%2e%2f",
        "/v2/a/b/blobs/@BLOB",
        "/v2/../../a/blobs/@BLOB",
        "/v2/a/b/blobs/sha256:00",
        "/v2/a/b/blobs/sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce",
        "/v2/a/b/blobs/uploads/",
        "/v2/a/b/blobs/uploads/@UPLOAD",
        "/v2/a/b/blobs/uploads/..%2f..%2fx",
        "/v2/a/b/referrers/@BLOB",
        "http://elsewhere:1/v2/",
        "*",
        "//",
    ];
    prop_oneof![8 => prop::sample::select(there).prop_map(str::to_owned), 1 => "/[ -~&&[^ #]]{0,40}"]
}

fn query() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "digest",
        "mount",
        "from",
        "n",
        "last",
        "artifactType",
        "digest-algorithm",
        "x",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "@BLOB",
            "@WRONG",
            "sha256:..%2f",
            "a/b",
            "../a",
            "-1",
            "0",
            "99999999999999999999",
            "%zz",
            "%00",
            ""
        ])
        .prop_map(str::to_owned),
        "[a-z0-9%/:+]{0,12}",
    ];
    prop::collection::vec((key, value), 0..3).prop_map(|pairs| {
        let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    })
}

fn headers() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Range: bytes=0-",
        "Range: bytes=5-2",
        "Range: bytes=99999999999999999999-",
        "Range: bytes=-0",
        "Range: bytes=0-0,2-3",
        "Content-Range: 0-19",
        "Content-Range: 18446744073709551615-18446744073709551615",
        "Content-Range: 0-18446744073709551615",
        "Content-Range: bytes 5-6/7",
        "Content-Range: \u{1}",
        "Accept: application/vnd.oci.image.index.v1+json, */*;q=0.1",
        "Accept: ,,,;;",
        "Authorization: Basic OmE=",
        "Authorization: Basic %%%",
        "Authorization: Bearer a.b.c",
        "If-None-Match: *",
        "Docker-Content-Digest: sha256:..",
        "Content-Type: application/vnd.docker.distribution.manifest.v1+prettyjws",
        "Expect: 100-continue",
        "Upgrade: h2c",
        "Host: a\r\nHost: b",
        "X-Forwarded-Host: evil",
    ]);
    let any = "[A-Za-z-]{1,12}: [ -~]{0,40}";
    prop::collection::vec(prop_oneof![4 => known.prop_map(str::to_owned), 1 => any], 0..4)
        .prop_map(|lines| lines.iter().map(|l| format!("{l}\r\n")).collect())
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{0}","size":20}},"layers":[{{"mediaType":"x","digest":"{0}","size":20}}]}}"#,
        digest_of(BLOB)
    );
    prop_oneof![
        Just(Vec::new()),
        Just(BLOB.to_vec()),
        Just(manifest.into_bytes()),
        Just(br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:..","size":-1}]}"#.to_vec()),
        Just([b"[".repeat(5000), b"]".repeat(5000)].concat()),
        prop::collection::vec(any::<u8>(), 0..600),
    ]
}

fn request() -> impl Strategy<Value = Raw> {
    let method = prop_oneof![
        8 => prop::sample::select(vec!["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]),
        1 => prop::sample::select(vec!["OPTIONS", "CONNECT", "TRACE", "X", "get"]),
    ];
    let cut = any::<u16>();
    (method, path(), query(), headers(), body(), 0_u8..9, cut).prop_map(
        |(method, path, query, headers, body, framing, cut)| {
            let head = format!("{method} {path}{query} HTTP/1.1\r\nConnection: close\r\n{headers}");
            let chunk = |size: &str| [size.as_bytes(), b"\r\n", &body, b"\r\n"].concat();
            let (lines, rest, mut whole) = match framing {
                0..=3 => (format!("Content-Length: {}\r\n", body.len()), body.clone(), true),
                4 => {
                    let size = format!("{:x}", body.len());
                    let data = if body.is_empty() { Vec::new() } else { chunk(&size) };
                    ("Transfer-Encoding: chunked\r\n".into(), [data, b"0\r\n\r\n".to_vec()].concat(), true)
                }
                5 => (format!("Content-Length: {}\r\n", u64::MAX), body.clone(), false),
                6 => ("Transfer-Encoding: chunked\r\n".into(), chunk("ffffffffffffffff"), false),
                7 => ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n".into(), chunk("-1"), false),
                _ => ("Content-Length: 1\r\nContent-Length: 2\r\n".into(), body.clone(), false),
            };
            // Whoever asks to wait, or to speak otherwise, may get another kind of answer.
            whole &= !headers.contains("Expect") && !headers.contains("Upgrade") && method != "CONNECT";
            whole &= !headers.to_ascii_lowercase().contains("content-length");
            whole &= !headers.to_ascii_lowercase().contains("transfer-encoding");
            Raw { bytes: [head.as_bytes(), lines.as_bytes(), b"\r\n", &rest].concat(), whole, cut }
        },
    )
}

/// Sends it, all or as far as the server listens; what came back.
fn send(to: SocketAddr, raw: &Raw) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (first, rest) = raw.bytes.split_at(raw.bytes.len() * usize::from(raw.cut) / (1 << 16));
    let sent = stream.write_all(first).and_then(|()| stream.write_all(rest));
    if !raw.whole {
        // What is missing never comes.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut back = Vec::new();
    match stream.read_to_end(&mut back) {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(e),
        // Hung up on.
        _ if sent.is_err() => {}
        _ => {}
    }
    Ok(back)
}

/// The status of an answer; interim ones are passed over.
fn status(mut answer: &[u8]) -> Option<u16> {
    loop {
        let text = String::from_utf8_lossy(answer.get(..13)?).into_owned();
        let code: u16 =
            text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 "))?.get(..3)?.parse().ok()?;
        if code != 100 {
            return Some(code);
        }
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
        answer = &answer[end + 4..];
    }
}

fn plain(to: SocketAddr, method: &str, path: &str, more: &str, body: &[u8]) -> String {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
        body.len()
    );
    let raw = Raw { bytes: [head.as_bytes(), body].concat(), whole: true, cut: 0 };
    String::from_utf8_lossy(&send(to, &raw).expect("an answer")).into_owned()
}

/// Every file below a directory.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        match entry.file_type().expect("a type").is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

#[test]
fn no_request_harms_a_registry() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("registry");
    // A daemon's, with a blob that requests name: also what takes it over is met by them.
    let daemon = tempfile::tempdir().expect("a directory");
    let theirs = daemon.path().join("blobs/sha256");
    std::fs::create_dir_all(&theirs).expect("made");
    let given = theirs.join(digest_of(BLOB).trim_start_matches("sha256:"));
    std::fs::write(&given, BLOB).expect("written");
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: data.clone(),
        daemon_data_root: Some(daemon.path().to_owned()),
        tls: None,
        plain_http: false,
        auth: AuthOptions::Open,
        mirror: None,
        read_only: false,
        upload_age: Duration::from_secs(3600),
        collect: None,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let server = runtime.block_on(Server::bind(&options)).expect("it listens");
    let to = server.address().expect("an address");
    let serving = runtime.spawn(server.serve(std::future::pending()));

    let digest = digest_of(BLOB);
    let upload = || {
        let begun = plain(to, "POST", "/v2/a/b/blobs/uploads/", "", b"");
        let location = begun.lines().find_map(|l| l.strip_prefix("location: ")).expect("a location");
        location.trim().rsplit('/').next().expect("an ID").to_owned()
    };
    let pushed = plain(to, "POST", &format!("/v2/a/b/blobs/uploads/?digest={digest}"), "", BLOB);
    assert!(pushed.starts_with("HTTP/1.1 201"), "{pushed}");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"x","digest":"{digest}","size":20}},"layers":[]}}"#
    );
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
    let put = || plain(to, "PUT", "/v2/a/b/manifests/latest", kind, manifest.as_bytes());
    assert!(put().starts_with("HTTP/1.1 201"), "{}", put());

    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&request(), |mut raw| {
        let text = String::from_utf8_lossy(&raw.bytes).into_owned();
        // Only heads have placeholders; bodies that are no text stay as they are.
        let (head, body) =
            raw.bytes.split_at(raw.bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0));
        let mut head = String::from_utf8_lossy(head).into_owned();
        if head.contains("@UPLOAD") {
            head = head.replace("@UPLOAD", &upload());
        }
        head = head.replace("@BLOB", &digest).replace("@MANIFEST", &digest_of(manifest.as_bytes()));
        head = head.replace("@WRONG", &digest_of(b"other"));
        raw.bytes = [head.as_bytes(), body].concat();
        let answer = match send(to, &raw) {
            Ok(answer) => answer,
            Err(e) => return Err(TestCaseError::fail(format!("{e}: no end of the answer to {text}"))),
        };
        let said = String::from_utf8_lossy(&answer).into_owned();
        match status(&answer) {
            Some(code) => prop_assert!(code < 500, "{said} to {text}"),
            None => prop_assert!(
                !raw.whole && (answer.is_empty() || answer.starts_with(b"HTTP/1.1 100 ")),
                "{said:?} to {text}"
            ),
        }
        prop_assert!(!serving.is_finished(), "the server ended");
        Ok(())
    });
    outcome.expect("no request does harm");

    assert!(plain(to, "GET", "/v2/", "", b"").starts_with("HTTP/1.1 200"), "it goes on");
    // All that is there is what its name says, and nothing was written elsewhere.
    let mut found = Vec::new();
    files(dir.path(), &mut found);
    for file in &found {
        assert!(file.starts_with(&data), "{}", file.display());
        let text = file.display().to_string();
        if let Some((_, hex)) =
            text.rsplit_once("/blobs/sha256/").filter(|(above, _)| Path::new(above) == data)
        {
            let name = hex.rsplit('/').next().unwrap_or(hex);
            let content = std::fs::read(file).expect("a blob");
            assert_eq!(digest_of(&content), format!("sha256:{name}"), "{text}");
        }
    }
    let mut left = Vec::new();
    files(daemon.path(), &mut left);
    assert_eq!(left, std::slice::from_ref(&given), "the daemon's directory is as it was");
    assert_eq!(std::fs::read(given).expect("a blob"), BLOB);
    drop(serving);
    runtime.shutdown_timeout(Duration::from_secs(5));
}
