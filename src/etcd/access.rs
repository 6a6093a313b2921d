//! How to reach a member, and with which credentials. The files are read again for each connection.

use super::failure::{transport_failure, unauthenticated};
use crate::{
    config::{Cluster, Credentials, Endpoint, Password, ReadPassword, Tls},
    protocol::{Failure, FailureKind},
};
use std::{io, path::Path};
use tonic::transport::{self, Certificate, ClientTlsConfig, Identity};

/// How a member is reached, made of what is read from files anew for each connection.
pub(super) struct Access {
    pub member: transport::Endpoint,
    pub user: Option<User>,
}

/// Who authenticates.
pub(super) struct User {
    pub name: String,
    pub password: ReadPassword,
}

impl Access {
    /// Blocks while files are read.
    pub fn read(
        cluster: &Cluster,
        endpoint: &Endpoint,
        needs_password: bool,
    ) -> Result<Self, Failure> {
        let uses_tls = cluster.uses_tls();
        let mut member = transport::Endpoint::from_shared(endpoint.url(uses_tls))
            .map_err(|error| transport_failure(&error))?;
        if uses_tls {
            // Files that hold nothing useful are found out here, as is a system without authorities.
            member = member
                .tls_config(client_tls(cluster.tls())?)
                .map_err(|error| unauthenticated(transport_failure(&error)))?;
        }
        let credentials = cluster.credentials().filter(|_| needs_password);
        let user = credentials.map(|credentials| {
            let password = credentials.password.read_with_oddity();
            let password =
                password.map_err(|error| unreadable(&password_name(credentials), &error))?;
            let name = credentials.user.clone();
            Ok::<_, Failure>(User { name, password })
        });
        Ok(Self {
            member,
            user: user.transpose()?,
        })
    }
}

fn client_tls(tls: Option<&Tls>) -> Result<ClientTlsConfig, Failure> {
    let read = |file: &Path, what: &str| {
        // Unquoted, since quotes are escaped where it is printed.
        let name = file.display().to_string();
        let pem = std::fs::read(file).map_err(|error| unreadable(&name, &error))?;
        let begins = format!("{what}-----");
        if !String::from_utf8_lossy(&pem).contains(&begins) {
            let message = format!("{name} holds no {}", what.to_lowercase());
            return Err(Failure::new(FailureKind::Unauthenticated, message));
        }
        Ok(pem)
    };
    let mut client = ClientTlsConfig::new();
    client = match tls.and_then(|tls| tls.authorities.as_deref()) {
        Some(file) => client.ca_certificate(Certificate::from_pem(read(file, "CERTIFICATE")?)),
        None => client.with_native_roots(),
    };
    if let Some((certificate, key)) = tls.and_then(|tls| tls.identity.as_ref()) {
        let identity =
            Identity::from_pem(read(certificate, "CERTIFICATE")?, read(key, "PRIVATE KEY")?);
        client = client.identity(identity);
    }
    Ok(client)
}

fn password_name(credentials: &Credentials) -> String {
    match &credentials.password {
        Password::Text(_) => "the password of the etcd user".to_owned(),
        Password::File(file) => format!("the password file {}", file.display()),
    }
}

fn unreadable(what: &str, error: &io::Error) -> Failure {
    let message = format!("reading {what}: {error}");
    Failure::new(FailureKind::Unauthenticated, message)
}

/// Reads the files that are named to reach a cluster, as each connection will. Returns what may be
/// wrong with the password, if there is anything, as printable text.
///
/// # Errors
/// If one cannot be read, or holds nothing of what it is for.
#[cfg(feature = "daemon")]
pub(crate) fn check_files(cluster: &Cluster) -> Result<Option<String>, Failure> {
    let mut oddity = None;
    for endpoint in cluster.endpoints() {
        let user = Access::read(cluster, endpoint, true)?.user;
        oddity = user.and_then(|user| user.password.oddity);
    }
    let credentials = cluster.credentials().zip(oddity);
    Ok(credentials.map(|(credentials, oddity)| {
        let name = password_name(credentials);
        format!("{}: {oddity}", crate::printable::Printable(name.as_bytes()))
    }))
}
