//! Request targets with bytes that Docker's server takes bare, on connections that stay open.

use hyper::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{root_file_system, with_daemon};

/// What a server answers to these bytes, until it closes the connection.
async fn told(socket: &std::path::Path, pieces: &[&str]) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.expect("connected");
    for piece in pieces {
        stream.write_all(piece.as_bytes()).await.expect("open");
        stream.flush().await.expect("open");
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn last(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

#[test]
fn bare_quotes_and_braces_are_read_as_docker_reads_them() {
    with_daemon("rt", |client| async move {
        let import = "/images/create?fromSrc=-&repo=hello";
        assert_eq!(client.ask(Method::POST, import, root_file_system()).await.0, 200);
        let config = json!({
            "Image": "hello", "Cmd": ["/bin/true"], "Labels": {"a": "<b>"}, "HostConfig": {"NetworkMode": "none"},
        });
        assert_eq!(client.post("/containers/create?name=one", config).await.0, 201);

        // One after the other on one connection, sent at once; with bodies that look like requests.
        let list = get(r#"/containers/json?all=1&filters={"label":["a=<b>"]}"#);
        let body = r#"{"Name":"vol","Labels":{"l":"GET /\"{} HTTP/1.1"}}"#;
        let head = "POST /v1.41/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
        let plain = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let chunked =
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let images = last(r#"/v1.41/images/json?filters={"reference":["hello"]}"#);
        let all = [list.as_str(), &plain, &chunked, &list, &images].concat();
        let answer = told(&client.0, &[&all]).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert_eq!(statuses, ["200", "201", "201", "200", "200"], "{answer}");
        assert_eq!(answer.matches(r#""Names":["/one"]"#).count(), 2, "{answer}");
        assert_eq!(answer.matches(r#""l":"GET /\"{} HTTP/1.1""#).count(), 2, "{answer}");
        assert_eq!(answer.matches(r#""hello:latest""#).count(), 1, "{answer}");

        // Cut anywhere.
        for at in (1..list.len()).step_by(7) {
            let answer = told(&client.0, &[&list[..at], &list[at..], &images]).await;
            assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{at}: {answer}");
        }
        let answer = told(&client.0, &[&last(r##"/containers/json?all=1&filters={"name":["#"]}"##)]).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("[]\n"), "{answer}");
        let answer = told(&client.0, &[&last("/containers/json?filters={\"nope\":[\"\u{e9}\"]}")]).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("invalid filter 'nope'"), "{answer}");
    });
}

#[test]
fn what_is_no_text_is_refused_in_the_apis_own_form() {
    with_daemon("rn", |client| async move {
        for path in ["/images/%ff/json", "/v1.50/containers/%ff/json", "/networks/%ff", "/volumes/%ff"] {
            let (status, answer) = client.get(path).await;
            let message = answer["message"].as_str().unwrap_or_default();
            assert!(status == 400 && message.contains("UTF-8"), "{path}: {status} {answer}");
        }
    });
}
