//! A server's certificate that is itself among those trusted. `openssl req -x509` marks what it signs with its own key as
//! an authority's, and webpki takes no authority's certificate for a server's. Go's crypto/x509 and OpenSSL do, and so
//! do Docker's instructions for a registry of one's own.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Believes what `roots` have signed, and those of `trusted` themselves.
pub fn verifier(
    roots: RootCertStore,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(Arc::new(OrItself { usual: usual.build().map_err(|e| e.to_string())?, trusted }))
}

#[derive(Debug)]
struct OrItself {
    usual: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrItself {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.usual.verify_server_cert(cert, chain, name, ocsp, now) {
            // Whatever webpki has against it as an end of a chain: there is none.
            Err(rustls::Error::InvalidCertificate(_)) if self.trusted.iter().any(|t| t == cert) => {
                timely(cert, now)?;
                verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Whether it is valid now, and may be a server's (RFC 5280, sections 4.1.2.5 and 4.2.1.12).
fn timely(cert: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = X509Certificate::from_der(cert).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.validity();
    // Of before 1970, too.
    let seconds = |at: &ASN1Time| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0)))
    };
    let (not_before, not_after) = (seconds(&validity.not_before), seconds(&validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    let usage = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    match usage.is_none_or(|u| u.value.any || u.value.server_auth) {
        true => Ok(()),
        false => Err(CertificateError::InvalidPurpose.into()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls::crypto::ring;

    use super::*;

    /// As `openssl req -x509` makes one for 10.9.0.1.
    fn self_signed(
        change: impl Fn(&mut CertificateParams),
    ) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec!["10.9.0.1".to_owned()]).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let cert = params.self_signed(&key).expect("signed");
        (cert.der().clone(), Issuer::new(params, key))
    }

    fn judged(
        trusted: &CertificateDer<'static>,
        shown: &CertificateDer<'_>,
        name: &str,
    ) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).expect("an authority");
        let provider = Arc::new(ring::default_provider());
        let verifier = verifier(roots, vec![trusted.clone()], provider).expect("a verifier");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let told = verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now());
        told.map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn a_certificate_that_signed_itself_is_believed_where_it_is_the_trusted_one() {
        let (own, issuer) = self_signed(|_| {});
        assert_eq!(judged(&own, &own, "10.9.0.1"), Ok(()));
        let other = self_signed(|_| {}).0;
        assert!(judged(&own, &other, "10.9.0.1").is_err(), "of the same names, and nobody's");
        assert!(judged(&own, &own, "10.9.0.2").expect_err("another name").contains("not valid for"));
        let leaf = CertificateParams::new(vec!["10.9.0.3".to_owned()]).expect("names");
        let leaf = leaf.signed_by(&KeyPair::generate().expect("key"), &issuer).expect("signed");
        assert_eq!(judged(&own, leaf.der(), "10.9.0.3"), Ok(()), "as an authority all the same");
    }

    #[test]
    fn it_has_to_be_a_servers_and_in_its_time() {
        let now = time_now();
        for (said, change) in [
            (
                "expired",
                &(|p: &mut CertificateParams| p.not_after = now - HOUR) as &dyn Fn(&mut CertificateParams),
            ),
            ("not valid yet", &|p| p.not_before = now + HOUR),
            ("InvalidPurpose", &|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ] {
            let (own, _) = self_signed(change);
            let error = judged(&own, &own, "10.9.0.1").expect_err(said);
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn time_now() -> time::OffsetDateTime {
        time::OffsetDateTime::now_utc()
    }
}
