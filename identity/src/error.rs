//! What can go wrong between a node and its swarm, in words that say what to do next.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use rustls::CertificateError;

/// Failure of an identity operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not a join token.
    #[error("invalid join token: {0}; copy it whole from `docker swarm join-token worker` on a manager")]
    Token(String),
    /// The text is not an unlock key.
    #[error("invalid key string")]
    UnlockKey,
    /// The node's key is sealed, and what opens it was not given.
    #[error("the key in {} is sealed: unlock this manager with the swarm's unlock key", path.display())]
    Sealed {
        /// The identity file.
        path: PathBuf,
    },
    /// The token pins another root than the one the address serves.
    #[error(
        "the manager at {addr} belongs to another swarm than the join token (its root certificate has digest {found}, the token pins {pinned}): check the address and the token"
    )]
    DigestMismatch {
        /// Address that was asked.
        addr: String,
        /// Digest served there.
        found: String,
        /// Digest in the token.
        pinned: String,
    },
    /// The CA refused the token.
    #[error(
        "the swarm refused the join token: {0}; it may have been rotated: get the current one with `docker swarm join-token` on a manager"
    )]
    TokenRefused(String),
    /// Nothing answers at the address.
    #[error("cannot connect to {addr}: {source}; check that a manager runs there and that the port is open")]
    Connect {
        /// Address that was tried.
        addr: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The address did not answer in time.
    #[error(
        "no answer from {addr} within {seconds} s: check the address, and that no firewall drops the port"
    )]
    Timeout {
        /// Address that was tried.
        addr: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Something answers that is no manager.
    #[error("{addr} is not a swarm manager: {reason}; the manager's port is 2377 by default")]
    NotAManager {
        /// Address that was tried.
        addr: String,
        /// What was seen there.
        reason: String,
    },
    /// The peer's certificate is for another role.
    #[error("{addr} has a certificate for the role {found}, {expected} is needed here")]
    WrongRole {
        /// Address of the peer.
        addr: String,
        /// Role in its certificate.
        found: String,
        /// Role that was expected.
        expected: String,
    },
    /// A certificate's validity does not include now.
    #[error("the certificate of {addr} is {problem}: check that the clocks of both hosts are right")]
    Clock {
        /// Address of the peer.
        addr: String,
        /// "not yet valid" or "expired".
        problem: &'static str,
    },
    /// The peer does not know who signed this node's certificate.
    #[error(
        "{addr} does not know the authority of this node's certificate: the swarm's root was replaced after this node \
         was removed; run `docker swarm leave --force` on it, and join again"
    )]
    Stranger {
        /// Address of the peer.
        addr: String,
    },
    /// TLS failed for another reason.
    #[error("TLS with {addr} failed: {reason}")]
    Tls {
        /// Address of the peer.
        addr: String,
        /// What rustls said.
        reason: String,
    },
    /// A certificate, key or request cannot be used.
    #[error("unusable {what}: {reason}")]
    Certificate {
        /// Which one.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Reading or writing the identity file.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A call to the CA failed.
    #[error("{operation} at {addr}: {message}")]
    Call {
        /// What was asked.
        operation: &'static str,
        /// Of whom.
        addr: String,
        /// What came back.
        message: String,
    },
}

impl Error {
    pub(crate) fn certificate(what: &'static str, reason: impl ToString) -> Self {
        Self::Certificate { what, reason: reason.to_string() }
    }
}

/// Marker text of a role refusal made inside a rustls verifier: rustls carries it as plain text.
pub(crate) const ROLE_MARK: &str = "wrong role: ";

/// Turns what a TLS handshake failed with into an error about `addr`.
pub(crate) fn from_handshake(addr: &str, error: io::Error) -> Error {
    let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "it closed the connection during the TLS handshake".to_owned()
            }
            _ => format!("TLS handshake: {error}"),
        };
        return Error::NotAManager { addr: addr.to_owned(), reason };
    };
    from_tls(addr, tls)
}

fn from_tls(addr: &str, tls: &rustls::Error) -> Error {
    let addr = addr.to_owned();
    match tls {
        rustls::Error::InvalidMessage(_) => {
            Error::NotAManager { addr, reason: "it does not speak TLS".to_owned() }
        }
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(
            rustls::AlertDescription::NoApplicationProtocol | rustls::AlertDescription::ProtocolVersion,
        ) => Error::NotAManager { addr, reason: "it speaks TLS, but not gRPC".to_owned() },
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Error::Clock { addr, problem: "not yet valid" },
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )
        | rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired) => {
            Error::Clock { addr, problem: "expired" }
        }
        // The latter for a root of the same name.
        rustls::Error::AlertReceived(
            rustls::AlertDescription::UnknownCA | rustls::AlertDescription::DecryptError,
        ) => Error::Stranger { addr },
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Error::NotAManager {
            addr,
            reason: "its certificate is not from this swarm's authority".to_owned(),
        },
        rustls::Error::General(text) if text.starts_with(ROLE_MARK) => {
            let found = text.trim_start_matches(ROLE_MARK);
            let (found, expected) = found.split_once(" for ").unwrap_or((found, "another"));
            Error::WrongRole { addr, found: found.to_owned(), expected: expected.to_owned() }
        }
        other => Error::Tls { addr, reason: other.to_string() },
    }
}

/// What a failed gRPC call over a [`crate::channel`] to `addr` really failed with, for a person: tonic
/// says "transport error" and keeps the cause in its source chain.
pub fn explain(addr: &str, status: &tonic::Status) -> String {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<Error>() {
            return own.to_string();
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(inner) = io.get_ref()
        {
            if let Some(own) = inner.downcast_ref::<Error>() {
                return own.to_string();
            }
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return from_tls(addr, tls).to_string();
            }
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return from_tls(addr, tls).to_string();
        }
        cause = error.source();
    }
    status.message().to_owned()
}

/// Set on the refusal of a node that was removed from the swarm.
const REMOVED: &str = "skep-node-removed";

/// The answer to a node that was removed from the swarm; its certificate is of no use any more.
pub fn removed(message: impl Into<String>) -> tonic::Status {
    let mut status = tonic::Status::permission_denied(message);
    status.metadata_mut().insert(REMOVED, tonic::metadata::MetadataValue::from_static("1"));
    status
}

/// Whether a call failed because this node was removed from the swarm.
pub fn is_removed(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::PermissionDenied && status.metadata().contains_key(REMOVED)
}

/// Set on the refusal of a registration that another one of the node came before: how many there were.
const REGISTRATION: &str = "skep-registration";

/// The answer to a node whose registration came after a later one of its own: it was on its way for too long, or the node
/// does not know of the last one. `registration` is the number to register with.
pub fn late(message: impl Into<String>, registration: u64) -> tonic::Status {
    let mut status = tonic::Status::aborted(message);
    status.metadata_mut().insert(REGISTRATION, registration.into());
    status
}

/// The number to register with, where a registration was refused because another one came before.
pub fn registration(status: &tonic::Status) -> Option<u64> {
    status.metadata().get(REGISTRATION)?.to_str().ok()?.parse().ok()
}

/// Whether a failed call over a [`crate::channel`] never left this host, because there was no connection:
/// then it can be repeated elsewhere without doing things twice.
pub fn not_sent(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<Error>().is_some() {
            return true;
        }
        cause = error.source();
    }
    false
}
