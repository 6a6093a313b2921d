//! `step-down --to`: asks the leader to hand its term to a chosen candidate.

mod choice;
mod request;

pub(super) use choice::Choice;

use super::{ask::Asker, print};
use crate::{
    config::LeaderKey,
    daemon::render::{alarms_clause, failure_reason, required_role, state_sentence},
    observer::{ElectionState, Leader},
    printable::Printable,
    protocol::{Failure, FailureKind, LeaseTime, Situation, Term, Transaction, View},
    wall_clock,
};
use anyhow::{Context, bail};
use choice::Listed;
use request::Request;
use std::time::Duration;

/// Asks the leader to hand its term to the chosen candidate, and waits until that one acts.
///
/// `view` shows that `leader` leads, and the seats unless there is a failure that says why not.
///
/// # Errors
/// If the term cannot be handed to that candidate, or that one does not act in time.
pub(super) async fn run(
    asker: &Asker,
    leader_key: &LeaderKey,
    leader: &Leader,
    view: &View,
    without_seats_because: Option<&Failure>,
    alarms: &[String],
    choice: &Choice,
) -> anyhow::Result<u8> {
    let name = Printable(&leader.name);
    // A full database takes neither the request nor the successor's keys.
    if let Some(clause) = alarms_clause(alarms) {
        bail!(
            "{clause}; nothing was done, and '{name}' continues to lead. --force does not help here: the \
             request itself needs room in the database"
        );
    }
    let state = ElectionState::of(view);
    if state.situation != Situation::Led {
        let state = state_sentence(&state, leader_key);
        bail!("nothing was done, because this leader cannot hand over: {state}");
    }
    let Some(seats) = &view.seats else {
        bail!("{}", without_seats(leader_key, without_seats_because));
    };
    let to = choice::find(choice, seats, leader, leader_key)?;
    check_leader(asker, leader).await?;
    check(asker, &to).await?;
    let term = Term {
        token: leader.token,
        lease: leader.lease,
    };
    let Some(transaction) = Transaction::choose(term, to.seat) else {
        bail!("{to} is bound to no lease; nothing was done");
    };
    let request = Request {
        asker,
        leader_key,
        leader,
        leader_seat: seats.of(leader.lease),
        to,
        transaction,
    };
    let what = if request.send().await? {
        format!("is asked to hand over to {}", request.to)
    } else {
        // This includes a request that is repeated because its first response was lost.
        "no longer leads".to_owned()
    };
    print(&format!("'{name}' {what}, token {}.", leader.token))?;
    request.wait(view).await
}

/// Returns a message that says why no candidate can be chosen: the seats are not known.
fn without_seats(leader_key: &LeaderKey, failure: Option<&Failure>) -> String {
    let key = Printable(leader_key.as_str().as_bytes());
    let reason = failure.map_or_else(String::new, |failure| {
        format!(" ({})", failure_reason(failure))
    });
    let what = format!(
        "'{key}/candidates/' and '{key}/next'{reason}, so that no candidate can be chosen; nothing was done"
    );
    match failure {
        Some(failure) if failure.kind != FailureKind::Denied => {
            format!("etcd refuses to show {what}")
        }
        _ => {
            let advice = required_role(leader_key);
            format!("the etcd user may not read {what}; {advice}")
        }
    }
}

/// Checks that the leader can hand over.
///
/// # Errors
/// If it looks dead, or it is not known whether it is alive.
async fn check_leader(asker: &Asker, leader: &Leader) -> anyhow::Result<()> {
    let name = Printable(&leader.name);
    let lease = asker
        .ask(async |connection, limit| connection.time_to_live(leader.lease, limit).await)
        .await
        .with_context(|| {
            format!("it is not known whether '{name}' is alive, and nothing was done")
        })?;
    let Some(lease) = lease else {
        bail!(
            "the lease of '{name}' ended just now, so that it cannot hand over; nothing was done"
        );
    };
    if let Some(silence) = silence(lease) {
        bail!("'{name}' looks dead, so that it cannot hand over: {silence}; nothing was done");
    }
    Ok(())
}

/// Returns a clause that says for how long a lease has not been renewed, if that is too long.
fn silence(lease: LeaseTime) -> Option<String> {
    if lease.is_renewed(Duration::ZERO) {
        return None;
    }
    let silence = lease.granted.saturating_sub(lease.remaining);
    let since = humantime::format_rfc3339_seconds(wall_clock::now() - silence);
    let seconds = silence.as_secs();
    Some(format!(
        "it has not renewed its lease since about {since}, for {seconds} s"
    ))
}

/// Checks that a candidate can lead next.
///
/// # Errors
/// If it cannot, or if it is not known whether it is alive.
async fn check(asker: &Asker, to: &Listed<'_>) -> anyhow::Result<()> {
    if !to.seat.has_name {
        bail!("{to} does not say its name, so that no term can be handed to it; nothing was done");
    }
    if to.record.healthy == Some(false) {
        let reason = to.record.reason.as_deref();
        let reason = reason.map_or_else(String::new, |reason| {
            format!(" ('{}')", Printable(reason.as_bytes()))
        });
        bail!("{to} says that it is unhealthy{reason}; nothing was done");
    }
    let lease = asker
        .ask(async |connection, limit| connection.time_to_live(to.lease, limit).await)
        .await
        .with_context(|| format!("it is not known whether {to} is alive, and nothing was done"))?;
    let Some(lease) = lease else {
        bail!("{to} withdrew or died just now; nothing was done");
    };
    if let Some(silence) = silence(lease) {
        bail!("{to} looks dead: {silence}; nothing was done");
    }
    Ok(())
}
