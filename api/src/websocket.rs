//! `attach` over a websocket (RFC 6455): output in binary messages as it comes, never multiplexed; what messages of
//! either kind hold is input. A close of the client's ends its input and the connection.

use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt, TryStreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::StreamReader;

use crate::error::{ApiError, ApiResult};
use crate::hijack::{self, Connection, DetachKeys, Fed, Input, Takeover};

/// Most bytes of a message that a client sends. Input is small; more than that in one piece is refused.
const LONGEST: usize = 4 << 20;

/// The answer to a request's key; none of it is secret.
pub struct Handshake(HeaderValue);

impl Handshake {
    /// Refuses what is no websocket's request (RFC 6455, section 4.2.1).
    pub fn read(headers: &HeaderMap) -> ApiResult<Self> {
        let bad = |why: &str| ApiError::bad_request(format!("bad websocket handshake: {why}"));
        if !hijack::wants(headers, "websocket") {
            return Err(bad("the request does not ask to upgrade to a websocket"));
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
            return Err(bad("only version 13 is spoken"));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|k| k.len() == 24);
        let key = key.ok_or_else(|| bad("Sec-WebSocket-Key is not 16 bytes in base64"))?;
        HeaderValue::try_from(derive_accept_key(key.as_bytes())).map(Self).map_err(|e| bad(&e.to_string()))
    }

    /// The answer that takes the connection over and joins it with a container.
    pub fn response(
        self,
        output: BoxStream<'static, Bytes>,
        input: Option<Input>,
        keys: Option<DetachKeys>,
        left: impl FnOnce() + Send + 'static,
    ) -> Response {
        let takeover = Takeover::new(move |connection| async move {
            if join(connection, output, input, keys).await == Fed::Detached {
                left();
            }
        });
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.0);
        response.extensions_mut().insert(takeover);
        response
    }
}

/// Ends when the output does, when the client leaves, or with the keys.
async fn join(
    connection: Box<dyn Connection>,
    mut output: BoxStream<'static, Bytes>,
    input: Option<Input>,
    keys: Option<DetachKeys>,
) -> Fed {
    let limits = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(limits)).await;
    let (mut to_client, from_client) = socket.split();
    let down = async {
        while let Some(piece) = output.next().await {
            if !piece.is_empty() && to_client.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
    };
    let pieces = from_client
        .try_take_while(|message| std::future::ready(Ok(!message.is_close())))
        .try_filter_map(|message| {
            let data = match message {
                Message::Binary(bytes) => Some(bytes),
                Message::Text(text) => Some(text.into()),
                // The library answers pings.
                _ => None,
            };
            std::future::ready(Ok::<_, Error>(data))
        })
        .map_err(std::io::Error::other);
    let input = input.unwrap_or_else(|| Box::pin(tokio::io::sink()));
    let up = hijack::feed(StreamReader::new(Box::pin(pieces)), input, keys);
    let ended = tokio::select! {
        () = down => Fed::Eof,
        fed = up => fed,
    };
    // The other end may have gone already.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), to_client.close()).await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().expect("name"), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_answer_to_a_key_is_the_one_of_the_rfc() {
        let mut asked = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let answer = Handshake::read(&headers(&asked)).unwrap_or_else(|e| panic!("{}", e.message)).0;
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for left_out in 0..asked.len() {
            let gone = asked.remove(left_out);
            assert!(Handshake::read(&headers(&asked)).is_err(), "{gone:?}");
            asked.insert(left_out, gone);
        }
    }

    proptest::proptest! {
        /// Bytes that are no messages, or messages cut anywhere, end the connection and do not hold it.
        #[test]
        fn any_bytes_end(
            messages in proptest::collection::vec((0..16u8, proptest::prelude::any::<bool>(), proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8)), 0..4),
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..16),
        ) {
            let mut bytes = Vec::new();
            for (kind, last, data) in &messages {
                bytes.extend([kind | if *last { 0x80 } else { 0 }, 0x80 | data.len() as u8, 0, 0, 0, 0]);
                bytes.extend(data);
            }
            bytes.extend(&tail);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let (client, server) = tokio::io::duplex(1 << 16);
                let (mut from, mut to) = tokio::io::split(client);
                tokio::io::AsyncWriteExt::write_all(&mut to, &bytes).await.expect("there is room");
                tokio::io::AsyncWriteExt::shutdown(&mut to).await.expect("open");
                let output = futures::stream::pending().boxed();
                let keys = DetachKeys::parse("a").ok();
                let joined = tokio::spawn(join(Box::new(server), output, None, keys));
                let mut got = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut from, &mut got).await.expect("it ends");
                joined.await.expect("no panic");
            });
        }
    }
}
