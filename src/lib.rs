//! Leader election over etcd: of several replicas of a program, at most one acts at a time.
//!
//! ```no_run
//! use leader_election::{Cluster, Config, Election};
//! use std::error::Error;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn Error>> {
//!     let cluster = Cluster::new(vec!["127.0.0.1:2379".parse()?])?;
//!     let config = Config::new("replica-1".parse()?, cluster);
//!     let mut candidate = Election::new(config).join()?;
//!     while let Some(mut leadership) = candidate.elected().await {
//!         // Act, and pass leadership.token() along with whatever you write …
//!         println!("acting with token {}", leadership.token());
//!         let reason = leadership.lost().await;
//!         // … and stop. Dropping the leadership lets the next one lead; leadership.resign() also
//!         // waits until it can.
//!         println!("stopped acting: {reason}");
//!     }
//!     Ok(())
//! }
//! ```
//!
//! An [`Observer`] follows who leads, where it can be reached, and which [`Candidates`] there are, without
//! taking part:
//!
//! ```no_run
//! use leader_election::{Cluster, LeaderKey, Observed, Observer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::new(vec!["127.0.0.1:2379".parse()?])?;
//! let mut observer = Observer::start(cluster, &LeaderKey::default());
//! while let Some(observed) = observer.next().await {
//!     if let Observed::State(state) = observed {
//!         println!("{:?}", state.leader.map(|leader| leader.address));
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Leadership::put_if_leading`] writes a key only if the term is not over. In the same way,
//! [`Leadership::complete`] records that a job is done. It is for a job that all processes together must
//! run once:
//!
//! ```no_run
//! # use leader_election::{Cluster, Config, Election};
//! # async fn run(cluster: Cluster) -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::new("replica-1".parse()?, cluster).with_job("migrate-42".parse()?);
//! let mut candidate = Election::new(config).join()?;
//! // `None`: the candidate has withdrawn. Either the job is done, here or elsewhere, or its etcd user may
//! // not record the job (`Event::JobDenied`).
//! while let Some(leadership) = candidate.elected().await {
//!     // Do the job, which may have been done in part before …
//!     if let Err(error) = leadership.complete().await {
//!         println!("the job may run again: {error}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Cancel safety
//!
//! [`Candidate::elected`], [`Leadership::lost`], [`Events::next`] and [`Observer::next`] lose
//! nothing if they are dropped before they return, for example by `tokio::select!`: call them again.
//! Dropping [`Leadership::resign`] or [`Candidate::withdraw`] does not cancel the request: it is
//! carried out in the background. Dropping [`Leadership::complete`] ends the term, with or without the
//! record.
//!
//! # Guarantees
//!
//! Among processes that follow this protocol, at most one acts as leader at any instant, provided that:
//!
//! - The leader's clock runs at no less than 0.9 of the rate of etcd's clock. With
//!   [`Config::with_fail_over`], the clock of every candidate runs at 0.9 to 1.1 times the true rate.
//! - The process is not paused between asking whether it leads and acting.
//! - Nobody but its holder removes or overwrites `leader/acting`, or revokes its lease.
//! - The endpoints are etcd members. A grpc-proxy is not one: it answers keepalives from its own stream.
//! - etcd keeps its own promises. Versions 3.4.42, 3.5.28, 3.6.9 and later do: they fix stale linearizable
//!   reads after a pause (etcd #20418). A restored backup breaks these promises.
//!
//! # Limits
//!
//! If one of these conditions fails, two leaders may overlap for less than the TTL. Then only the
//! [`FencingToken`] protects fully, if the resource that the leader acts upon checks it. When faults
//! stop, a candidate leads within about 2.5 times the TTL. Until then, there may be no leader, because
//! safety comes first.
//! `docs/protocol.md` has the rules, their proof, and the simulation that tests them.

// Not in Cargo.toml, which would switch them on for tests, benches and examples as well.
#![warn(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "leader-election runs on Linux only: it relies on CLOCK_BOOTTIME, timerfd and subreapers"
);

mod backoff;
mod candidates;
pub mod clock;
mod config;
// The program; only `src/main.rs` calls it.
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod daemon;
mod election;
mod etcd;
mod observer;
mod printable;
// The state machine. The simulator in `tests/simulation/` compiles it as well. It is public because the library alone
// does not use all of it.
#[doc(hidden)]
pub mod protocol;
mod record;
mod wall_clock;

pub use candidates::{Candidates, ListedCandidate};
pub use config::{
    Address, Cluster, Config, Credentials, Endpoint, InvalidConfig, InvalidEndpoint, InvalidText,
    JobId, LeaderKey, Name, Password, Tls,
};
pub use election::{Candidate, Election, Events, Leadership, Liveness, NotRecorded, PutError};
pub use observer::{Acting, ElectionState, Leader, Observed, Observer};
pub use printable::Printable;
pub use protocol::{
    Beginning, ElectionKey, Entry, Event, FailOverLimit, Failure, FailureKind, FencingToken,
    InvalidFailOverLimit, InvalidTtl, LeaseId, LossReason, Moment, Presence, Role, SeatNumber,
    Situation, Status, Term, TermSettings, Ttl,
};
pub use record::{ActingRecord, DoneRecord, SeatRecord, TermRecord};
