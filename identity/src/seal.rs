//! Sealing of keys at rest: AES-256-GCM under a key of its own for each sealing, derived by HKDF-SHA256 from the
//! sealing key and a random salt. So no nonce is ever used twice.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};

/// The key that a manager's keys on disk are sealed with.
pub type SealKey = [u8; 32];

const SALT: usize = 32;

/// Salt, then what is sealed; none if the kernel gives no random bytes. `about` is bound to it.
pub(crate) fn seal(key: &[u8], about: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut salt = [0; SALT];
    SystemRandom::new().fill(&mut salt).ok()?;
    let mut sealed = plain.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    cipher(key, &salt)?.seal_in_place_append_tag(nonce, Aad::from(about), &mut sealed).ok()?;
    Some([salt.as_slice(), &sealed].concat())
}

/// What was sealed; none if key, `about` or any bit of it differs.
pub(crate) fn open(key: &[u8], about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, sealed) = sealed.split_at_checked(SALT)?;
    let mut bytes = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let length = cipher(key, salt)?.open_in_place(nonce, Aad::from(about), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

fn cipher(key: &[u8], salt: &[u8]) -> Option<LessSafeKey> {
    let mut derived = [0; 32];
    let derive = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    derive.expand(&[b"skep sealed key"], hkdf::HKDF_SHA256).ok()?.fill(&mut derived).ok()?;
    UnboundKey::new(&AES_256_GCM, &derived).ok().map(LessSafeKey::new)
}
