//! Classifies each failure, once.

use crate::{
    config::Cluster,
    protocol::{Failure, FailureKind},
};
use etcd_client::Error;
use rustix::io::Errno;
use std::{error::Error as _, fmt::Write as _, io};
use tonic::{Code, Status, transport};

pub(super) fn unauthenticated(failure: Failure) -> Failure {
    Failure {
        kind: FailureKind::Unauthenticated,
        ..failure
    }
}

/// Classifies an error by its gRPC code: etcd's texts are for people.
fn classify(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) => status_failure(&status),
        Error::TransportError(error) => transport_failure(&error),
        error => Failure::new(FailureKind::Unreachable, error.to_string()),
    }
}

fn status_failure(status: &Status) -> Failure {
    let kind = match status.code() {
        // All that the protocol names is leases.
        Code::NotFound => FailureKind::LeaseNotFound,
        Code::Unauthenticated => FailureKind::Unauthenticated,
        Code::PermissionDenied => FailureKind::Denied,
        // Users or roles were changed since the token was given: that has expired. Only the
        // text says so; etcd's own client compares it too.
        Code::InvalidArgument if status.message().contains("revision of auth store is old") => {
            FailureKind::Unauthenticated
        }
        // A request without a token, after authentication was switched on.
        Code::InvalidArgument if status.message().contains("user name is empty") => {
            FailureKind::Unauthenticated
        }
        // The same code also says that the database is full, which does not pass by itself.
        Code::ResourceExhausted if status.message().contains("too many requests") => {
            FailureKind::Overloaded
        }
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Aborted => FailureKind::Unreachable,
        _ => FailureKind::Refused,
    };
    let mut message = status.message().to_owned();
    if let Some(source) = status.source() {
        append_causes(&mut message, source);
    }
    Failure::new(kind, message)
}

pub(super) fn transport_failure(error: &transport::Error) -> Failure {
    let mut message = String::new();
    append_causes(&mut message, error);
    Failure::new(FailureKind::Unreachable, message)
}

/// Advice for a connection that is closed without a reason, as plain text on a TLS port is.
#[derive(Clone, Copy)]
pub(super) enum Hint {
    Plain,
    TlsWithoutCertificate,
    None,
}

impl Hint {
    pub fn new(cluster: &Cluster) -> Self {
        match cluster.tls() {
            _ if !cluster.uses_tls() => Self::Plain,
            Some(tls) if tls.identity.is_some() => Self::None,
            _ => Self::TlsWithoutCertificate,
        }
    }

    pub fn classify(self, error: Error) -> Failure {
        let broken = match &error {
            // What the other side says itself has no source.
            Error::GRpcStatus(status) => status.source().is_some(),
            Error::TransportError(_) => true,
            _ => false,
        };
        let mut failure = classify(error);
        let hint = match self {
            Self::Plain => "if it speaks TLS, give it as https://",
            Self::TlsWithoutCertificate => "if it asks for a certificate, give one",
            Self::None => return failure,
        };
        if broken && failure.kind == FailureKind::Unreachable {
            failure.message = format!("{}; {hint}", failure.message).into();
        }
        failure
    }
}

/// A connection could not be made; that a certificate is not trusted is `InvalidData` to the
/// system's I/O.
pub(super) fn connection_failure(error: &transport::Error) -> Failure {
    let failure = transport_failure(error);
    let mut causes = std::iter::successors(error.source(), |error| (*error).source());
    let Some(cause) = causes.find_map(|cause| cause.downcast_ref::<io::Error>()) else {
        return failure;
    };
    match (cause.kind(), Errno::from_io_error(cause)) {
        (io::ErrorKind::InvalidData, _) => unauthenticated(failure),
        (io::ErrorKind::UnexpectedEof, _) => Failure {
            message: format!("{}; does it speak TLS?", failure.message).into(),
            ..failure
        },
        (_, Some(Errno::MFILE | Errno::NFILE)) => Failure {
            kind: FailureKind::Exhausted,
            ..failure
        },
        _ => failure,
    }
}

/// Appends an error and its causes, each once: many repeat their cause's text.
fn append_causes(message: &mut String, error: &dyn std::error::Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !message.contains(&text) {
            let separator = if message.is_empty() { "" } else { ": " };
            // Writing to a String cannot fail.
            let _ = write!(message, "{separator}{text}");
        }
        next = error.source();
    }
}

/// Returns true iff etcd has compacted the revision that was asked for.
pub(super) fn is_compacted(error: &Error) -> bool {
    out_of_range(error).is_some_and(|message| message.contains("has been compacted"))
}

/// Returns true iff a response is larger than gRPC's limit for a message.
pub(super) fn is_too_large(error: &Error) -> bool {
    out_of_range(error).is_some_and(|message| message.contains("message length too large"))
}

// One code stands for both; only the texts, etcd's and tonic's, distinguish them.
fn out_of_range(error: &Error) -> Option<&str> {
    match error {
        Error::GRpcStatus(status) if status.code() == Code::OutOfRange => Some(status.message()),
        _ => None,
    }
}
