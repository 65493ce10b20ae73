//! What a daemon says while it pulls, pushes or loads: JSON lines, shown as Docker's client shows them. On a
//! terminal each layer has a line of its own, redrawn in place; elsewhere every change is a line.

use std::io::{IsTerminal, Write};
use std::pin::Pin;

use anyhow::Result;
use futures::TryStreamExt;
use http_body_util::BodyDataStream;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::human;
use super::output;
use super::terminal;

/// Where messages are shown.
pub enum Show {
    /// Standard output.
    Out,
    /// Standard error: the other is the container's.
    Err,
    /// Standard output, or error, each line after a name: several speak at a time.
    Named {
        /// The name.
        name: String,
        /// Standard error.
        err: bool,
    },
    /// Nowhere; errors still count.
    Nowhere,
}

/// Shows all messages of an answer; an error among them fails. `aux` gets the results meant for programs.
pub async fn show(response: Response<Incoming>, to: Show, mut aux: impl FnMut(&Value)) -> Result<()> {
    let mut messages = Messages::of(response, to);
    while let Some(result) = messages.next().await? {
        aux(&result);
    }
    Ok(())
}

/// The messages of an answer, as they come.
pub struct Messages {
    lines: tokio::io::Lines<Pin<Box<dyn AsyncBufRead + Send>>>,
    screen: Screen,
}

impl Messages {
    /// Those of an answer.
    pub fn of(response: Response<Incoming>, to: Show) -> Self {
        let bytes = BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
        let reader = tokio::io::BufReader::new(tokio_util::io::StreamReader::new(bytes));
        let reader: Pin<Box<dyn AsyncBufRead + Send>> = Box::pin(reader);
        Self { lines: reader.lines(), screen: Screen::new(to) }
    }

    /// Shows what comes before the next result that is meant for programs; none = it was the last.
    ///
    /// # Errors
    /// [`Failed`]: a message says so.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        while let Some(line) = self.lines.next_line().await? {
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            failed(&message)?;
            if message.get("aux").is_some() {
                return Ok(Some(message["aux"].clone()));
            }
            self.screen.take(&message)?;
        }
        Ok(None)
    }
}

/// All that an answer says in streams; an error among it fails.
pub async fn collect(response: Response<Incoming>) -> Result<String> {
    let bytes = BodyDataStream::new(response.into_body()).map_err(std::io::Error::other);
    let mut lines = tokio::io::BufReader::new(tokio_util::io::StreamReader::new(bytes)).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await? {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        failed(&message)?;
        said.push_str(message["stream"].as_str().unwrap_or_default());
    }
    Ok(said)
}

/// What a daemon says at the end of what failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// In its words.
    pub message: String,
    /// Exit code of a command that failed; 0 = none did.
    pub code: i64,
}

fn failed(message: &Value) -> Result<()> {
    match message["error"].as_str() {
        None => Ok(()),
        Some(error) => {
            let code = message["errorDetail"]["code"].as_i64().unwrap_or(0);
            Err(Failed { message: error.to_owned(), code }.into())
        }
    }
}

struct Screen {
    to: Show,
    terminal: bool,
    /// Lines that are redrawn, top first, by what they begin with.
    lines: Vec<String>,
    /// A line that has no end yet.
    rest: Vec<u8>,
}

impl Screen {
    fn new(to: Show) -> Self {
        let terminal = match to {
            Show::Out => std::io::stdout().is_terminal(),
            Show::Err => std::io::stderr().is_terminal(),
            Show::Nowhere | Show::Named { .. } => false,
        };
        Self { to, terminal, lines: Vec::new(), rest: Vec::new() }
    }

    fn take(&mut self, message: &Value) -> Result<()> {
        if let Some(text) = message["stream"].as_str() {
            self.lines.clear();
            return self.write(text.as_bytes());
        }
        let id = message["id"].as_str().unwrap_or_default();
        let Some(text) = message["status"].as_str() else { return Ok(()) };
        let detail = &message["progressDetail"];
        let bar = bar(detail);
        if !self.terminal {
            // How far a layer has got would be a line each time.
            if bar.is_some() {
                return Ok(());
            }
            let id = if id.is_empty() { String::new() } else { format!("{id}: ") };
            return self.write(format!("{id}{}\n", text.trim_end()).as_bytes());
        }
        if let (Some(bar), true) = (&bar, id.is_empty()) {
            // Of the whole: the line is drawn over itself.
            return self.write(format!("\x1b[2K{text} {bar}\r").as_bytes());
        }
        let bar = bar.map(|b| format!(" {b}")).unwrap_or_default();
        if id.is_empty() || !detail.is_object() {
            self.lines.clear();
            let id = if id.is_empty() { String::new() } else { format!("{id}: ") };
            return self.write(format!("{id}{}{bar}\r\n", text.trim_end()).as_bytes());
        }
        let mut out = Vec::new();
        let up = match self.lines.iter().position(|l| l == id) {
            Some(at) => self.lines.len() - at,
            None => {
                self.lines.push(id.to_owned());
                out.extend_from_slice(b"\r\n");
                1
            }
        };
        write!(out, "\x1b[{up}A\x1b[2K\r{id}: {text}{bar}\x1b[{up}B\r")?;
        self.write(&out)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &self.to {
            Show::Named { name, err } => {
                self.rest.extend_from_slice(bytes);
                while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                    let mut line = format!("{name} | ").into_bytes();
                    line.extend(self.rest.drain(..=end));
                    match err {
                        true => output::bytes(&mut std::io::stderr(), &line)?,
                        false => output::bytes(&mut std::io::stdout(), &line)?,
                    }
                }
                Ok(())
            }
            Show::Out => output::bytes(&mut std::io::stdout(), bytes),
            Show::Err => output::bytes(&mut std::io::stderr(), bytes),
            Show::Nowhere => Ok(()),
        }
    }
}

/// `[===>   ]  1.5MB/3MB`, as wide as the terminal allows.
fn bar(detail: &Value) -> Option<String> {
    let done = detail["current"].as_i64().filter(|n| *n > 0)?;
    let all = detail["total"].as_i64().unwrap_or(0);
    if all <= 0 {
        return Some(format!("{:>8}", human::size(done)));
    }
    let numbers = format!("{:>8}/{}", human::size(done), human::size(all));
    let columns = terminal::size().map_or(80, |(_, columns)| columns);
    if columns < 110 {
        return Some(numbers);
    }
    let half = usize::try_from(done.saturating_mul(50) / all).unwrap_or(0).min(50);
    Some(format!("[{}>{}] {numbers}", "=".repeat(half), " ".repeat(49usize.saturating_sub(half))))
}
