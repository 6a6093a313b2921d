//! Rules 20 and 21, a job that runs once: a candidate looks for the job's record before it runs the job,
//! and records that it has completed the job.
//!
//! The record is written only in the term in which the job was completed, and only if there is none. A
//! campaign requires that there is no record, in the same transaction. So no candidate is elected after a
//! record was written, and while one acts, no other candidate can write a record.

use super::{
    CallId, Entry, Event, Failure, FailureKind, Machine, Moment, Settings, State, Term,
    Transaction, calls::CallKind, view::Known,
};

/// What a candidate looks at before it asks for its first lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The keys, and the record of the job that runs once.
    Keys,
    /// Whether it may write the record. That is a separate request: a full database refuses it, which
    /// must not hide that the job is done.
    Permission,
    /// Whether it may read and write the challenge, because its terms have a fail-over limit.
    Challenge,
}

impl Look {
    /// Returns what to look at first, if anything. Without a look, a lease could be granted for nothing.
    pub fn first(settings: Settings) -> Option<Self> {
        let looks = settings.runs_once || settings.tries_once();
        let challenge = settings.fail_over.map(|_| Self::Challenge);
        if looks { Some(Self::Keys) } else { challenge }
    }

    /// Returns what to look at next.
    pub fn next(self, settings: Settings) -> Option<Self> {
        let challenge = settings.fail_over.map(|_| Self::Challenge);
        match self {
            Self::Keys if settings.runs_once => Some(Self::Permission),
            Self::Keys | Self::Permission => challenge,
            Self::Challenge => None,
        }
    }

    pub fn transaction(self, settings: Settings) -> Transaction {
        match self {
            Self::Keys => Transaction::READ.about_job(settings.runs_once),
            Self::Permission => Transaction::probe(),
            Self::Challenge => Transaction::probe_challenge(),
        }
    }
}

/// The record of a completed job, until a response shows whether it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recording {
    term: Term,
    /// When the machine learned that the job was completed.
    since: Moment,
    /// How many transactions were sent of which it is not known whether they have written the record.
    unresolved: u32,
    /// How many of them etcd has refused, though it may have carried them out, and when it refused the last
    /// one.
    refused: u32,
    refused_at: Moment,
    /// Whether etcd has refused the last one, so that the next try renews the term without it.
    was_refused: bool,
    /// Whether it was reported that etcd refuses the record.
    is_refusal_reported: bool,
    /// When the machine stops sending the record, set once the term cannot be renewed any more.
    ends: Option<Moment>,
}

impl Recording {
    pub fn term(self) -> Term {
        self.term
    }

    pub fn ends(&self) -> Option<Moment> {
        self.ends
    }

    /// Returns the transaction of the next try. A try whose transaction is refused renews nothing, so that
    /// one without the record follows it.
    pub fn transaction(self) -> Transaction {
        if self.was_refused {
            Transaction::READ.about_job(true)
        } else {
            Transaction::record(self.term)
        }
    }

    /// Returns true iff a transaction may have written the record, without a response that says so.
    fn may_exist(self) -> bool {
        self.unresolved > 0
    }
}

impl Machine {
    /// Rule 21: begins to record that the job was completed in a term; the term goes on meanwhile.
    pub(super) fn handle_completed(&mut self, now: Moment, completed: Term) {
        let is_running = matches!(self.state.tenure(), Some(tenure) if tenure.term == completed);
        if !is_running || !self.settings.runs_once {
            let may_exist = false;
            return self.events.push_back(Event::NotRecorded { may_exist });
        }
        self.recording = Some(Recording {
            term: completed,
            since: now,
            unresolved: 0,
            refused: 0,
            refused_at: now,
            was_refused: false,
            is_refusal_reported: false,
            ends: None,
        });
        match self.state {
            State::Stopping {
                renewing: false, ..
            } => self.limit_recording(now),
            _ => self.calls.next_soon(),
        }
    }

    /// Notes that a transaction is about to be sent: if it writes the record, the record may exist from
    /// then on.
    pub(super) fn note_record_sent(&mut self, transaction: &Transaction) {
        if let Some(recording) = &mut self.recording
            && transaction.is_record(recording.term)
        {
            recording.unresolved += 1;
        }
    }

