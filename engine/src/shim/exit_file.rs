//! The exit status on disk: what a daemon that was not there finds out by.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::spec::{EXIT_FILE, Exit};

/// Writes it into `bundle`, visible whole or not at all. Returns the open file: making it durable
/// against a power failure is left to the caller, since a container does not survive one either.
pub fn write(bundle: &Path, exit: &Exit) -> io::Result<File> {
    let temporary = bundle.join("exit.json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, bundle.join(EXIT_FILE))?;
    Ok(file)
}

/// Reads it, if it is there and whole.
pub fn read(bundle: &Path) -> io::Result<Option<Exit>> {
    match std::fs::read(bundle.join(EXIT_FILE)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
