//! The history of terms: who led, when, and how each term began and ended.
//!
//! It is written independently of the election, which never waits for it. Only the end of the process
//! waits for it, for one request.

mod writer;

use crate::{
    clock,
    config::{Address, Config},
    etcd::Connection,
    protocol::{Beginning, Entry, Event, LeaseId, LossReason, Moment, Status, Term, Timing},
    record::TermRecord,
    wall_clock,
};
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use writer::Writer;

/// The records of the last terms, the oldest first; `None` if they are not known.
pub(super) type KnownTerms = Option<Arc<[TermRecord]>>;

/// What the writer must know.
enum Note {
    /// A term of this candidate has begun.
    Began(Term, TermRecord),
    /// It has ended, and its lease is revoked.
    Ended(TermEnd),
    /// Another candidate leads.
    Follows,
}

/// The end of a term of this candidate.
struct TermEnd {
    term: Term,
    reason: LossReason,
    at: SystemTime,
    /// The connection at that time: a candidate that withdraws may have disconnected before this is written.
    connection: Option<Box<Connection>>,
}

/// A term that was lost, and whose end is not written yet.
struct Ending {
    term: Term,
    reason: LossReason,
    /// When what acted had stopped, if it has.
    stopped: Option<SystemTime>,
}

/// What is known of the rights to keep a history.
struct Denial {
    /// The election's key.
    leader_key: String,
    /// Whether it was reported that the etcd role lacks them.
    is_reported: AtomicBool,
}

/// Takes down what happens, and passes it to a task that writes it.
pub(super) struct History {
    name: String,
    address: Option<String>,
    /// How long a request may take.
    limit: Duration,
    /// In boxes, because a channel has room for many from the start.
    notes: mpsc::UnboundedSender<Box<Note>>,
    connections: watch::Sender<Option<Box<Connection>>>,
    known: watch::Sender<KnownTerms>,
    denial: Arc<Denial>,
    writing: JoinHandle<()>,
    /// `leader/acting` as last known.
    acting: Option<Entry>,
    /// When the last term was seen to have ended.
    term_ended: Option<Moment>,
    /// The term of this candidate that goes on.
    term: Option<Term>,
    /// Why the last term ended, until its lease is revoked.
    ending: Option<Ending>,
    /// Whether the end of this candidate's last term is to be written.
    end_is_recorded: bool,
}

impl History {
    /// Starts the task, within a tokio runtime.
    pub fn start(config: &Config) -> Self {
        let limit = Timing::new(config.ttl().as_duration(), config.grace()).limit();
        let (notes, notes_received) = mpsc::unbounded_channel();
        let (connections, connections_received) = watch::channel(None);
        let (known, _) = watch::channel(None);
        let denial = Arc::new(Denial {
            leader_key: config.leader_key().as_str().to_owned(),
            is_reported: AtomicBool::new(false),
        });
        let writer = Writer::new(
            notes_received,
            connections_received,
            known.clone(),
            Arc::clone(&denial),
            limit,
        );
        Self {
            name: config.name().as_str().to_owned(),
            address: config.address().map(Address::as_str).map(str::to_owned),
            limit,
            notes,
            connections,
            known,
            denial,
            writing: tokio::spawn(writer.run()),
            acting: None,
            term_ended: None,
            term: None,
            ending: None,
            end_is_recorded: false,
        }
    }

    /// Returns the sender of what is known, for those that want to know it.
    pub fn known(&self) -> watch::Sender<KnownTerms> {
        self.known.clone()
    }

    /// Sets the connection to use.
    pub fn set_connection(&self, connection: Option<Box<Connection>>) {
        self.connections.send_replace(connection);
    }

