//! Encryption at rest: a random data key, kept wrapped by a key-encrypting key in a file of its own (`kek.rs`).

use std::io;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::error::LogError;
use super::kek::KeyFile;
use crate::raft::disk::{Disk, replace};

/// A 256-bit key.
pub type Key = [u8; 32];

/// Bytes AES-256-GCM adds to what it seals.
pub(super) const TAG: usize = 16;

const WRAP_MAGIC: &[u8; 8] = b"SKEPDEK1";

/// Random bytes for keys and salts; nothing that decides behaviour comes from here.
pub(super) fn random<const N: usize>() -> Result<[u8; N], LogError> {
    let mut bytes = [0u8; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        LogError::io(
            "read random bytes for",
            Path::new("the log's keys"),
            io::Error::other("the kernel gave none"),
        )
    })?;
    Ok(bytes)
}

/// The log's data key. Each file derives its own key from it and the file's random salt, so that a
/// nonce (the offset in the file) never repeats under one key.
#[derive(Clone)]
pub(super) struct DataKey(Key);

impl DataKey {
    /// Opens the data key in `dir` with the key in `kek` (or the one handed in), making both when there is no log
    /// yet.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        kek: &KeyFile,
        unlock: Option<Key>,
    ) -> Result<Self, LogError> {
        let wrapped_path = dir.join("dek");
        let wrapped = match disk.read(&wrapped_path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(LogError::io("read", &wrapped_path, error)),
        };
        let kek_path = kek.path();
        let kek = match (unlock, kek.read()?) {
            (Some(kek), _) => kek,
            (None, Some(kept)) => kept.open(None)?,
            (None, None) if wrapped.is_none() => kek.create(None)?,
            (None, None) => return Err(LogError::Locked { path: kek_path.to_owned() }),
        };
        match wrapped {
            Some(bytes) => {
                Self::unwrap(&kek, &bytes).ok_or_else(|| LogError::WrongKey { path: kek_path.to_owned() })
            }
            None => {
                let key = Self(random()?);
                let bytes = key.wrap(&kek)?;
                replace(disk, &wrapped_path, &bytes)
                    .map_err(|error| LogError::io("write", &wrapped_path, error))?;
                Ok(key)
            }
        }
    }

    fn wrap(&self, kek: &Key) -> Result<Vec<u8>, LogError> {
        let nonce: [u8; 12] = random()?;
        let mut sealed = self.0.to_vec();
        seal_key(kek)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(WRAP_MAGIC), &mut sealed)
            .expect("32 bytes are within what AES-GCM seals");
        Ok([WRAP_MAGIC.as_slice(), &nonce, &sealed].concat())
    }

    fn unwrap(kek: &Key, bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(WRAP_MAGIC.as_slice())?;
        let (nonce, sealed) = rest.split_at_checked(12)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = seal_key(kek).open_in_place(nonce, Aad::from(WRAP_MAGIC), &mut sealed).ok()?;
        Some(Self(Key::try_from(&*plain).ok()?))
    }

    /// The cipher of the file with this salt.
    pub(super) fn for_file(&self, salt: &Key) -> FileCipher {
        let mut key: Key = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[b"skep raft log file"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("32 bytes are within what HKDF-SHA256 yields");
        FileCipher(seal_key(&key))
    }
}

fn seal_key(key: &Key) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a 256-bit key is what AES-256 takes"))
}

/// Seals the records of one file; a record is bound to its offset.
pub(super) struct FileCipher(LessSafeKey);

impl FileCipher {
    fn nonce(offset: u64) -> Nonce {
        let mut nonce = [0u8; 12];
        nonce[4..].copy_from_slice(&offset.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `plain` in place and appends the tag.
    pub(super) fn seal(&self, offset: u64, aad: &[u8], plain: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(Self::nonce(offset), Aad::from(aad), plain)
            .expect("a record is far below what AES-GCM seals");
    }

    /// Opens what was sealed at `offset`; `None` when a bit of it differs.
    pub(super) fn open(&self, offset: u64, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let plain = self.0.open_in_place(Self::nonce(offset), Aad::from(aad), &mut bytes).ok()?;
        let length = plain.len();
        bytes.truncate(length);
        Some(bytes)
    }
}
