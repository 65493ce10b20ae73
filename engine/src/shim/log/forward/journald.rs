//! Driver `journald`: systemd's native protocol, datagrams of fields, and sealed memory where a message is too
//! long for one (systemd: JOURNAL_NATIVE_PROTOCOL).

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::sender::{Errand, Receiver, Shim};
use crate::log_entry::LogEntry;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal.
pub(super) struct Journald {
    path: PathBuf,
    socket: UnixDatagram,
    /// The fields of every message.
    fields: Vec<u8>,
}

impl Journald {
    pub(super) fn connect(errand: &Errand, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let socket = dial(&path).map_err(|e| {
            io::Error::new(e.kind(), format!("journald is not enabled on this host: {}: {e}", path.display()))
        })?;
        let mut fields = Vec::new();
        let s = &errand.subject;
        let id = &errand.id;
        for (name, value) in [
            ("CONTAINER_ID", id.get(..12).unwrap_or(id)),
            ("CONTAINER_ID_FULL", id),
            ("CONTAINER_NAME", &s.name),
            ("CONTAINER_TAG", &s.tag),
            ("IMAGE_NAME", &s.image),
            ("SYSLOG_IDENTIFIER", &s.tag),
        ] {
            put(name, value.as_bytes(), &mut fields);
        }
        for (name, value) in &s.attributes {
            let name = field_name(name);
            if !name.is_empty() {
                put(&name, value.as_bytes(), &mut fields);
            }
        }
        Ok(Self { path, socket, fields })
    }

    fn message(&self, entry: &LogEntry) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.len() + entry.line.len() + 128);
        put("MESSAGE", &entry.line, &mut out);
        put("PRIORITY", if entry.source == "stderr" { b"3" } else { b"6" }, &mut out);
        put("SYSLOG_TIMESTAMP", rfc3339(entry.time_nano).as_bytes(), &mut out);
        if let Some(part) = &entry.part {
            if !part.last {
                put("CONTAINER_PARTIAL_MESSAGE", b"true", &mut out);
            }
            put("CONTAINER_PARTIAL_ID", part.id.as_bytes(), &mut out);
            put("CONTAINER_PARTIAL_ORDINAL", part.ordinal.to_string().as_bytes(), &mut out);
            put("CONTAINER_PARTIAL_LAST", if part.last { b"true" } else { b"false" }, &mut out);
        }
        out.extend_from_slice(&self.fields);
        out
    }
}

impl Receiver for Journald {
    fn send(&mut self, entry: &LogEntry, shim: &Shim<'_>) -> io::Result<()> {
        let message = self.message(entry);
        if deliver(&self.socket, &message).is_ok() {
            return Ok(());
        }
        // A journal that was restarted has another socket.
        shim.pause(std::time::Duration::ZERO);
        self.socket = dial(&self.path)?;
        deliver(&self.socket, &message)
    }
}

fn dial(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

fn deliver(socket: &UnixDatagram, message: &[u8]) -> io::Result<()> {
    match socket.send(message) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) => {
            let memory = memfd_create(c"skep-log", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?;
            let mut file = File::from(memory);
            file.write_all(message)?;
            let seals = SealFlag::F_SEAL_SHRINK
                | SealFlag::F_SEAL_GROW
                | SealFlag::F_SEAL_WRITE
                | SealFlag::F_SEAL_SEAL;
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
            let fds = [file.as_raw_fd()];
            let empty = [IoSlice::new(&[])];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(socket.as_raw_fd(), &empty, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
            Ok(())
        }
        other => other.map(drop),
    }
}

/// `NAME=value`, or with a length where the value has line ends.
fn put(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A label's name as a field's: capitals, digits and underscores, and none of these in front.
fn field_name(label: &str) -> String {
    let name: String =
        label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.trim_start_matches('_').to_owned()
}

fn rfc3339(ns: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(ns.into());
    let text = time.ok().and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::{IoSliceMut, Read, Seek};

    use super::*;

    #[test]
    fn long_messages_go_through_sealed_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("binds");
        let socket = dial(&path).expect("connects");
        deliver(&socket, b"MESSAGE=short\n").expect("is sent");
        let mut buffer = [0; 64];
        let n = journal.recv(&mut buffer).expect("comes");
        assert_eq!(&buffer[..n], b"MESSAGE=short\n");
        let long = vec![b'x'; 1 << 20];
        deliver(&socket, &long).expect("is sent");
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<()>(journal.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
            .expect("comes");
        let fd = got.cmsgs().expect("read").find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        // SAFETY: the kernel has just given us this descriptor.
        let mut memory = File::from(unsafe { OwnedFd::from_raw_fd(fd.expect("a descriptor")) });
        let mut found = Vec::new();
        memory.rewind().expect("rewinds");
        memory.read_to_end(&mut found).expect("reads");
        assert_eq!(found, long);
    }

    #[test]
    fn fields_are_written_as_the_journal_reads_them() {
        let mut out = Vec::new();
        put("A", b"b", &mut out);
        put("C", b"d\ne", &mut out);
        assert_eq!(out, b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n");
        assert_eq!(field_name("_com.example/Name1"), "COM_EXAMPLE_NAME1");
    }
}
