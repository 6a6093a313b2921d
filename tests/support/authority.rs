//! Certificates, and etcd servers that use them.

use super::etcd::Etcd;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A certificate authority with a folder for what it signs.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Creates one.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a certificate");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each authority has a name of its own.
        let name = folder.path().to_str().expect("a certificate");
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a certificate"))
                .expect("a certificate");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a certificate");
        Self { folder, issuer }
    }

    /// Returns the path of a file in its folder.
    pub fn file(&self, name: &str) -> String {
        self.folder
            .path()
            .join(name)
            .to_str()
            .expect("a certificate")
            .to_owned()
    }

    /// Returns the file of its own certificate.
    pub fn certificate(&self) -> String {
        self.file("ca.pem")
    }

    /// Signs a certificate for these hosts, for clients and servers; returns its file and its key's.
    pub fn sign(&self, name: &str, hosts: &[&str], expired: bool) -> (String, String) {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).expect("a certificate");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a certificate");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = (
            self.file(&format!("{name}.pem")),
            self.file(&format!("{name}.key")),
        );
        fs::write(&files.0, certificate.pem()).expect("a certificate");
        fs::write(&files.1, key.serialize_pem()).expect("a certificate");
        files
    }

    /// Starts an etcd that serves TLS and, if it `verifies`, asks its clients for certificates.
    pub fn etcd(&self, binary: &Path, hosts: &[&str], expired: bool, verifies: bool) -> Etcd {
        let (certificate, key) = self.sign("server", hosts, expired);
        let mut options = vec![
            "--cert-file".to_owned(),
            certificate,
            "--key-file".to_owned(),
            key,
        ];
        if verifies {
            options.push("--client-cert-auth".to_owned());
            options.extend(["--trusted-ca-file".to_owned(), self.certificate()]);
        }
        let (certificate, key) = self.sign("etcdctl", &["etcdctl"], false);
        let etcdctl = [
            "--insecure-skip-tls-verify=true".to_owned(),
            format!("--cacert={}", self.certificate()),
            format!("--cert={certificate}"),
            format!("--key={key}"),
        ];
        Etcd::start_with(binary, &options, &etcdctl)
    }
}
