//! Clients that send a request and are gone at once: what has begun for them is done, whole.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Client, root_file_system, with_daemon};

/// More than any change takes, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    /// Sends a request and closes the connection without waiting for an answer, until `path` answers as `wanted`: one whose
    /// end is seen together with its request is not begun.
    async fn leave(&self, request: &str, path: &str, wanted: impl Fn(u16, &Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut stream = tokio::net::UnixStream::connect(&self.0).await.expect("connected");
            let text = format!("{request} HTTP/1.1\r\nHost: skep\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await.expect("sent");
            drop(stream);
            let (status, answer) = self.get(path).await;
            if wanted(status, &answer) {
                return;
            }
            assert!(Instant::now() < deadline, "{request}: {status} {answer}");
        }
    }

    async fn leave_deleting(&self, path: &str, shown: &str) {
        self.leave(&format!("DELETE {path}"), shown, |status, _| status == 404).await;
    }
}

#[test]
fn who_leaves_at_once_leaves_nothing_half_done() {
    with_daemon("rl", |client| async move {
        // Other names each time: a request of the round before may still be under way.
        for round in 0..10 {
            let [image, old, new, name] =
                ["image", "old", "new", "name"].map(|name| format!("{name}{round}"));
            let import = format!("/images/create?fromSrc=-&repo={image}");
            assert_eq!(client.ask(Method::POST, &import, root_file_system()).await.0, 200);
            let config =
                json!({ "Image": image, "Cmd": ["/bin/true"], "HostConfig": {"NetworkMode": "none"} });
            let create = format!("/containers/create?name={old}");
            assert_eq!(client.post(&create, config.clone()).await.0, 201);
            let rename = format!("POST /containers/{old}/rename?name={new}");
            client.leave(&rename, &format!("/containers/{new}/json"), |status, _| status == 200).await;
            // The name it had is free again, in a moment.
            let deadline = Instant::now() + PATIENCE;
            while let (status, answer) = client.post(&create, config.clone()).await
                && status != 201
            {
                assert!(Instant::now() < deadline, "round {round}: {answer}");
            }
            for name in [&old, &new] {
                client
                    .leave_deleting(&format!("/containers/{name}"), &format!("/containers/{name}/json"))
                    .await;
            }
            // With its layers.
            let empty = |_, usage: &Value| usage["LayersSize"] == 0 && usage["Images"] == json!([]);
            client.leave(&format!("DELETE /images/{image}"), "/system/df?type=image", empty).await;
            assert_eq!(client.post("/volumes/create", json!({ "Name": name })).await.0, 201);
            client.leave_deleting(&format!("/volumes/{name}"), &format!("/volumes/{name}")).await;
            let back = json!({ "Name": name, "Driver": "bridge" });
            assert_eq!(client.post("/networks/create", back).await.0, 201);
            client.leave_deleting(&format!("/networks/{name}"), &format!("/networks/{name}")).await;
        }
        let (_, check) = client.get("/system/check").await;
        assert_eq!(check["Differences"], json!([]), "{check}");
    });
}
