//! What can go wrong: with the registry itself, and with a request, in the specification's words.

use std::io;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use serde_json::{Value, json};

/// Why the registry cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call.
    #[error("cannot {operation} {subject}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Another registry serves the same directory.
    #[error("{} is served by another skep registry; stop it, or give this one its own --data-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A manifest that is not what its digest says.
    #[error("{} is damaged: push it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file or a flag that cannot be used.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// For `map_err` of a file's operation.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let subject = path.display().to_string();
        move |source| Self::Io { operation, subject, source }
    }

    /// The disk is full, or a quota used up.
    pub(crate) fn is_full(&self) -> bool {
        let full = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            )
        };
        matches!(self, Self::Io { source, .. } if full(source))
    }
}

/// A request that is not granted: an answer with a code of the specification ("Error Codes").
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) detail: Value,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: Value::Null, headers: Vec::new() }
    }

    pub(crate) fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn body(&self) -> String {
        let mut one = json!({ "code": self.code, "message": self.message });
        if !self.detail.is_null() {
            one["detail"] = self.detail.clone();
        }
        json!({ "errors": [one] }).to_string()
    }

    pub(crate) fn name_invalid(name: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid repository name: want lower-case letters and digits, separated by '.', '_', '__', '-' or '/', at most 255 characters")
            .detail(json!({ "name": name }))
    }

    pub(crate) fn name_unknown(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry")
            .detail(json!({ "name": name }))
    }

    pub(crate) fn digest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(crate) fn blob_unknown(digest: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
            .detail(json!({ "digest": digest }))
    }

    pub(crate) fn manifest_unknown(name: &str, reference: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
            .detail(json!({ "name": name, "reference": reference }))
    }

    pub(crate) fn manifest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(crate) fn upload_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry: begin anew")
    }

    pub(crate) fn upload_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        tracing::error!(error = %e, "a request failed");
        if e.is_full() {
            let words = "the registry's disk is full: nothing of this was kept";
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN", words);
        }
        // Paths of the server are no business of its clients.
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            "internal error; the registry's log says more",
        )
    }
}
