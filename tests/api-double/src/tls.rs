//! Certificates for an afternoon: an authority of the double's own, and what it has signed.

use std::{net::IpAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    },
};

/// An authority that clients are to trust, and that vouches for clients.
#[derive(Debug)]
pub struct Tls {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Why there are no certificates.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl Tls {
    /// Makes an authority.
    pub fn new() -> Result<Self, Error> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { issuer: CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)? })
    }

    /// The authority's certificate, as a kubeconfig has it (PEM).
    pub fn authority(&self) -> String {
        self.issuer.pem()
    }

    /// A client's certificate and key (PEM).
    pub fn client(&self, name: &str) -> Result<(String, String), Error> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// What a server on this address presents. A client that has no certificate is let in, as by an API server: it may have a token.
    pub(crate) fn acceptor(&self, address: IpAddr) -> Result<TlsAcceptor, Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![address.to_string()])?.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.issuer.der().to_vec()))?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients.allow_unauthenticated().build()?)
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der())?,
            )?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
