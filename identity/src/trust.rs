//! Whom nodes trust: one root, or two while one takes the place of the other. And what tells whether a node's
//! certificate and trust are as the swarm wants them.

use rustls::pki_types::CertificateDer;
use skep_proto::v1::TlsInfo;
use x509_parser::certificate::X509Certificate;

use crate::{Error, pem};

/// The roots nodes trust, with the number of the change that made it so: nobody goes back to an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM of the roots; the one that join tokens pin comes first.
    pub roots_pem: String,
    /// The cluster's count of such changes.
    pub epoch: u64,
}

impl Trust {
    /// Trust in the root of a new swarm.
    pub fn first(root_pem: &str) -> Self {
        Self { roots_pem: root_pem.to_owned(), epoch: 0 }
    }
}

/// What a node holds that trusts `roots_pem` and has a certificate of the authority `issuer_pem`.
pub fn tls_info(roots_pem: &str, issuer_pem: &str) -> Result<TlsInfo, Error> {
    let roots = pem::certificates(roots_pem, "root certificate")?;
    let issuer = pem::certificate(issuer_pem, "root certificate")?;
    Ok(info(&roots, &parse(&issuer, "root certificate")?))
}

/// What a node with this chain (its own certificate first) holds, if the chain ends in one of the roots.
pub(crate) fn tls_info_of(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
) -> Result<TlsInfo, Error> {
    let (own, anchors) = (parse_all(chain, "node certificate")?, parse_all(roots, "root certificate")?);
    let issuer = own.split_first().and_then(|(leaf, between)| issuer(leaf, between, &anchors));
    let issuer = issuer.ok_or_else(|| Error::certificate("node certificate", "no root signed it"))?;
    Ok(info(roots, issuer))
}

/// Who signed a certificate: a root, or another certificate that leads to a root.
fn issuer<'a, 'd>(
    signed: &X509Certificate<'_>,
    between: &'a [X509Certificate<'d>],
    roots: &'a [X509Certificate<'d>],
) -> Option<&'a X509Certificate<'d>> {
    let signs = |by: &&X509Certificate<'_>| {
        by.subject().as_raw() == signed.issuer().as_raw()
            && signed.verify_signature(Some(by.public_key())).is_ok()
    };
    roots.iter().find(signs).or_else(|| {
        let (next, rest) = between.split_first()?;
        (signs(&next) && issuer(next, rest, roots).is_some()).then_some(next)
    })
}

fn info(roots: &[CertificateDer<'_>], issuer: &X509Certificate<'_>) -> TlsInfo {
    TlsInfo {
        trust_root: pem::to_pem(roots),
        cert_issuer_subject: issuer.subject().as_raw().to_vec(),
        cert_issuer_public_key: issuer.public_key().raw.to_vec(),
    }
}

fn parse_all<'a>(
    all: &'a [CertificateDer<'_>],
    what: &'static str,
) -> Result<Vec<X509Certificate<'a>>, Error> {
    all.iter().map(|der| parse(der, what)).collect()
}

pub(crate) fn parse<'a>(
    der: &'a CertificateDer<'_>,
    what: &'static str,
) -> Result<X509Certificate<'a>, Error> {
    x509_parser::parse_x509_certificate(der)
        .map(|(_, parsed)| parsed)
        .map_err(|e| Error::certificate(what, e))
}
