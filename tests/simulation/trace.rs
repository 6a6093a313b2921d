//! A schedule as a person reads it: time, who, what happened, and what each believes then.

use super::{MILLI, SECOND, etcd::owner_and_number, world::World};
use crate::protocol::{Action, Effect, Entry, Input, LeaseId, Moment, Role, Transaction, View};
use std::fmt::Write as _;

impl World {
    /// A line of the trace, made only if there is one.
    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = line(self);
        let seconds = self.now / SECOND;
        let micros = self.now % SECOND / 1000;
        if let Some(trace) = &mut self.trace {
            // Writing to a String cannot fail.
            let _ = writeln!(trace, "{seconds:>4}.{micros:06}  {line}");
        }
    }

    pub fn belief(&self, node: usize) -> String {
        let Some(machine) = &self.nodes[node].machine else {
            return String::new();
        };
        let status = machine.status();
        let clock = &self.nodes[node].clock;
        let left = |until: Moment| {
            let when = clock.when(until);
            format!("until {}.{:03}", when / SECOND, when % SECOND / MILLI)
        };
        let role = match status.role {
            Role::Leader { term, deadline } => format!(
                "LEADER with lease {}, token {}, {}",
                lease_name(term.lease.get()),
                term.token,
                left(deadline)
            ),
            Role::Stopping { term, by, reason } => format!(
                "stopping lease {}, token {}, {}: {reason}",
                lease_name(term.lease.get()),
                term.token,
                left(by)
            ),
            Role::Follower => match &status.leader {
                Some(leader) => format!(
                    "follower of {} at {}",
                    lease_name(leader.lease.map_or(0, LeaseId::get)),
                    leader.mod_revision
                ),
                None => "follower of nobody".to_owned(),
            },
            _ => "withdrawn".to_owned(),
        };
        format!("  => {role}")
    }
}

/// `2.7` is the seventh lease, granted to node 2.
pub fn lease_name(id: i64) -> String {
    match id {
        0 => "none".to_owned(),
        id => {
            let (owner, number) = owner_and_number(id);
            format!("{owner}.{number}")
        }
    }
}

fn id(lease: Option<LeaseId>) -> String {
    lease_name(lease.map_or(0, LeaseId::get))
}

fn view_text(view: &View) -> String {
    let key = |key: Option<&Entry>| match key {
        Some(key) => format!("{} at {}", id(key.lease), key.mod_revision),
        None => "absent".to_owned(),
    };
    let mut text = format!(
        "leader {}, acting {}, revision {}, raft term {}",
        key(view.leader.as_ref()),
        key(view.acting.as_ref()),
        view.revision,
        view.raft_term
    );
    if let Some(challenge) = &view.challenge {
        let _ = write!(text, ", challenge {}", key(Some(challenge)));
    }
    if let Some(seats) = &view.seats {
        for seat in &seats.taken {
            let seat_text = format!(", seat {}: {}", seat.number, key(Some(&seat.entry)));
            text.push_str(&seat_text);
        }
        if let Some(next) = &seats.next {
            let _ = write!(text, ", next {}", key(Some(&next.entry)));
        }
    }
    text
}

