//! Driver `fluentd`: the forward protocol's mode of single messages (Fluentd Forward Protocol v1).

use std::io;
use std::time::Duration;

use super::endpoint::Link;
use super::msgpack;
use super::sender::{Errand, Receiver, Shim};
use crate::log_config::FluentdOptions;
use crate::log_entry::LogEntry;

/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// An answer is no longer than this.
const ANSWER: usize = 512;

/// A receiver that speaks the forward protocol.
pub(super) struct Fluentd {
    options: FluentdOptions,
    tag: String,
    record: Vec<(String, String)>,
    link: Option<Link>,
}

impl Fluentd {
    pub(super) fn connect(errand: &Errand, options: &FluentdOptions) -> io::Result<Self> {
        let link = match options.asynchronous {
            true => None,
            false => Some(Link::connect(&options.address, None)?),
        };
        let s = &errand.subject;
        let mut record = vec![
            ("container_id".to_owned(), errand.id.clone()),
            ("container_name".to_owned(), format!("/{}", s.name)),
        ];
        record.extend(s.attributes.iter().map(|(k, v)| (k.clone(), v.clone())));
        Ok(Self { options: options.clone(), tag: s.tag.clone(), record, link })
    }

    fn message(&self, entry: &LogEntry, chunk: Option<&str>) -> Vec<u8> {
        let mut fields: Vec<(&str, Vec<u8>)> =
            self.record.iter().map(|(k, v)| (k.as_str(), v.clone().into_bytes())).collect();
        fields.push(("source", entry.source.clone().into_bytes()));
        fields.push(("log", entry.line.clone()));
        if let Some(part) = &entry.part {
            fields.push(("partial_message", b"true".to_vec()));
            fields.push(("partial_id", part.id.clone().into_bytes()));
            fields.push(("partial_ordinal", part.ordinal.to_string().into_bytes()));
            fields.push(("partial_last", part.last.to_string().into_bytes()));
        }
        let mut out = Vec::with_capacity(entry.line.len() + 256);
        msgpack::array(4, &mut out);
        msgpack::text(self.tag.as_bytes(), &mut out);
        match self.options.sub_second {
            true => msgpack::event_time(entry.time_nano, &mut out),
            false => msgpack::number(entry.time_nano.div_euclid(1_000_000_000), &mut out),
        }
        msgpack::map(fields.len(), &mut out);
        for (key, value) in fields {
            msgpack::text(key.as_bytes(), &mut out);
            msgpack::text(&value, &mut out);
        }
        msgpack::map(usize::from(chunk.is_some()), &mut out);
        if let Some(chunk) = chunk {
            msgpack::text(b"chunk", &mut out);
            msgpack::text(chunk.as_bytes(), &mut out);
        }
        out
    }

    fn try_once(&mut self, message: &[u8], chunk: Option<&str>) -> io::Result<()> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::connect(&self.options.address, None)?,
        };
        link.send(message)?;
        if let Some(chunk) = chunk {
            acknowledged(&mut link, chunk)?;
        }
        self.link = Some(link);
        Ok(())
    }
}

/// Waits for `{"ack": chunk}`.
fn acknowledged(link: &mut Link, chunk: &str) -> io::Result<()> {
    let mut wanted = Vec::new();
    msgpack::map(1, &mut wanted);
    msgpack::text(b"ack", &mut wanted);
    msgpack::text(chunk.as_bytes(), &mut wanted);
    let mut answer = Vec::new();
    let mut buffer = [0; ANSWER];
    while answer.len() < wanted.len() {
        match link.receive(&mut buffer)? {
            0 => {
                return Err(io::Error::other(
                    "the receiver closed the connection before it had acknowledged",
                ));
            }
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    if answer == wanted { Ok(()) } else { Err(io::Error::other("the receiver acknowledged something else")) }
}

impl Receiver for Fluentd {
    fn send(&mut self, entry: &LogEntry, shim: &Shim<'_>) -> io::Result<()> {
        let chunk = self.options.request_ack.then(|| hex::encode(rand::random::<[u8; 16]>()));
        let message = self.message(entry, chunk.as_deref());
        let mut wait = self.options.retry_wait;
        let mut tries = 0;
        loop {
            match self.try_once(&message, chunk.as_deref()) {
                Ok(()) => {
                    if tries > 1 {
                        shim.say("fluentd takes messages again");
                    }
                    return Ok(());
                }
                Err(e) if tries >= self.options.max_retries => return Err(e),
                Err(e) => {
                    // The first failure may only be a connection that was closed in between.
                    if tries == 1 {
                        shim.say(&format!("fluentd does not take messages, which wait for it: {e}"));
                    }
                }
            }
            if tries > 0 {
                shim.pause(wait);
                wait = (wait * 3 / 2).min(LONGEST);
            }
            tries += 1;
        }
    }
}
