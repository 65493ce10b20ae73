//! The file a log is kept in, and how messages are written there.

use std::io;

use super::lines::Message;
use super::rotating::Rotating;
use super::{entry, json};
use crate::log_config::LogFormat;
use crate::log_entry::EntryAttribute;
use crate::shim::spec::ShimSpec;

/// A log on disk.
pub(super) struct LogFile {
    out: Rotating,
    format: Format,
}

enum Format {
    /// With the attributes as they stand in each line.
    Json(Vec<u8>),
    Entries(Vec<EntryAttribute>),
}

impl LogFile {
    /// Opens it for appending.
    pub(super) fn open(spec: &ShimSpec, format: LogFormat) -> io::Result<Self> {
        let told = &spec.log_subject.attributes;
        let rotation = spec.log.rotation();
        let out = Rotating::open(spec.log_path.clone(), rotation, format == LogFormat::Entries)?;
        let format = match format {
            LogFormat::Json => Format::Json(json::attributes(told)),
            LogFormat::Entries => Format::Entries(
                told.iter().map(|(k, v)| EntryAttribute { key: k.clone(), value: v.clone() }).collect(),
            ),
        };
        Ok(Self { out, format })
    }

    /// Adds a message.
    pub(super) fn add(&mut self, m: &Message<'_>) -> io::Result<()> {
        let out = self.out.next()?;
        match &self.format {
            Format::Json(attributes) => json::put(m, attributes, out),
            Format::Entries(attributes) => {
                let mut entry = entry(m);
                entry.attributes.clone_from(attributes);
                entry.put(out);
                Ok(())
            }
        }
    }

    /// Writes out what was added.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
