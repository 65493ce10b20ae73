//! What can go wrong with a registry, in the words Docker's users know.

use hyper::StatusCode;

/// Everything this crate's handles return.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The registry was not reached, or went away.
    #[error("{method} \"{url}\": {reason}")]
    Transport {
        /// `Get`, `Head`, ... as Go writes it.
        method: String,
        /// Of the request.
        url: String,
        /// Why.
        reason: String,
    },
    /// The registry wants a user name and a password, and none were given.
    #[error("{method} \"{url}\": no basic auth credentials")]
    NoCredentials {
        /// `Get`, `Head`, ...
        method: String,
        /// Of the request.
        url: String,
    },
    /// The registry answered with an error of its own.
    #[error("{}: {message}", words(code))]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The distribution specification's code, such as `MANIFEST_UNKNOWN`.
        code: String,
        /// The registry's words.
        message: String,
    },
    /// The registry answered with something that is no error of the specification.
    #[error("{method} \"{url}\": received unexpected HTTP status: {status}{}", after(body))]
    Unexpected {
        /// `Get`, `Head`, ...
        method: String,
        /// Of the request.
        url: String,
        /// HTTP status.
        status: StatusCode,
        /// The beginning of what came with it.
        body: String,
    },
    /// A file that is no registry's is not to be had.
    #[error("failed to GET {url} with status {status}: {body}")]
    Fetch {
        /// Of the request.
        url: String,
        /// HTTP status.
        status: StatusCode,
        /// What came with it.
        body: String,
    },
    /// Credentials were not taken.
    #[error("login attempt to {url} failed with status: {status}")]
    Login {
        /// Of the request.
        url: String,
        /// HTTP status.
        status: StatusCode,
    },
    /// What came is not what its digest says.
    #[error("{what} verification failed for digest {wanted}: its content has {got}")]
    Digest {
        /// `manifest` or `filesystem layer`.
        what: &'static str,
        /// Asked for.
        wanted: String,
        /// Received.
        got: String,
    },
    /// An answer that cannot be understood, or goes beyond what is allowed.
    #[error("{0}")]
    Invalid(String),
}

/// `MANIFEST_UNKNOWN` as `manifest unknown`.
fn words(code: &str) -> String {
    code.to_ascii_lowercase().replace('_', " ")
}

fn after(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

impl Error {
    /// HTTP status the registry gave, if it did.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Error::Refused { status, .. }
            | Error::Unexpected { status, .. }
            | Error::Fetch { status, .. }
            | Error::Login { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The registry says that there is no such thing, or does not say that there is.
    pub fn is_absent(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// The credentials are wrong, or do not reach as far.
    pub fn is_denied(&self) -> bool {
        matches!(self.status(), Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
            || matches!(self, Error::NoCredentials { .. })
    }

    /// Trying again may help: the connection failed, or the registry is in trouble.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Transport { .. } => true,
            _ => self.status().is_some_and(|s| s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS),
        }
    }
}