    /// Rule 21: takes in that a transaction was refused. If that was the record in a try, the term goes on
    /// without it, and the record is sent again after an answered try. Returns true iff so.
    pub(super) fn refuse_record(&mut self, now: Moment, id: CallId, failure: &Failure) -> bool {
        let kind = self.calls.get(id).map(|call| call.kind);
        let (Some(CallKind::Try { transaction, .. } | CallKind::Look { transaction }), true) =
            (kind, failure.is_permanent())
        else {
            return false;
        };
        let Some(recording) = &mut self.recording else {
            return false;
        };
        if !transaction.is_record(recording.term) {
            return false;
        }
        if failure.kind == FailureKind::Denied {
            recording.unresolved = recording.unresolved.saturating_sub(1);
        } else {
            // If the database fills up meanwhile, etcd carries the transaction out and refuses it then
            // (`quotaApplierV3.Txn` in `server/etcdserver/apply.go`). A later response shows whether it did.
            recording.refused += 1;
            recording.refused_at = now;
        }
        recording.was_refused = true;
        if self.calls.finish(id).is_none() || matches!(kind, Some(CallKind::Look { .. })) {
            return false;
        }
        let endpoint = self.calls.endpoint();
        if !std::mem::replace(&mut recording.is_refusal_reported, true) {
            let failure = failure.clone();
            self.events
                .push_back(Event::RecordRefused { endpoint, failure });
        }
        let failure = failure.clone();
        self.events.push_back(Event::Failed { endpoint, failure });
        self.calls.next_now();
        true
    }

    /// Lets the next try carry the record again, because one was answered and has renewed the term.
    pub(super) fn allow_record(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.was_refused = false;
        }
    }

    /// Rules 20 and 21: acts on what the response to a request that was sent at `sent` shows: the job's
    /// record, or that there is none.
    pub(super) fn judge_job(
        &mut self,
        now: Moment,
        sent: Moment,
        record: Option<Entry>,
        seen: &Known,
    ) {
        if let Some(record) = record {
            self.is_done = true;
            let in_term = self.state.tenure().is_some();
            let completed = self.recording.take().is_some();
            // In a term, somebody has written the record by hand; what acts finishes undisturbed.
            if !completed && (in_term || self.withdrawing.is_some()) {
                return;
            }
            self.events.push_back(if completed {
                Event::Recorded { record }
            } else {
                Event::JobDone { record }
            });
            self.withdraw(now);
            return;
        }
        let Some(recording) = &mut self.recording else {
            return;
        };
        if sent >= recording.refused_at {
            // What was refused before has not written it either.
            recording.unresolved = recording.unresolved.saturating_sub(recording.refused);
            recording.refused = 0;
        }
        if sent >= recording.since && !seen.acts_in(recording.term) {
            // The term is over: no transaction that is still on its way can write the record. The
            // response to an earlier request, such as an overdue try, may show the keys from before the
            // term.
            self.recording = None;
            let may_exist = false;
            self.events.push_back(Event::NotRecorded { may_exist });
        }
    }

    /// Limits how long the record is sent once the term cannot be renewed any more: it can still be
    /// written while `leader/acting` stands.
    pub(super) fn limit_recording(&mut self, now: Moment) {
        let ends = now + Self::WITHDRAWAL_LIMITS * self.timing().limit();
        if let Some(recording) = &mut self.recording {
            recording.ends.get_or_insert(ends);
            self.calls.next_now();
        }
    }

    /// Stops sending the record if etcd has not responded in time.
    pub(super) fn expire_recording(&mut self, now: Moment) {
        let has_ended = |recording: &mut Recording| recording.ends.is_some_and(|ends| now >= ends);
        if let Some(recording) = self.recording.take_if(has_ended) {
            self.calls.abandon();
            self.events.push_back(Event::NotRecorded {
                may_exist: recording.may_exist(),
            });
        }
    }

    /// Stops sending the record, because nobody waits for it any more.
    pub(super) fn end_recording(&mut self) {
        if let Some(recording) = self.recording.take() {
            self.events.push_back(Event::NotRecorded {
                may_exist: recording.may_exist(),
            });
        }
    }

    /// Rules 20 and 28: if a failure shows, before this candidate has taken part, that its user may not do what it
    /// must be able to do as the leader, withdraws without taking part, and returns true.
    pub(super) fn refuse_to_join(&mut self, now: Moment, failure: &Failure) -> bool {
        let failure = failure.clone();
        let event = match self.look {
            _ if failure.kind != FailureKind::Denied => return false,
            Some(Look::Challenge) => Event::FailOverDenied { failure },
            Some(Look::Keys | Look::Permission) if self.settings.runs_once => {
                Event::JobDenied { failure }
            }
            Some(_) | None => return false,
        };
        self.calls.abandon();
        self.look = None;
        self.events.push_back(event);
        self.withdraw(now);
        true
    }
}
