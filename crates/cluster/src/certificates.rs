//! The certificates by which a cluster's parts know each other.
//!
//! Kubernetes takes a client's user and groups from its certificate's common name and organisations
//! (Kubernetes documentation, "Authenticating", X.509 client certificates).

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use crate::error::Error;

/// What signs them.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate and key.
    pub(crate) own: Identity,
}

/// A certificate and its private key, as PEM.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Makes a new one.
    pub(crate) fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let own =
            Identity { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), own })
    }

    /// Signs a server's identity.
    pub(crate) fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Identity, Error> {
        let names = names.iter().map(|name| (*name).to_owned());
        let names: Vec<String> = names.chain(addresses.iter().map(IpAddr::to_string)).collect();
        self.sign(CertificateParams::new(names)?, "server", ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Signs the identity of a user in a group.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, Error> {
        let mut params = CertificateParams::default();
        if let Some(group) = group {
            let group = DnValue::Utf8String(group.to_owned());
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        self.sign(params, user, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, Error> {
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}
