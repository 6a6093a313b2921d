//! `step-down`: ends the leader's term in order.

use super::{ask::Asker, print, status::read_state};
use crate::{
    config::{Cluster, LeaderKey},
    daemon::{
        exit_code,
        render::{HISTORY_WENT_BACK, endpoint_failure, state_sentence, state_sentence_with_end},
    },
    observer::{ElectionState, Leader, Observed, Observer},
    printable::Printable,
    protocol::Failure,
};
use anyhow::bail;
use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};
use tokio::time::timeout;

/// Asks the leader to step down, and waits for the next one.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    if_leader: Option<OsString>,
    limit: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, limit);
    let view = asker
        .ask(async |connection, limit| connection.read(limit).await)
        .await?;
    let state = ElectionState::from(&view);
    let Some(leader) = state.leader else {
        print(&state_sentence(&state, leader_key))?;
        return Ok(exit_code::NO_LEADER);
    };
    let name = Printable(&leader.name);
    if let Some(wanted) = if_leader.map(OsStringExt::into_vec)
        && wanted != *leader.name
    {
        bail!(
            "'{name}' leads, not '{}'; nothing was done",
            Printable(&wanted)
        );
    }
    let token = leader.token;
    let was_deleted = asker
        .ask(async |connection, limit| connection.end_term(token.get(), leader.lease, limit).await)
        .await?;
    let what = if was_deleted {
        "is asked to step down"
    } else {
        // This includes a request that is repeated because its first response was lost.
        "leads no more"
    };
    print(&format!("'{name}' {what}, token {token}."))?;

    let observer = Observer::resume(cluster.clone(), leader_key, view);
    let mut outage = None;
    let waiting = next_leader(observer, &leader, &mut outage);
    if let Ok(next) = timeout(asker.left(), waiting).await {
        print(&state_sentence(&next?, leader_key))?;
        return Ok(exit_code::SUCCESS);
    }
    let limit = humantime::format_duration(limit);
    if let Some((endpoint, failure)) = outage {
        let endpoint = &asker.cluster().endpoints()[endpoint];
        let failure = endpoint_failure(endpoint, &failure);
        bail!("nobody was seen to lead within {limit}: {failure}");
    }
    // Reading the state once more must not take much longer.
    let asker = Asker::new(asker.cluster(), leader_key, Duration::from_secs(2));
    let state = match read_state(&asker).await {
        Ok((state, _)) if is_next(&state, &leader) => {
            print(&state_sentence(&state, leader_key))?;
            return Ok(exit_code::SUCCESS);
        }
        Ok((state, lease)) => state_sentence_with_end(&state, leader_key, lease),
        Err(_) => "how things stand is not known.".to_owned(),
    };
    bail!("nobody else began to lead within {limit}: {state}")
}

/// Returns whether somebody leads in a later term than this leader's.
fn is_next(state: &ElectionState, before: &Leader) -> bool {
    let leader = state.leader.as_ref();
    leader.is_some_and(|leader| leader.token > before.token)
}

/// Waits for the next term; keeps the failure of an outage that has not ended in `outage`.
async fn next_leader(
    mut observer: Observer,
    before: &Leader,
    outage: &mut Option<(usize, Failure)>,
) -> anyhow::Result<ElectionState> {
    loop {
        match observer.next().await {
            Some(Observed::State(state)) => {
                if is_next(&state, before) {
                    return Ok(state);
                }
            }
            Some(Observed::HistoryWentBack) => {
                bail!("{HISTORY_WENT_BACK}, so that it is not known who leads next")
            }
            Some(Observed::Unanswered { endpoint, failure }) => {
                *outage = Some((endpoint, failure));
            }
            Some(Observed::AnsweredAgain { .. }) => *outage = None,
            Some(Observed::Gap { .. } | Observed::AuthenticationOff) => {}
            None => bail!("the observation ended of itself, which is a fault of this program"),
        }
    }
}
