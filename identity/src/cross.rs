//! A root's name and key in a certificate signed by another root: with it in their chain, nodes of the new root are
//! known to those who trust the old one only. Written by hand, since `rcgen` cannot certify a name it did not make.

use rcgen::{KeyPair, SigningKey as _};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

use crate::Error;
use crate::der::{BIT_STRING, INTEGER, SEQUENCE, time, tlv};

/// [0] EXPLICIT INTEGER 2: version 3 of certificates.
const VERSION_3: [u8; 5] = [0xa0, 0x03, 0x02, 0x01, 0x02];
const EXTENSIONS: u8 = 0xa3;
/// Critical: an authority.
const IS_CA: [u8; 17] =
    [0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff];
/// Critical: it signs certificates and revocation lists.
const USES: [u8; 16] =
    [0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x01, 0x06];
/// Signature algorithms (RFC 5758, RFC 8410, RFC 4055).
const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ED25519: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const RSA_SHA256: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];

/// Signs the name and key of `new` with the key of `old`, valid from `from` for as long as `new` is.
pub(crate) fn sign(
    old: &X509Certificate<'_>,
    key: &KeyPair,
    new: &X509Certificate<'_>,
    serial: &[u8; 16],
    from: OffsetDateTime,
) -> Result<CertificateDer<'static>, Error> {
    let algorithm: &[u8] = match key.algorithm() {
        a if a == &rcgen::PKCS_ECDSA_P256_SHA256 => &ECDSA_SHA256,
        a if a == &rcgen::PKCS_ECDSA_P384_SHA384 => &ECDSA_SHA384,
        a if a == &rcgen::PKCS_ED25519 => &ED25519,
        _ => &RSA_SHA256,
    };
    let validity = tlv(SEQUENCE, &[&time(from), &time(new.validity().not_after.to_datetime())]);
    let to_be_signed = tlv(
        SEQUENCE,
        &[
            &VERSION_3,
            &tlv(INTEGER, &[serial]),
            algorithm,
            old.subject().as_raw(),
            &validity,
            new.subject().as_raw(),
            new.public_key().raw,
            &tlv(EXTENSIONS, &[&tlv(SEQUENCE, &[&IS_CA, &USES])]),
        ],
    );
    let signature = key.sign(&to_be_signed).map_err(|e| Error::certificate("root key", e))?;
    let signed = tlv(SEQUENCE, &[&to_be_signed, algorithm, &tlv(BIT_STRING, &[&[0], &signature])]);
    Ok(signed.into())
}
