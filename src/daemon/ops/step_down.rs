//! `step-down`: an end to the leader's term, in order.

use super::{
    ask::{Asker, verdict},
    print,
    status::{in_words, look},
};
use crate::{
    config::{Cluster, LeaderKey},
    daemon::{exit_code, render::sentence},
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
    let situation = ElectionState::from(&view);
    let Some(leader) = situation.leader else {
        print(&sentence(&situation, leader_key))?;
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
        // Or an answer was lost, and this was the second time of asking.
        "leads no more"
    };
    print(&format!("'{name}' {what}, token {token}."))?;

    let observer = Observer::resume(cluster.clone(), leader_key, view);
    let mut trouble = None;
    let waiting = next_leader(observer, &leader, &mut trouble);
    if let Ok(next) = timeout(asker.left(), waiting).await {
        print(&sentence(&next?, leader_key))?;
        return Ok(exit_code::SUCCESS);
    }
    let limit = humantime::format_duration(limit);
    if let Some((endpoint, failure)) = trouble {
        let (endpoint, verdict) = (&asker.cluster().endpoints()[endpoint], verdict(&failure));
        let reason = Printable(failure.message.as_bytes());
        bail!("nobody was seen to lead within {limit}: etcd at '{endpoint}' {verdict} ({reason})");
    }
    // How things stand is told if that takes no time.
    let now = Asker::new(asker.cluster(), leader_key, Duration::from_secs(2));
    let standing = match look(&now).await {
        Ok((situation, _)) if is_next(&situation, &leader) => {
            print(&sentence(&situation, leader_key))?;
            return Ok(exit_code::SUCCESS);
        }
        Ok((situation, lease)) => in_words(&situation, leader_key, lease),
        Err(_) => "how things stand is not known.".to_owned(),
    };
    bail!("nobody else began to lead within {limit}: {standing}")
}

/// Whether somebody leads in a later term.
fn is_next(situation: &ElectionState, before: &Leader) -> bool {
    let leader = situation.leader.as_ref();
    leader.is_some_and(|leader| leader.token > before.token)
}

/// Waits for the next term.
async fn next_leader(
    mut observer: Observer,
    before: &Leader,
    trouble: &mut Option<(usize, Failure)>,
) -> anyhow::Result<ElectionState> {
    loop {
        match observer.next().await {
            Some(Observed::State(situation)) => {
                if is_next(&situation, before) {
                    return Ok(situation);
                }
            }
            Some(Observed::HistoryWentBack) => bail!(
                "etcd went back in its history (a restored backup?) or is another etcd, so that it \
                 is not known who leads next"
            ),
            Some(Observed::Unanswered { endpoint, failure }) => {
                *trouble = Some((endpoint, failure));
            }
            Some(Observed::AnsweredAgain { .. }) => *trouble = None,
            Some(Observed::Gap { .. }) => {}
            None => bail!("the observation ended of itself, which is a fault of this program"),
        }
    }
}
