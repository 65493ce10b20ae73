//! Private keys as people have them: PKCS#8, SEC1 ("EC PRIVATE KEY") and PKCS#1 ("RSA PRIVATE KEY").

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Error;
use crate::der::{OCTET_STRING, SEQUENCE, tlv};

const VERSION_0: [u8; 3] = [0x02, 0x01, 0x00];
/// AlgorithmIdentifiers: id-ecPublicKey with prime256v1, with secp384r1 (RFC 5480), and rsaEncryption (RFC 8017).
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07,
];
const P384: [u8; 18] = [
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];
const RSA: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// The key of a PEM text: ECDSA on P-256 or P-384, Ed25519, or RSA.
pub(crate) fn key_pair(pem: &str, what: &'static str) -> Result<KeyPair, Error> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::certificate(what, e))?;
    let wrapped = |algorithm: &[u8], key: &[u8]| {
        let pkcs8 = tlv(SEQUENCE, &[&VERSION_0, algorithm, &tlv(OCTET_STRING, &[key])]);
        KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8))
    };
    let pair = match &key {
        PrivateKeyDer::Pkcs8(key) => KeyPair::try_from(key),
        PrivateKeyDer::Sec1(key) => {
            let key = key.secret_sec1_der();
            wrapped(&P256, key).or_else(|_| wrapped(&P384, key))
        }
        PrivateKeyDer::Pkcs1(key) => wrapped(&RSA, key.secret_pkcs1_der()),
        _ => return Err(Error::certificate(what, "it is in a form that is not known here: give PKCS#8")),
    };
    pair.map_err(|_| {
        Error::certificate(
            what,
            "it is damaged, or not of a kind that can sign here: ECDSA P-256 or P-384, Ed25519, RSA",
        )
    })
}
