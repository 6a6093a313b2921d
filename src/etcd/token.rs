//! The authentication token, which is kept when a connection ends: checking a password is
//! deliberately slow, and etcd checks passwords for one process at a time.

use super::{access::User, failure::unauthenticated};
use crate::protocol::{Failure, FailureKind};
use etcd_client::{Channel, Client, Error};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tonic::{
    Code, Status,
    body::Body,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport,
};
use tower::{BoxError, ServiceExt as _, util::BoxCloneSyncService};

/// How long etcd may take to check a password, while it checks those of many others.
const AUTHENTICATION_LIMIT: Duration = Duration::from_secs(10);

/// etcd's header for the token.
const TOKEN: &str = "token";
/// etcd's header that ends streams and refuses requests at a member without a leader.
const REQUIRE_LEADER: &str = "hasleader";

/// A token that etcd gave for a user and a password.
#[derive(Debug)]
pub(super) struct Token {
    value: AsciiMetadataValue,
    /// Whether etcd has accepted it.
    is_proven: AtomicBool,
}

/// The token that the connections of a cluster share.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<Option<Arc<Token>>>);

impl Tokens {
    /// Returns the token that is kept.
    pub fn kept(&self) -> Option<Arc<Token>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn keep(&self, token: Arc<Token>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    /// Drops a token that etcd rejects, unless another has taken its place.
    pub fn drop_rejected(&self, rejected: &Arc<Token>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|kept| Arc::ptr_eq(kept, rejected));
    }
}

impl Token {
    /// Records that etcd has accepted it.
    pub fn prove(&self) {
        self.is_proven.store(true, Ordering::Relaxed);
    }

    /// Returns true iff etcd has accepted it.
    pub fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }
}

/// Adds the headers that etcd expects to every request.
#[derive(Clone)]
pub(super) struct Headers {
    token: Option<AsciiMetadataValue>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let headers = request.metadata_mut();
        headers.insert(REQUIRE_LEADER, AsciiMetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            headers.insert(TOKEN, token.clone());
        }
        Ok(request)
    }
}

/// A connection that adds these headers.
pub(super) type Service = InterceptedService<transport::Channel, Headers>;

/// Lets every request of a channel carry the headers.
pub(super) fn service(channel: transport::Channel, token: Option<&Token>) -> Service {
    let token = token.map(|token| token.value.clone());
    InterceptedService::new(channel, Headers { token })
}

/// Returns a client that asks through a service.
///
/// # Errors
/// There is no reason for any, as nothing is asked yet.
pub(super) async fn client(service: Service) -> Result<Client, Error> {
    let service = service
        .map_response(|response| response.map(Body::new))
        .map_err(BoxError::from);
    Client::from_channel(Channel::Custom(BoxCloneSyncService::new(service)), None).await
}

/// Rule 14: authenticates within a limit of its own, and keeps the token; returns `None` if etcd's authentication is off.
///
/// # Errors
/// If the password is wrong, or etcd does not respond in time.
pub(super) async fn authenticate(
    channel: transport::Channel,
    User { name, password }: User,
    tokens: &Tokens,
    classify: impl FnOnce(Error) -> Failure,
) -> Result<Option<Arc<Token>>, Failure> {
    let overloaded = |reason: &str| {
        let message = format!("authenticating as '{name}': {reason}");
        Failure::new(FailureKind::Overloaded, message)
    };
    let checking = async {
        let client = client(service(channel, None)).await?;
        client
            .auth_client()
            .authenticate(name.clone(), password.text)
            .await
    };
    let Ok(checked) = tokio::time::timeout(AUTHENTICATION_LIMIT, checking).await else {
        let limit = AUTHENTICATION_LIMIT.as_secs();
        return Err(overloaded(&format!("no response within {limit} s")));
    };
    match checked {
        Ok(response) => {
            let value = AsciiMetadataValue::try_from(response.token())
                .map_err(|_| Failure::new(FailureKind::Refused, "etcd's token fits no header"))?;
            let token = Arc::new(Token {
                value,
                is_proven: AtomicBool::new(false),
            });
            tokens.keep(Arc::clone(&token));
            Ok(Some(token))
        }
        Err(Error::GRpcStatus(status))
            if status.code() == Code::FailedPrecondition
                && status.message().contains("authentication is not enabled") =>
        {
            Ok(None)
        }
        // etcd gave up on it itself.
        Err(Error::GRpcStatus(status))
            if status.code() == Code::DeadlineExceeded
                || status.message().contains("request timed out") =>
        {
            Err(overloaded(status.message()))
        }
        Err(error) => Err(match classify(error) {
            // The request was nothing but the password.
            failure if matches!(failure.kind, FailureKind::Refused | FailureKind::Denied) => {
                unauthenticated(match password.oddity {
                    Some(oddity) => Failure {
                        message: format!("{}; as to the password: {oddity}", failure.message)
                            .into(),
                        ..failure
                    },
                    None => failure,
                })
            }
            failure => failure,
        }),
    }
}