/// An input as a person reads it in a trace.
pub fn input_text(input: &Input) -> String {
    let failed = |failed: &crate::protocol::Failure| format!("failed, {:?}", failed.kind);
    match input {
        Input::Connected { result, .. } => match result {
            Ok(()) => "connected".to_owned(),
            Err(failure) => format!("connecting {}", failed(failure)),
        },
        Input::Granted { result, .. } => match result {
            Ok(ttl) => format!("lease granted for {ttl:?}"),
            Err(failure) => format!("grant {}", failed(failure)),
        },
        Input::KeptAlive { call, result } => match result {
            Ok(answer) => format!(
                "{call:?} kept alive, ttl {}, raft term {}",
                answer.ttl, answer.raft_term
            ),
            Err(failure) => format!("{call:?} keepalive {}", failed(failure)),
        },
        Input::Transacted { call, result } | Input::Executed { call, result } => match result {
            Ok(view) => format!("{call:?} shows {}", view_text(view)),
            Err(failure) => format!("{call:?} transaction {}", failed(failure)),
        },
        Input::LeaseTime { result, .. } => match result {
            Ok(Some(time)) => format!("the lease lasts for {:?}", time.remaining),
            Ok(None) => "the lease is gone".to_owned(),
            Err(failure) => format!("asking for the lease {}", failed(failure)),
        },
        Input::Revoked { result, .. } => match result {
            Ok(()) => "revoked".to_owned(),
            Err(failure) => format!("revocation {}", failed(failure)),
        },
        Input::Changed {
            key,
            revision,
            entry,
            ..
        } => {
            let now = match entry {
                Some(entry) => format!("bound to {}", id(entry.lease)),
                None => "deleted".to_owned(),
            };
            format!("watch sees {key:?} {now} at {revision}")
        }
        Input::WatchEnded { .. } => "watch ended".to_owned(),
        Input::BackedOff { .. } => "backed off".to_owned(),
        Input::Stopped { term } => format!("what acted with token {} has stopped", term.token),
        Input::Completed { term } => format!("the job of token {} is completed", term.token),
        Input::StandBack => "shall stand back".to_owned(),
        Input::StandForward => "may lead again".to_owned(),
        Input::Presence { of, presence } => format!("the leader of {of} is {presence:?}"),
        Input::Withdraw => "is asked to withdraw".to_owned(),
        Input::Version { version } => format!("etcd is of version {version}"),
        Input::AuthenticationOff => "etcd's authentication is off".to_owned(),
        Input::Abandoned => "is dropped, with what acts".to_owned(),
    }
}

/// An action as a person reads it in a trace.
pub fn action_text(action: &Action) -> String {
    match action {
        Action::Connect { endpoint, .. } => format!("connects to member {}", endpoint + 1),
        Action::AskVersion { .. } => "asks for the version".to_owned(),
        Action::StopConnecting => "stops connecting".to_owned(),
        Action::Grant { lease, .. } => format!("asks for lease {}", id(Some(*lease))),
        Action::Try {
            call,
            lease,
            transaction,
            ..
        } => {
            let asks = asks(transaction);
            format!("{asks} with lease {}: {call:?}", id(Some(*lease)))
        }
        Action::Look {
            call, transaction, ..
        } => format!("{} without a lease: {call:?}", asks(transaction)),
        Action::Execute {
            call, transaction, ..
        } => format!("{} beside: {call:?}", asks(transaction)),
        Action::AskLeaseTime { lease, .. } => {
            format!("asks how long lease {} lasts", id(Some(*lease)))
        }
        Action::Revoke { lease, .. } => format!("revokes lease {}", id(Some(*lease))),
        Action::Watch { from_revision, .. } => format!("watches from revision {from_revision}"),
        Action::Unwatch => "watches no more".to_owned(),
        Action::Disconnect => "disconnects".to_owned(),
        Action::BackOff { at_most, .. } => format!("backs off for up to {at_most:?}"),
        Action::Lead { term, .. } => format!("acts, token {}", term.token),
        Action::TakeBack { term } => {
            format!("takes the leadership with token {} back", term.token)
        }
    }
}

fn asks(transaction: &Transaction) -> &'static str {
    match transaction.effect {
        Effect::Lead {
            takes_over: true, ..
        } => "takes over",
        Effect::Lead { .. } => "campaigns",
        Effect::Challenge => "challenges the leader",
        Effect::Confirm if *transaction == Transaction::probe_challenge() => {
            "asks whether it may be challenged"
        }
        Effect::Confirm => "confirms that it is alive",
        Effect::Put if *transaction == Transaction::probe() => "asks whether it may record its job",
        Effect::Put => "records its job",
        Effect::HandOver { .. } => "hands its term over",
        Effect::Release => "releases its keys",
        Effect::PutSeat { .. } => "writes its seat",
        Effect::Choose { .. } => "asks for a hand-over",
        Effect::None | Effect::DeleteLeader => "reads",
    }
}
