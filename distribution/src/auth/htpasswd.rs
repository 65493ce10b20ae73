//! Users of a file, as `htpasswd -B` writes it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{credentials, quoted, unauthorized};
use crate::error::{Error, Refusal};

/// Passwords that are checked at once: each takes a CPU for a while.
const AT_ONCE: usize = 4;
/// Checks that are remembered, so that a pull of many requests pays for one.
const REMEMBERED: usize = 1000;
/// Checked for users that there are not, so that time does not tell names: nobody's password.
const NOBODY: &str = "$2b$10$WvvTPHKwdBJ3uk0Z37EMR.hLA2W6N9AEBhEgrAOljy2Ae5MtaSIUu";

/// A file of users.
#[derive(Debug)]
pub(crate) struct Htpasswd {
    realm: String,
    checks: Semaphore,
    file: Arc<Users>,
}

#[derive(Debug)]
struct Users {
    path: PathBuf,
    salt: [u8; 32],
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    changed: Option<SystemTime>,
    hashes: HashMap<String, String>,
    known: HashSet<[u8; 32]>,
}

/// What is known of a user and a password.
struct Found {
    hash: Option<String>,
    seal: [u8; 32],
    /// The password was checked before.
    is_known: bool,
}

impl Htpasswd {
    pub(super) fn new(path: PathBuf, realm: String) -> Result<Self, Error> {
        let file = Users { path, salt: rand::random(), read: Mutex::default() };
        file.refresh()?;
        Ok(Self { realm, checks: Semaphore::new(AT_ONCE), file: Arc::new(file) })
    }

    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let refused = || unauthorized(format!("Basic realm={}", quoted(&self.realm)));
        let pair = credentials(headers, "basic").and_then(|c| STANDARD.decode(c).ok());
        let pair = pair.and_then(|p| String::from_utf8(p).ok()).ok_or_else(refused)?;
        let (user, password) = pair.split_once(':').ok_or_else(refused)?;
        let (user, password) = (user.to_owned(), password.to_owned());
        let (file, name, told) = (self.file.clone(), user.clone(), password.clone());
        let known = tokio::task::spawn_blocking(move || file.look_up(&name, &told).is_known).await;
        if known.unwrap_or(false) {
            return Ok(user);
        }
        // Whoever tries passwords holds up others who come for the first time, and nobody else.
        let _turn = self.checks.acquire().await;
        let (file, name) = (self.file.clone(), user.clone());
        let good = tokio::task::spawn_blocking(move || file.check(&name, &password)).await;
        if good.unwrap_or(false) {
            return Ok(user);
        }
        tracing::info!(user, "a password was not taken");
        Err(refused())
    }
}

impl Users {
    /// Without a look at the password itself, which takes long.
    fn look_up(&self, user: &str, password: &str) -> Found {
        if let Err(e) = self.refresh() {
            tracing::warn!(error = %e, "users stay as they were");
        }
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = read.hashes.get(user).cloned();
        let mut seal = Sha256::new();
        for part in
            [&self.salt[..], user.as_bytes(), password.as_bytes(), hash.as_deref().unwrap_or("").as_bytes()]
        {
            seal.update((part.len() as u64).to_le_bytes());
            seal.update(part);
        }
        let seal: [u8; 32] = seal.finalize().into();
        let is_known = hash.is_some() && read.known.contains(&seal);
        Found { hash, seal, is_known }
    }

    fn check(&self, user: &str, password: &str) -> bool {
        let Found { hash, seal, is_known } = self.look_up(user, password);
        if is_known {
            return true;
        }
        let matches = bcrypt::verify(password, hash.as_deref().unwrap_or(NOBODY)).unwrap_or(false);
        if !matches || hash.is_none() {
            return false;
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.known.len() >= REMEMBERED {
            read.known.clear();
        }
        read.known.insert(seal);
        true
    }

    /// Reads the file if it is another than last time.
    fn refresh(&self) -> Result<(), Error> {
        let changed = std::fs::metadata(&self.path)
            .and_then(|m| m.modified())
            .map_err(Error::io("look at", &self.path))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.changed == Some(changed) {
            return Ok(());
        }
        let text = std::fs::read_to_string(&self.path).map_err(Error::io("read", &self.path))?;
        read.hashes = users(&text, &self.path)?;
        read.changed = Some(changed);
        read.known.clear();
        Ok(())
    }
}

fn users(text: &str, path: &Path) -> Result<HashMap<String, String>, Error> {
    let mut all = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why: &str| Error::Invalid(format!("{}:{}: {why}", path.display(), number + 1));
        let (user, hash) = line.split_once(':').ok_or_else(|| bad("want NAME:HASH"))?;
        let bcrypt = hash.len() == 60 && ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|p| hash.starts_with(p));
        if !bcrypt {
            return Err(bad("the hash is not bcrypt's: make the line with `htpasswd -B`"));
        }
        all.insert(user.to_owned(), hash.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "me:$2b$04$xjudlm5TvbK6Vx7YtQ3QweHmThhPkC.KMXD1enOMw4P0MrXtMWXCG\n";

    #[test]
    fn users_are_checked_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, format!("# users\n\n{ME}")).expect("writes");
        let read = Htpasswd::new(path.clone(), "r".into()).expect("reads").file;
        for _ in 0..2 {
            assert!(read.check("me", "secret"));
        }
        for (user, password) in [("me", "Secret"), ("me", ""), ("", ""), ("you", "secret"), ("me", "a\0b")] {
            assert!(!read.check(user, password), "{user} {password}");
        }
        std::fs::write(&path, "").expect("writes");
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::open(&path).and_then(|f| f.set_modified(later)).expect("sets the time");
        assert!(!read.check("me", "secret"));
        for bad in ["me", "me:secret", "me:$apr1$x$y"] {
            assert!(users(bad, &path).is_err(), "{bad}");
        }
        assert!(bcrypt::verify("x", NOBODY).is_ok());
    }
}
