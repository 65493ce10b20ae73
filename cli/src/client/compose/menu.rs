//! The menu of `up` on a terminal: keys that do something while containers run. Docker's others are of Docker Desktop.

use anyhow::Result;
use tokio::io::AsyncReadExt;

use super::super::terminal::Keys;
use super::progress::Report;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Files are watched, or not any more.
    Watch,
    /// The containers go on without us.
    Detach,
    /// An empty line.
    Line,
}

/// The menu, which goes from the terminal when this does.
pub struct Menu {
    report: Report,
    typed: tokio::io::Stdin,
    /// After the footer is gone.
    _keys: Keys,
}

impl Menu {
    /// None where there is nobody to type.
    pub fn open(report: &Report) -> Result<Option<Self>> {
        Ok(Keys::enter()?.map(|keys| Self { report: report.clone(), typed: tokio::io::stdin(), _keys: keys }))
    }

    /// Shows it below all else.
    pub fn show(&self, watches: bool) {
        let watch = if watches { "Disable" } else { "Enable" };
        let key = |key: &str| format!("\x1b[1;7m{key}\x1b[0m");
        let text = format!("{}\x1b[2m {watch} Watch\x1b[0m   {}\x1b[2m Detach\x1b[0m", key("w"), key("d"));
        self.report.footer(&text);
    }

    /// The next key that means something.
    pub async fn key(&mut self) -> Key {
        loop {
            match self.typed.read_u8().await {
                Ok(b'w' | b'W') => return Key::Watch,
                Ok(b'd' | b'D') => return Key::Detach,
                Ok(b'\n' | b'\r') => return Key::Line,
                Ok(_) => {}
                // The terminal is gone.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Drop for Menu {
    fn drop(&mut self) {
        self.report.footer("");
    }
}
