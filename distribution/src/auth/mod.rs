//! Who may do what: everybody, users of an htpasswd file, or bearers of a token of an authorization server.

mod htpasswd;
mod jwt;
mod keys;
mod token;

use std::path::PathBuf;

use hyper::StatusCode;
use hyper::header::HeaderMap;

use crate::error::{Error, Refusal};
use htpasswd::Htpasswd;
pub use token::TokenOptions;
use token::Tokens;

/// How clients prove who they are.
#[derive(Clone, Debug, Default)]
pub enum AuthOptions {
    /// They need not.
    #[default]
    Open,
    /// By name and password.
    Htpasswd {
        /// Lines of `NAME:BCRYPT`, as `htpasswd -B` writes them; read again when it changes.
        file: PathBuf,
        /// What clients are told they log in to.
        realm: String,
    },
    /// By a token.
    Token(TokenOptions),
}

/// The same, ready.
#[derive(Debug)]
pub(crate) enum Auth {
    Open,
    Htpasswd(Box<Htpasswd>),
    Token(Box<Tokens>),
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To be somebody.
    Anybody,
    /// To see all repositories' names.
    Catalog,
    /// To do this with a repository.
    Repository { name: String, actions: &'static [&'static str] },
}

impl Need {
    /// As tokens' scopes are written (Docker's "Token Scope Documentation").
    pub(crate) fn scope(&self) -> Option<String> {
        match self {
            Self::Anybody => None,
            Self::Catalog => Some("registry:catalog:*".into()),
            Self::Repository { name, actions } => Some(format!("repository:{name}:{}", actions.join(","))),
        }
    }
}

impl Auth {
    pub(crate) fn new(options: &AuthOptions) -> Result<Self, Error> {
        Ok(match options {
            AuthOptions::Open => Self::Open,
            AuthOptions::Htpasswd { file, realm } => {
                Self::Htpasswd(Box::new(Htpasswd::new(file.clone(), realm.clone())?))
            }
            AuthOptions::Token(options) => Self::Token(Box::new(Tokens::new(options)?)),
        })
    }

    /// The user, where users are asked for.
    ///
    /// # Errors
    /// 401 with a challenge.
    pub(crate) async fn check(&self, headers: &HeaderMap, need: &Need) -> Result<Option<String>, Refusal> {
        match self {
            Self::Open => Ok(None),
            Self::Htpasswd(users) => users.check(headers).await.map(Some),
            Self::Token(tokens) => tokens.check(headers, need).map(Some),
        }
    }
}

/// 401, with a challenge that says what would do.
fn unauthorized(challenge: String) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
        .header("www-authenticate", challenge)
}

/// A quoted string of a challenge (RFC 9110, 5.6.4).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What follows the scheme in `Authorization`.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let told = headers.get(hyper::header::AUTHORIZATION)?.to_str().ok()?;
    let (said, rest) = told.split_once(' ')?;
    said.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}
