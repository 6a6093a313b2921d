//! Rules 28 and 29, the leader's part of a challenge: a term with a fail-over limit continues only while etcd shows
//! that there is no challenge, or that the leader has responded to it.

use super::{Machine, Moment, State, Tenure, Term, Transaction};

/// Until when a term may act, unless it is renewed. Both parts count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// Until when its lease carries it.
    pub leased: Moment,
    /// Until when nobody can have taken over from it, if it has a fail-over limit.
    pub unchallenged: Option<Moment>,
}

impl Deadline {
    /// Returns the earlier of the two.
    pub fn at(self) -> Moment {
        self.unchallenged
            .map_or(self.leased, |unchallenged| unchallenged.min(self.leased))
    }
}

impl Tenure {
    /// Returns when what acts must begin to stop, unless the term is renewed.
    pub(super) fn stop_from(&self) -> Moment {
        self.lease.timing.stop_from(self.deadline.at())
    }

    /// Returns by when what learns now that its leadership is being lost must have stopped.
    pub(super) fn stop_by(&self, now: Moment) -> Moment {
        self.lease.timing.stop_by(now, self.deadline.at())
    }
}

impl Machine {
    /// Returns true iff the next try is about the challenge: this candidate's own terms have a limit, or the present
    /// term has one and etcd permits it.
    pub(super) fn is_about_challenge(&self) -> bool {
        let acting = self.known.as_ref().and_then(|known| known.acting());
        let has_limit = acting.is_some_and(|acting| acting.settings.fail_over.is_some());
        self.settings.fail_over.is_some() || (has_limit && self.suspicions.is_permitted())
    }

    /// Rule 29: takes in that the response to a transaction that was sent at `sent` shows no challenge. If it shows
    /// the term as well, nobody can take over before a limit has passed since then, by any clock.
    pub(super) fn record_unchallenged(&mut self, sent: Moment) {
        let Some(known) = &self.known else { return };
        let (State::Leader(tenure)
        | State::Stopping {
            tenure,
            renewing: true,
            ..
        }) = &mut self.state
        else {
            return;
        };
        let Some(limit) = tenure.lease.timing.fail_over() else {
            return;
        };
        if known.acts_in(tenure.term) {
            let until = Some(sent + limit.acts_for());
            tenure.deadline.unchallenged = tenure.deadline.unchallenged.max(until);
        }
    }

    /// Returns the term whose holder this is and that is challenged.
    fn challenged_term(&self) -> Option<Term> {
        let (lease, token) = match self.state {
            State::Elected {
                candidacy, token, ..
            } => (candidacy.lease, token),
            State::Leader(tenure)
            | State::Stopping {
                tenure,
                renewing: true,
                ..
            } => (tenure.lease, tenure.term.token),
            _ => return None,
        };
        lease.timing.fail_over()?;
        self.known.as_ref()?.challenge()?;
        let lease = lease.id;
        Some(Term { token, lease })
    }

    /// Rule 29: returns true iff the next try must respond to a challenge.
    pub(super) fn must_confirm(&self) -> bool {
        self.challenged_term().is_some()
    }

    /// Returns the transaction that responds to a challenge.
    pub(super) fn confirming(&self) -> Transaction {
        self.challenged_term()
            .map_or(Transaction::READ, Transaction::confirm)
    }
}
