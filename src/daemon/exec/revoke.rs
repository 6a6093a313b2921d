//! `--release`: revokes the lease of a dead daemon, so that another replica need not wait until the
//! lease expires.

use crate::daemon::signals::Signals;
use crate::{
    backoff::Jitter,
    clock,
    config::Config,
    etcd::Target,
    printable::Printable,
    protocol::{Failure, FailureKind, LeaseId, Rotation, Timing},
};
use anyhow::anyhow;
use tracing::warn;

/// Revokes the lease of a daemon that is gone. Nothing of its COMMAND may be left.
///
/// # Errors
/// If the lease could not be revoked before it expired.
pub(in crate::daemon) async fn revoke_lease(config: Config, lease: LeaseId) -> anyhow::Result<()> {
    // A service manager that has killed the daemon may send SIGTERM to this process as well. That
    // must not end it before the lease is revoked.
    let _signals = Signals::new(false)?;
    let name = Printable(config.name().as_str().as_bytes()).to_string();
    warn!(name, %lease, "The daemon is gone, and its COMMAND was killed; revoking its lease.");
    let revoked = revoke_within_ttl(config, lease).await;
    revoked.map_err(|failure| {
        let reason = Printable(failure.message.as_bytes()).to_string();
        anyhow!("the lease {lease} could not be revoked ({reason}); it ends by itself")
    })
}

/// Revokes a lease, and retries at the next endpoint until a TTL has passed.
///
/// # Errors
/// The last failure.
async fn revoke_within_ttl(config: Config, lease: LeaseId) -> Result<(), Failure> {
    let timing = Timing::new(config.ttl().as_duration(), config.grace());
    let until = clock::now() + timing.ttl();
    let target = Target::new(config.cluster().clone(), config.leader_key());
    let mut jitter = Jitter::new();
    let mut rotation = Rotation::new(target.cluster().endpoint_count());
    loop {
        let endpoint = rotation.endpoint();
        let revoking = async {
            let limit = timing.limit();
            let connection = target.connect(endpoint, limit).await?;
            connection.revoke(lease, true, limit).await
        };
        let failure = match revoking.await {
            Err(failure) if failure.kind == FailureKind::LeaseNotFound => return Ok(()),
            Err(failure) if clock::now() < until => failure,
            result => return result,
        };
        if rotation.record_failure(rotation.endpoint(), Some(failure)) {
            let at_most = rotation.back_off_limit(timing.longest_back_off());
            let left = until.since(clock::now());
            tokio::time::sleep(jitter.up_to(at_most).min(left)).await;
        }
    }
}
