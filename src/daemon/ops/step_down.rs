//! `step-down`: ends the leader's term gracefully.

use super::{
    ask::Asker,
    hand_over::{self, Choice},
    print,
    status::{Found, read_state},
};
use crate::{
    clock,
    config::{Cluster, LeaderKey},
    daemon::{
        cli::StepDownArgs,
        exit_code,
        render::{HISTORY_WENT_BACK, alarms_clause, state_sentence},
    },
    etcd::Connection,
    observer::{ElectionState, Leader, Observed, Observer},
    printable::Printable,
    protocol::{Failure, View},
};
use anyhow::{Context, bail};
use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};
use tokio::time::timeout;

/// Checks that this is who leads, if a name is given.
///
/// # Errors
/// If somebody else does.
pub(super) fn require_leader(leader: &Leader, wanted: Option<OsString>) -> anyhow::Result<()> {
    match wanted.map(OsStringExt::into_vec) {
        Some(wanted) if wanted != *leader.name => bail!(
            "'{}' leads, not '{}'; nothing was done",
            Printable(&leader.name),
            Printable(&wanted)
        ),
        _ => Ok(()),
    }
}

/// Asks the leader to step down, and waits for the next one: for a chosen candidate, if one was given.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    args: StepDownArgs,
) -> anyhow::Result<u8> {
    let limit = args.timeout;
    let choice = Choice::new(args.to, args.to_seat);
    let asker = Asker::new(cluster, leader_key, limit);
    let (view, alarms) = asker
        .ask(async |connection, limit| read_with_alarms(connection, limit, choice.is_some()).await)
        .await?;
    let (view, without_seats_because) = view;
    let state = ElectionState::of(&view);
    let Some(leader) = state.leader else {
        print(&state_sentence(&state, leader_key))?;
        return Ok(exit_code::NOTHING_FOUND);
    };
    let name = Printable(&leader.name);
    require_leader(&leader, args.if_leader)?;
    if let Some(choice) = choice {
        let because = without_seats_because.as_ref();
        return hand_over::run(
            &asker, leader_key, &leader, &view, because, &alarms, &choice,
        )
        .await;
    }
    if let Some(clause) = alarms_clause(&alarms)
        && !args.force
    {
        bail!(
            "{clause}; nothing was done, and '{name}' continues to lead; --force ends its term anyway"
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
        "no longer leads"
    };
    print(&format!("'{name}' {what}, token {token}."))?;

    let observer = Observer::resume(cluster.clone(), leader_key, view);
    let waiting = next_leader(observer, &asker, &leader);
    if let Ok(next) = timeout(asker.left(), waiting).await {
        print(&state_sentence(&next?, leader_key))?;
        return Ok(exit_code::SUCCESS);
    }
    let limit = humantime::format_duration(limit);
    let found = read_once_more(&asker, leader_key)
        .await
        .with_context(|| format!("nobody was seen to lead within {limit}"))?;
    if is_next(&found.state, &leader) {
        print(&state_sentence(&found.state, leader_key))?;
        return Ok(exit_code::SUCCESS);
    }
    let state = found.sentences(leader_key);
    bail!("nobody else began to lead within {limit}: {state}")
}

/// Reads the state after the time is up, which must not take much longer.
pub(super) async fn read_once_more(asker: &Asker, leader_key: &LeaderKey) -> anyhow::Result<Found> {
    let last_asker = Asker::new(asker.cluster(), leader_key, Duration::from_secs(2));
    read_state(&last_asker).await
}

/// Reads both keys and etcd's alarms, and the seats if `with_seats`. If etcd refuses to show those, it also
/// returns why.
pub(super) async fn read_with_alarms(
    connection: &Connection,
    limit: Duration,
    with_seats: bool,
) -> Result<((View, Option<Failure>), Vec<String>), Failure> {
    let until = clock::now() + limit;
    let left = || until.since(clock::now());
    let view = if with_seats {
        connection.read_with_seats_if_permitted(limit).await?
    } else {
        (connection.read(limit).await?, None)
    };
    let alarms = match connection.alarms(left()).await {
        // Some versions of etcd let only its administrators ask.
        Err(failure) if failure.is_permanent() => Vec::new(),
        alarms => alarms?,
    };
    Ok((view, alarms))
}

/// Returns whether somebody leads in a later term than this leader's.
pub(super) fn is_next(state: &ElectionState, before: &Leader) -> bool {
    let leader = state.leader.as_ref();
    leader.is_some_and(|leader| leader.token > before.token)
}

/// Waits for the next term.
///
/// # Errors
/// If etcd goes back in its history, or each endpoint fails for a reason that no retry removes.
async fn next_leader(
    mut observer: Observer,
    asker: &Asker,
    before: &Leader,
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
            // It is the worst failure of all endpoints: the others may get over theirs.
            Some(Observed::Unanswered { failure, .. }) if failure.is_permanent() => {
                let view = asker
                    .ask(async |connection, limit| connection.read(limit).await)
                    .await
                    .context("it is not known who leads next")?;
                let state = ElectionState::of(&view);
                if is_next(&state, before) {
                    return Ok(state);
                }
            }
            Some(
                Observed::Unanswered { .. }
                | Observed::AnsweredAgain { .. }
                | Observed::Gap { .. }
                | Observed::Candidates(_)
                | Observed::CandidatesUnknown { .. }
                | Observed::AuthenticationOff,
            ) => {}
            None => bail!("the observation ended by itself, which is a bug in this program"),
        }
    }
}
