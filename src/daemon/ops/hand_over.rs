//! `step-down --to`: has the leader's term handed to a chosen candidate.

mod choice;
mod request;

pub(super) use choice::Choice;

use super::{ask::Asker, print};
use crate::{
    config::LeaderKey,
    daemon::render::{alarms_clause, state_sentence},
    observer::{ElectionState, Leader},
    printable::Printable,
    protocol::{Situation, Term, Transaction, View},
    wall_clock,
};
use anyhow::{Context, bail};
use choice::Listed;
use request::Request;

/// Asks the leader to hand its term to the chosen candidate, and waits until that one acts.
///
/// `view` shows that `leader` leads.
///
/// # Errors
/// If the term cannot be handed to that candidate, or that one does not act in time.
pub(super) async fn run(
    asker: &Asker,
    leader_key: &LeaderKey,
    leader: &Leader,
    view: &View,
    alarms: &[String],
    choice: &Choice,
) -> anyhow::Result<u8> {
    let name = Printable(&leader.name);
    // A full database takes neither the request nor the successor's keys.
    if let Some(clause) = alarms_clause(alarms) {
        bail!("{clause}; nothing was done, and '{name}' leads on: --force cannot help --to");
    }
    let state = ElectionState::of(view);
    if state.situation != Situation::Led {
        let state = state_sentence(&state, leader_key);
        bail!("nothing was done, because this leader cannot hand over: {state}");
    }
    let Some(seats) = &view.seats else {
        let key = Printable(leader_key.as_str().as_bytes());
        bail!(
            "the etcd user may not read '{key}/candidates/' and '{key}/next', so that no candidate can \
             be chosen; nothing was done; {}",
            required_role(leader_key)
        );
    };
    let to = choice::find(choice, seats, leader, leader_key)?;
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
        "leads no more".to_owned()
    };
    print(&format!("'{name}' {what}, token {}.", leader.token))?;
    request.wait(view).await
}

/// Returns a clause that says which permissions a hand-over requires.
fn required_role(leader_key: &LeaderKey) -> String {
    let key = Printable(leader_key.as_str().as_bytes());
    format!("grant its role readwrite on the prefix '{key}/' and on '{key}'")
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
        bail!("{to} says that it is unhealthy; nothing was done");
    }
    let lease = asker
        .ask(async |connection, limit| connection.time_to_live(to.lease, limit).await)
        .await
        .with_context(|| format!("it is not known whether {to} is alive, and nothing was done"))?;
    let Some(lease) = lease else {
        bail!("{to} withdrew or died just now; nothing was done");
    };
    if !lease.is_renewed() {
        let silence = lease.granted.saturating_sub(lease.remaining);
        let since = humantime::format_rfc3339_seconds(wall_clock::now() - silence);
        bail!(
            "{to} looks dead: it has not renewed its lease since about {since}, for {} s; nothing was \
             done",
            silence.as_secs()
        );
    }
    Ok(())
}