    /// Notices that the term before has ended: `leader/acting` is gone or was written anew; that this
    /// candidate has stopped acting, and has released the keys and the lease. `is_given_up` returns whether
    /// a lease still has to be revoked.
    ///
    /// Only then is the end written: it would delay the hand-over, since etcd writes one after the other to
    /// its disk.
    pub fn observe(&mut self, status: &Status, is_given_up: impl Fn(LeaseId) -> bool) {
        let has_changed = status.acting != self.acting;
        let last = mem::replace(&mut self.acting, status.acting.clone());
        if status.keys_as_of.is_none() {
            // Nothing is known of the keys, such as after etcd has gone back in its history.
            self.term_ended = None;
        } else if has_changed && last.is_some_and(|acting| acting.lease.is_some()) {
            self.term_ended = Some(clock::now());
        }
        let acts_in = status.role.term();
        if let Some(ending) = self
            .ending
            .as_mut()
            .filter(|ending| acts_in != Some(ending.term))
        {
            ending.stopped.get_or_insert_with(wall_clock::now);
            if !is_given_up(ending.term.lease) {
                self.record_end();
            }
        }
    }

    /// Takes down what happened.
    pub fn record(&mut self, event: &Event) {
        match *event {
            Event::Leading {
                term, beginning, ..
            } => {
                // The lease of the last term may not be revoked yet, but nobody waits for the next leader any more.
                self.record_end();
                self.term = Some(term);
                self.end_is_recorded = false;
                let record = self.begin(term, beginning);
                self.note(Note::Began(term, record));
            }
            Event::Lost { term, reason } => {
                let is_first = self.term.take_if(|present| *present == term).is_some();
                if is_first && can_be_recorded(reason) {
                    self.end_is_recorded = true;
                    self.ending = Some(Ending {
                        term,
                        reason,
                        stopped: None,
                    });
                }
            }
            // What is reported then says that no history is kept.
            Event::SeatsDenied { .. } => self.denial.is_reported.store(true, Ordering::Relaxed),
            Event::Following { .. } => self.note(Note::Follows),
            _ => {}
        }
    }

    /// Passes on how a term ended.
    fn record_end(&mut self) {
        if let Some(Ending {
            term,
            reason,
            stopped,
        }) = self.ending.take()
        {
            self.note(Note::Ended(TermEnd {
                term,
                reason,
                at: stopped.unwrap_or_else(wall_clock::now),
                connection: self.connections.borrow().clone(),
            }));
        }
    }

    fn note(&self, note: Note) {
        // Without rights, the task has ended.
        let _ = self.notes.send(Box::new(note));
    }

    fn begin(&mut self, term: Term, beginning: Beginning) -> TermRecord {
        let came = match beginning {
            Beginning::HandOver => TermRecord::HANDED_OVER,
            Beginning::TakeOver => TermRecord::TOOK_OVER,
            Beginning::Campaign => TermRecord::ELECTED,
        };
        let now = clock::now();
        // The take-over itself ended the term before, whose holder had stopped acting at some time before that.
        let ended = self.term_ended.take();
        TermRecord {
            gap: ended
                .filter(|_| beginning != Beginning::TakeOver)
                .map(|ended| now.since(ended)),
            ..TermRecord::now(term.token, &self.name, self.address.as_deref(), came)
        }
    }

    /// Waits until the end of the last term is written, if it is to be, for one limit of a request at most.
    pub async fn finish(mut self) {
        self.record_end();
        let mut writing = self.writing;
        // The task ends once it has nothing left to write.
        drop(self.notes);
        if !self.end_is_recorded || timeout(self.limit, &mut writing).await.is_err() {
            writing.abort();
        }
    }
}

