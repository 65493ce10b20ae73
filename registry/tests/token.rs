//! The token flow against a registry and a token server played by hand: what is asked of whom, with which
//! credentials, and what of that reaches a host that a registry sends its clients on to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use skep_registry::{Access, Credentials, Error, Mounted, Registries, Repository, digest_of};

/// One request, as the server saw it.
#[derive(Clone, Debug, Default)]
struct Seen {
    line: String,
    authorization: String,
    body: String,
}

/// Answers requests until the test ends; gives back its address and what it saw.
fn serve(answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let addr = listener.local_addr().expect("an address").to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, answer) = (seen.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (log, answer) = (log.clone(), answer.clone());
            std::thread::spawn(move || talk(stream, &log, answer.as_ref()));
        }
    });
    (addr, seen)
}

fn talk(stream: TcpStream, log: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen) -> String) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut request = Seen::default();
    let mut length = 0;
    // Whoever tries TLS is hung up on.
    if reader.fill_buf().is_ok_and(|b| b.first() == Some(&0x16)) {
        return;
    }
    if reader.read_line(&mut request.line).is_err() {
        return;
    }
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).is_err() || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    request.body = String::from_utf8_lossy(&body).into_owned();
    request.line = request.line.trim().to_owned();
    let text = answer(&request);
    log.lock().expect("no panic").push(request);
    let _ = (&stream).write_all(text.as_bytes());
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

const BLOB: &str = "what is in the blob";

