//! Logs, attached clients, and terminals.

use futures::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::fixture::Bundle;

#[tokio::test]
async fn output_is_logged_by_stream() {
    let bundle = Bundle::new(&["sh", "-c", "echo out; echo err >&2; printf unfinished"]);
    assert_eq!(bundle.run().await.code, 0);
    let mut log = bundle.log();
    log.sort();
    let entry = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(log, [entry("stderr", "err\n"), entry("stdout", "out\n"), entry("stdout", "unfinished")]);
}

#[tokio::test]
async fn logs_rotate_and_lose_nothing_that_is_kept() {
    let mut bundle = Bundle::script("seq 1 200");
    let options = [("max-size", "4096"), ("max-file", "100")];
    bundle.spec.log = skep_engine::LogConfig::from_options("json-file", options).expect("valid");
    assert_eq!(bundle.run().await.code, 0);
    let mut lines = 0;
    for entry in std::fs::read_dir(bundle.path("")).expect("a directory").flatten() {
        if entry.file_name().to_string_lossy().starts_with("json.log") {
            lines += std::fs::read_to_string(entry.path()).expect("a log").lines().count();
            assert!(entry.metadata().expect("there").len() < 4096 + 200);
        }
    }
    assert_eq!(lines, 200);
}

#[tokio::test]
async fn several_clients_share_stdio() {
    let mut bundle = Bundle::new(&["cat"]);
    bundle.spec.open_stdin = true;
    bundle.spec.stdin_once = true;
    let shim = bundle.launch().await.expect("created");
    let mut one = shim.attach(true, true, true, false).await.expect("attached");
    let two = shim.attach(false, true, true, false).await.expect("attached");
    shim.start().await.expect("started");
    // More than any pipe or socket holds, so that everybody has to wait for everybody.
    let data = vec![b'x'; 1 << 20];
    let write = async {
        one.input.write_all(&data).await.expect("written");
        one.input.shutdown().await.expect("ended");
    };
    let read = |output: skep_engine::shim::AttachOutput| {
        output.fold(0, |n, frame| async move { n + frame.expect("a frame").1.len() })
    };
    let ((), first, second) = tokio::join!(write, read(one.output), read(two.output));
    assert_eq!((first, second), (data.len(), data.len()));
    assert_eq!(shim.wait().await.expect("ended").code, 0);
    let logged: usize = bundle.log().iter().map(|(_, text)| text.len()).sum();
    assert_eq!(logged, data.len());
}

#[tokio::test]
async fn a_terminal_is_one() {
    let mut bundle =
        Bundle::script("test -t 0 && test -t 1 && test -c /dev/console && tty && read x && stty size");
    bundle.spec.tty = true;
    bundle.spec.open_stdin = true;
    let shim = bundle.launch().await.expect("created");
    let mut stdio = shim.attach(true, true, false, false).await.expect("attached");
    shim.start().await.expect("started");
    shim.resize(33, 99).await.expect("resized");
    stdio.input.write_all(b"go\n").await.expect("written");
    assert_eq!(shim.wait().await.expect("ended").code, 0);
    let text: String = bundle.log().into_iter().map(|(_, t)| t).collect();
    assert!(text.contains("/dev/pts/0\r\n") && text.contains("33 99\r\n"), "{text:?}");
}