/// Returns whether the holder can record that its term ended for this reason: it reaches etcd, and that
/// holds the record of the term.
const fn can_be_recorded(reason: LossReason) -> bool {
    matches!(
        reason,
        LossReason::LeaderKeyDeleted
            | LossReason::LeaderKeyOverwritten
            | LossReason::LeaseGone
            | LossReason::ActingKeyTaken
            | LossReason::Withdrawn
            | LossReason::Resigned
            | LossReason::StoodBack
            | LossReason::Outranked
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Cluster,
        protocol::{FencingToken, LeaseId, Role},
    };

    const TERM: Term = Term {
        token: FencingToken::new(9),
        lease: LeaseId::new(9),
    };

    fn status(acting: Option<(i64, i64)>) -> Status {
        let entry = |(mod_revision, lease)| Entry {
            value: b"{}"[..].into(),
            lease: (lease != 0).then_some(LeaseId::new(lease)),
            create_revision: mod_revision,
            mod_revision,
            settings: crate::protocol::TermSettings::default(),
        };
        Status {
            role: Role::Follower,
            keys_as_of: Some(clock::now()),
            keys_known_until: None,
            leader: None,
            acting: acting.map(entry),
            seats: None,
            stands_back: false,
            endpoint: 0,
        }
    }

    /// Returns the record of a term that begins after these statuses were seen.
    fn record_after(statuses: &[Status]) -> TermRecord {
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        let mut history = History::start(&Config::new("one".parse().unwrap(), cluster));
        for status in statuses {
            history.observe(status, |_| false);
        }
        history.observe(&status(Some((9, 9))), |_| false);
        let record = history.begin(TERM, Beginning::Campaign);
        assert_eq!(history.term_ended, None, "it counts once");
        record
    }

    #[tokio::test]
    async fn a_gap_is_known_if_the_end_of_the_term_before_was_seen() {
        let (other, gone) = (status(Some((5, 5))), status(None));
        let by_hand = status(Some((6, 0)));
        let unknown = Status {
            keys_as_of: None,
            ..gone.clone()
        };
        for (statuses, is_known) in [
            (vec![], false),
            (vec![gone.clone()], false),
            (vec![other.clone(), gone.clone()], true),
            // It was handed over.
            (vec![other.clone()], true),
            (vec![by_hand.clone(), gone.clone()], false),
            (vec![other.clone(), by_hand, gone.clone()], true),
            // etcd went back in its history.
            (vec![other.clone(), unknown.clone()], false),
            (vec![other, gone.clone(), unknown], false),
        ] {
            let record = record_after(&statuses);
            assert_eq!(record.gap.is_some(), is_known, "{statuses:?}");
            assert!(record.gap.is_none_or(|gap| gap < Duration::from_mins(1)));
        }
    }

    #[tokio::test]
    async fn the_first_reason_for_which_a_term_ended_counts() {
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        for (reasons, is_written) in [
            ([LossReason::LeaderKeyDeleted, LossReason::NotRenewed], true),
            ([LossReason::LeaseGone, LossReason::Withdrawn], true),
            ([LossReason::NotRenewed, LossReason::Withdrawn], false),
        ] {
            let mut history = History::start(&Config::new("one".parse().unwrap(), cluster.clone()));
            history.record(&Event::Leading {
                term: TERM,
                deadline: clock::now(),
                beginning: Beginning::HandOver,
                fail_over: None,
            });
            for reason in reasons {
                history.record(&Event::Lost { term: TERM, reason });
            }
            assert_eq!(history.end_is_recorded, is_written, "{reasons:?}");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_term_is_recorded_before_the_next_begins_though_its_lease_is_not_revoked()
    {
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        let mut history = History::start(&Config::new("one".parse().unwrap(), cluster));
        let leading = |term| Event::Leading {
            term,
            deadline: clock::now(),
            beginning: Beginning::Campaign,
            fail_over: None,
        };
        history.record(&leading(TERM));
        let reason = LossReason::ActingKeyTaken;
        history.record(&Event::Lost { term: TERM, reason });
        history.observe(&status(None), |lease| lease == TERM.lease);
        assert!(history.ending.is_some(), "the lease has to be revoked");
        history.record(&leading(Term {
            token: FencingToken::new(12),
            lease: LeaseId::new(10),
        }));
        assert!(history.ending.is_none(), "passed on");
    }
}