/// A registry whose blobs lie elsewhere, with a token server that knows `me`.
fn registry(elsewhere: String) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let own = Arc::new(Mutex::new(String::new()));
    let me = own.clone();
    let (addr, seen) = serve(move |request| {
        let own = me.lock().expect("no panic").clone();
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/token") {
            return match (request.authorization.as_str(), request.body.as_str()) {
                // me:secret
                ("Basic bWU6c2VjcmV0", _) => {
                    response("200 OK", "", r#"{"token":"good","refresh_token":"again"}"#)
                }
                (_, form) if form.contains("refresh_token=again") => {
                    response("200 OK", "", r#"{"access_token":"good"}"#)
                }
                ("", "") => response("200 OK", "", r#"{"token":"nobody"}"#),
                _ => response("401 Unauthorized", "", r#"{"details":"incorrect username or password"}"#),
            };
        }
        if request.authorization != "Bearer good" {
            let more = if request.authorization.is_empty() { "" } else { ",error=\"insufficient_scope\"" };
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:team/x:pull\"{more}\r\n"
            );
            return response("401 Unauthorized", &challenge, "");
        }
        if path.contains("/blobs/") {
            return response("307 Temporary Redirect", &format!("Location: http://{elsewhere}/far\r\n"), "");
        }
        response("200 OK", "", r#"{"tags":["1","2"]}"#)
    });
    own.lock().expect("no panic").clone_from(&addr);
    (addr, seen)
}

fn tokens(seen: &Mutex<Vec<Seen>>) -> Vec<Seen> {
    let all = seen.lock().expect("no panic").clone();
    all.into_iter().filter(|s| s.line.contains(" /token")).collect()
}

#[tokio::test]
async fn tokens_are_fetched_once_and_stay_with_the_registry() {
    let (far, seen_far) = serve(|_| response("200 OK", "", BLOB));
    // The name of another host: only the address is this one's.
    let far = far.replace("127.0.0.1", "localhost");
    let (addr, seen) = registry(far);
    let repository = Repository { registry: addr.clone(), path: "team/x".into() };
    let me = Credentials { username: "me".into(), password: "secret".into(), ..Credentials::default() };
    let session = Registries::default().open(repository.clone(), me.clone(), Access::Pull).await;
    assert_eq!(session.tags().await.expect("tags"), ["1", "2"]);
    let blob = session.blob(&digest_of(BLOB.as_bytes()), BLOB.len() as u64).await.expect("the blob");
    assert_eq!(blob, BLOB.as_bytes());
    let asked = tokens(&seen);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(
        asked[0].line.starts_with("GET /token?service=test&scope=repository%3Ateam%2Fx%3Apull&account=me"),
        "{asked:?}"
    );
    let far: Vec<String> =
        seen_far.lock().expect("no panic").iter().map(|s| s.authorization.clone()).collect();
    assert_eq!(far, [""], "credentials went to another host");

    // A login gives a token to come back with, which serves in the password's place.
    let login = Credentials { server_address: addr, ..me };
    let again = Registries::default().login(&login).await.expect("logs in");
    assert_eq!(again, "again");
    let me = Credentials { username: "me".into(), identity_token: again, ..Credentials::default() };
    let session = Registries::default().open(repository, me, Access::Pull).await;
    assert_eq!(session.tags().await.expect("tags"), ["1", "2"]);
    let last = tokens(&seen).pop().expect("a token was asked for");
    assert!(
        last.line.starts_with("POST /token ") && last.body.contains("grant_type=refresh_token"),
        "{last:?}"
    );
}

/// An upload that the registry sends elsewhere takes no credentials along, and none is asked for there.
#[tokio::test]
async fn uploads_elsewhere_go_without_credentials() {
    for refuses in [false, true] {
        let (far, seen_far) = serve(move |request| {
            if refuses {
                let asks = "WWW-Authenticate: Basic realm=\"give\"\r\n";
                return response("401 Unauthorized", asks, "");
            }
            match request.line.split(' ').next() {
                Some("PATCH") => response("202 Accepted", "Location: /up/2\r\n", ""),
                _ => response("201 Created", "", ""),
            }
        });
        let far = far.replace("127.0.0.1", "localhost");
        let (addr, seen) = serve(move |request| match request.authorization.as_str() {
            // me:secret
            "Basic bWU6c2VjcmV0" => response("202 Accepted", &format!("Location: http://{far}/up/1\r\n"), ""),
            _ => response("401 Unauthorized", "WWW-Authenticate: Basic realm=\"own\"\r\n", ""),
        });
        let repository = Repository { registry: addr, path: "team/x".into() };
        let me = Credentials { username: "me".into(), password: "secret".into(), ..Credentials::default() };
        let session = Registries::default().open(repository, me, Access::Push).await;
        let Mounted::Send(upload) = session.begin_upload(None).await.expect("begins") else {
            panic!("nothing was to be mounted")
        };
        let body = || Full::new(Bytes::from_static(BLOB.as_bytes())).map_err(|never| match never {}).boxed();
        let size = BLOB.len() as u64;
        let sent = session.upload(upload, &digest_of(BLOB.as_bytes()), size, &body).await;
        assert_eq!(sent.is_err(), refuses, "{sent:?}");
        assert!(seen.lock().expect("no panic").iter().any(|s| !s.authorization.is_empty()));
        let far = seen_far.lock().expect("no panic").clone();
        assert_eq!(far.len(), if refuses { 1 } else { 2 }, "{far:?}");
        assert_eq!(far[0].body, BLOB);
        assert!(far.iter().all(|s| s.authorization.is_empty()), "credentials went to another host: {far:?}");
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let (addr, _) = registry("127.0.0.1:1".into());
    let repository = Repository { registry: addr, path: "team/x".into() };
    let open = async |credentials| {
        let session = Registries::default().open(repository.clone(), credentials, Access::Pull).await;
        session.tags().await.expect_err("not let in")
    };
    let e = open(Credentials::default()).await;
    assert!(matches!(&e, Error::Refused { code, .. } if code == "DENIED"), "{e:?}");
    assert_eq!(e.to_string(), "denied: requested access to the resource is denied");
    let wrong = Credentials { username: "me".into(), password: "wrong".into(), ..Credentials::default() };
    let e = open(wrong).await;
    assert_eq!(e.to_string(), "unauthorized: incorrect username or password");
    assert!(e.is_denied());
}
