//! Certificates as PEM text, in the one form in which they are stored and compared.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::Error;

/// Characters of a line (RFC 7468, section 2).
const LINE: usize = 64;

/// All certificates of a text; at least one.
pub(crate) fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|e| Error::certificate(what, e))?;
    if found.is_empty() {
        return Err(Error::certificate(what, "there is no certificate in it"));
    }
    Ok(found)
}

/// The only certificate of a text.
pub(crate) fn certificate(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, Error> {
    let mut found = certificates(pem, what)?;
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (_, more) => {
            Err(Error::certificate(what, format!("there are {} certificates in it, not 1", more + 1)))
        }
    }
}

/// Certificates in the form all are stored in.
pub(crate) fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = BASE64.encode(certificate.as_ref());
        for line in text.as_bytes().chunks(LINE) {
            pem.extend(line.iter().map(|b| char::from(*b)));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

/// The only certificate of a text, in the form in which it compares with others.
pub fn normalized(pem: &str) -> Result<String, Error> {
    certificate(pem, "CA certificate").map(|only| to_pem(&[only]))
}
