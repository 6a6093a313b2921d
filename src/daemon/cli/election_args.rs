//! The options for the election and for how to reach its etcd. Every command takes them.

use super::{ELECTION, ETCD, variables::variable};
use crate::config::{Cluster, Credentials, Endpoint, LeaderKey, Password, Tls, check_text};
use std::{ffi::OsString, path::PathBuf};

// The comments on the fields are the help texts, as those of `RunArgs`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = ETCD)]
pub(super) struct ElectionArgs {
    /// The etcd key that the replicas compete for
    ///
    /// The election also uses keys that begin with KEY/.
    #[arg(
        long,
        value_name = "KEY",
        env = "LEADER_ELECTION_LEADER_KEY",
        global = true,
        help_heading = ELECTION,
        display_order = 1,
        default_value = "leader"
    )]
    leader_key: LeaderKey,

    /// The etcd members, separated by commas
    ///
    /// Each one is host:port, or an http:// or https:// URL.
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        env = "LEADER_ELECTION_ETCD",
        global = true,
        default_value = "127.0.0.1:2379",
        value_delimiter = ','
    )]
    etcd: Vec<Endpoint>,

    /// The CA certificates for TLS to etcd, as PEM [default: the system's]
    ///
    /// One of these certificate authorities must have signed etcd's certificate.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_CACERT",
        global = true
    )]
    etcd_cacert: Option<PathBuf>,

    /// This replica's certificate, as PEM, if etcd requires one
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_CERT",
        global = true,
        hide_short_help = true
    )]
    etcd_cert: Option<PathBuf>,

    /// The private key of that certificate, as PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_KEY",
        global = true,
        hide_short_help = true
    )]
    etcd_key: Option<PathBuf>,

    /// The etcd user; give its password with --etcd-password-file
    ///
    /// The variable `LEADER_ELECTION_ETCD_PASSWORD` can hold the password instead.
    #[arg(
        long,
        value_name = "NAME",
        env = "LEADER_ELECTION_ETCD_USER",
        global = true
    )]
    etcd_user: Option<String>,

    /// The file whose first line is the etcd user's password
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_PASSWORD_FILE",
        global = true,
        hide_short_help = true
    )]
    etcd_password_file: Option<PathBuf>,
}

impl ElectionArgs {
    /// Returns the cluster and the key that these options describe.
    ///
    /// # Errors
    /// Says which options do not fit together.
    pub fn validate(self) -> Result<(Cluster, LeaderKey), String> {
        let mut cluster = Cluster::new(self.etcd).map_err(|error| error.to_string())?;
        let identity = match (self.etcd_cert, self.etcd_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => return Err("--etcd-cert needs --etcd-key".to_owned()),
            (None, Some(_)) => return Err("--etcd-key needs --etcd-cert".to_owned()),
        };
        if self.etcd_cacert.is_some() || identity.is_some() {
            let tls = Tls {
                authorities: self.etcd_cacert,
                identity,
            };
            cluster = cluster.with_tls(tls).map_err(|error| error.to_string())?;
        }
        if let Some(credentials) = credentials(self.etcd_user, self.etcd_password_file)? {
            cluster = cluster.with_credentials(credentials);
        }
        Ok((cluster, self.leader_key))
    }
}

/// Returns the user and its password, if they are given.
///
/// # Errors
/// Says what does not fit together; it repeats no value, which may be a password.
fn credentials(
    user: Option<String>,
    password_file: Option<PathBuf>,
) -> Result<Option<Credentials>, String> {
    let text = variable("LEADER_ELECTION_ETCD_PASSWORD")
        .map(OsString::into_string)
        .transpose()
        .map_err(|_| "LEADER_ELECTION_ETCD_PASSWORD is no UTF-8 text")?;
    let Some(user) = user else {
        return match (password_file, text) {
            (Some(_), _) => Err("--etcd-password-file needs --etcd-user".to_owned()),
            (None, Some(_)) => {
                Err("LEADER_ELECTION_ETCD_PASSWORD is set, but no --etcd-user".to_owned())
            }
            (None, None) => Ok(None),
        };
    };
    // The value itself may hold a password by mistake, so that it is not printed.
    check_text(&user).map_err(|error| {
        format!("--etcd-user or LEADER_ELECTION_ETCD_USER cannot be used: {error}")
    })?;
    let password = match (password_file, text) {
        _ if user.contains(':') => Err(
            "--etcd-user takes the name alone; give the password in a file, with --etcd-password-file",
        ),
        (Some(file), None) => Ok(Password::File(file)),
        (None, Some(text)) => Ok(Password::Text(text)),
        (Some(_), Some(_)) => Err(
            "give the password once: with --etcd-password-file or in LEADER_ELECTION_ETCD_PASSWORD",
        ),
        (None, None) => Err(
            "--etcd-user needs a password: give --etcd-password-file, or set LEADER_ELECTION_ETCD_PASSWORD",
        ),
    }?;
    Ok(Some(Credentials { user, password }))
}
