//! Sends the keepalives of one lease, on their own stream.
//!
//! This does not use `etcd_client`'s keepalives: to open the stream, `etcd_client` sends its own
//! keepalive and drops the response. So opening takes another round trip, and the response's raft
//! term is lost.

use super::{Connection, no_header, token::Service};
use crate::protocol::{Failure, FailureKind, KeptAlive, LeaseId};
use etcd_client::Error;
use std::{sync::PoisonError, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// How much a stream reserves for messages, in bytes, and how much it sends at once. Its messages have some twenty, and
/// by default it would keep 16 KiB for as long as it is open.
const BUFFER: usize = 128;
const SENT_AT_ONCE: usize = 1024;

/// etcd's `LeaseKeepAliveRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct KeepAliveRequest {
    #[prost(int64, tag = "1")]
    id: i64,
}

/// The part of etcd's `LeaseKeepAliveResponse` that is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct KeepAliveResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// The part of etcd's `ResponseHeader` that is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "4")]
    raft_term: u64,
}

/// Encodes and decodes the messages, with small buffers.
struct SmallCodec;

impl Codec for SmallCodec {
    type Encode = KeepAliveRequest;
    type Decode = KeepAliveResponse;
    type Encoder = ProstEncoder<KeepAliveRequest>;
    type Decoder = ProstDecoder<KeepAliveResponse>;

    fn encoder(&mut self) -> Self::Encoder {
        let settings = BufferSettings::new(BUFFER, SENT_AT_ONCE);
        ProstCodec::<KeepAliveRequest, KeepAliveResponse>::raw_encoder(settings)
    }

    fn decoder(&mut self) -> Self::Decoder {
        let settings = BufferSettings::new(BUFFER, SENT_AT_ONCE);
        ProstCodec::<KeepAliveRequest, KeepAliveResponse>::raw_decoder(settings)
    }
}

/// A keepalive stream.
pub(super) struct KeepAliveStream {
    requests: mpsc::Sender<KeepAliveRequest>,
    responses: Streaming<KeepAliveResponse>,
}

impl KeepAliveStream {
    /// Opens a stream by sending the first keepalive: etcd opens its side when it responds.
    async fn open(service: Service, lease: LeaseId) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(1);
        let mut grpc = Grpc::new(service);
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::from_error(error.into()))?;
        let id = lease.get();
        // There is room for one.
        let _ = requests.try_send(KeepAliveRequest { id });
        let request = tonic::Request::new(ReceiverStream::new(sent));
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let responses = grpc
            .streaming(request, path, SmallCodec)
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }
}

impl Connection {
    /// Sends one keepalive and waits for its response: on a new stream, or on that of the keepalive
    /// before.
    pub async fn keep_alive(
        &self,
        lease: LeaseId,
        new_stream: bool,
        limit: Duration,
    ) -> Result<KeptAlive, Failure> {
        let broken = || Failure::new(FailureKind::Unreachable, "the keepalive stream ended");
        let open = self.take_stream().filter(|_| !new_stream);
        let asking = async {
            let mut stream = if let Some(stream) = open {
                let id = lease.get();
                let sent = stream.requests.send(KeepAliveRequest { id }).await;
                sent.map_err(|_| Error::GRpcStatus(Status::unavailable("the stream ended")))?;
                stream
            } else {
                let opened = KeepAliveStream::open(self.transport.service.clone(), lease).await;
                opened.map_err(Error::GRpcStatus)?
            };
            let response = stream
                .responses
                .message()
                .await
                .map_err(Error::GRpcStatus)?;
            Ok::<_, Error>((stream, response))
        };
        let (stream, response) = self.bounded(limit, "renewing the lease", asking).await?;
        let response = response.ok_or_else(broken)?;
        if response.id != lease.get() {
            return Err(Failure::new(
                FailureKind::Unreachable,
                "the keepalive stream is another lease's",
            ));
        }
        let header = response.header.ok_or_else(no_header)?;
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        Ok(KeptAlive {
            ttl: response.ttl,
            raft_term: header.raft_term,
        })
    }

    fn take_stream(&self) -> Option<KeepAliveStream> {
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
