//! Transactions on the election's keys, as data: the machine builds them, and etcd and the
//! simulator's model of it execute the same values.
//!
//! To add a transaction, write a constructor here, and add it to [`Machine`](super::Machine)'s
//! choice of the next try. `src/etcd/transact.rs` and `tests/simulation/etcd.rs` must also execute
//! each new [`Effect`] and each new [`Guard`]; the compiler shows where. The requests of commands
//! are in `src/etcd/questions.rs`.

use super::{ElectionKey, Entry, FencingToken, LeaseId, Seat, SeatNumber, Seats, Term};

/// What a transaction requires of one key; its effect takes place only if all its guards hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key may be anything.
    Ignored,
    /// The key does not exist.
    Absent,
    /// The key stands as one revision wrote it.
    ///
    /// The lease is compared as well: revisions repeat after a backup is restored, and a delayed
    /// transaction must not match another term.
    Unchanged {
        /// The revision that wrote the key.
        mod_revision: i64,
        /// The lease that the key is bound to.
        lease: LeaseId,
    },
    /// The key is bound to this lease, whichever revision wrote it.
    ///
    /// It suffices for a key that only the lease's own candidate writes, because every lease has an id of
    /// its own.
    BoundTo {
        /// The lease.
        lease: LeaseId,
    },
}

impl Guard {
    /// Requires that a key stands as it was read.
    pub(super) fn standing(entry: &Entry) -> Self {
        Self::Unchanged {
            mod_revision: entry.mod_revision,
            lease: entry.lease.unwrap_or(LeaseId::new(0)),
        }
    }
}

/// What a transaction does if its guards hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Puts both keys, bound to one lease, and deletes the challenge if the transaction is about it: the holder of
    /// that lease is elected.
    Lead {
        /// The lease.
        lease: LeaseId,
        /// Whether it takes over from a leader that has not responded to a challenge.
        takes_over: bool,
    },
    /// Puts `KEY/challenge`, bound to no lease: asks the leader to show that it is alive.
    Challenge,
    /// Deletes `KEY/challenge`: the leader shows that it is alive.
    Confirm,
    /// Puts both keys, bound to the lease of the candidate whose seat is guarded, deletes `KEY/next`
    /// and the own seat, and the challenge if the transaction is about it: that candidate is elected.
    HandOver {
        /// The lease of the successor.
        lease: LeaseId,
        /// Whether an operator has chosen it.
        is_chosen: bool,
    },
    /// Deletes `leader/acting`, `leader` if it is guarded, and the own seat.
    Release,
    /// Puts the own seat, bound to this lease.
    PutSeat {
        /// The lease.
        lease: LeaseId,
        /// The term in which the candidate leads, if it does.
        acts: Option<FencingToken>,
        /// Whether it can lead.
        is_healthy: bool,
    },
    /// Deletes the `leader` key: asks the leader to step down.
    DeleteLeader,
    /// Deletes the `leader` key, and puts `KEY/next`, bound to the lease of the candidate whose seat is
    /// guarded: asks the leader to hand its term to that candidate.
    Choose {
        /// The lease of the chosen candidate.
        lease: LeaseId,
    },
    /// Puts a key other than the election's two, bound to no lease. The caller that executes the
    /// transaction chooses the key and the value; in a transaction about the job, the key is the job's
    /// record.
    Put,
}

/// What the response to a transaction shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// No key.
    Nothing,
    /// Both keys of the election.
    Keys,
    /// Both keys, all seats and `KEY/next`.
    KeysAndSeats,
}

impl Reads {
    /// Returns the keys of the election that are shown.
    #[must_use]
    pub const fn keys(self) -> &'static [ElectionKey] {
        match self {
            Self::Nothing => &[],
            Self::Keys | Self::KeysAndSeats => ElectionKey::ALL,
        }
    }
}

/// One transaction.
///
/// Its reads show the keys as they are after the effect, whether or not the guards held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// What it requires of the `leader` key.
    pub leader: Guard,
    /// What it requires of the `leader/acting` key.
    pub acting: Guard,
    /// What it requires of `KEY/next`.
    pub next: Guard,
    /// What it requires of `KEY/challenge`.
    pub challenge: Guard,
    /// Whether it is about `KEY/challenge`. Then its response shows that key. Otherwise it needs no right to it.
    pub about_challenge: bool,
    /// What it requires of another candidate's seat, if it is about one.
    pub other_seat: Option<(SeatNumber, Guard)>,
    /// What it requires of the own seat, if it is about that.
    pub own_seat: Option<(SeatNumber, Guard)>,
    /// Whether it is about the job that runs once. Then its response shows the job's record, and some effects also
    /// require that there is none: see [`requires_no_record`](Self::requires_no_record).
    pub about_job: bool,
    /// What it does if all these requirements hold.
    pub effect: Effect,
    /// What its response shows.
    pub reads: Reads,
}

impl Transaction {
    /// Requires nothing, does nothing and shows nothing: what the others differ from.
    const NOTHING: Self = Self {
        leader: Guard::Ignored,
        acting: Guard::Ignored,
        next: Guard::Ignored,
        challenge: Guard::Ignored,
        about_challenge: false,
        other_seat: None,
        own_seat: None,
        about_job: false,
        effect: Effect::None,
        reads: Reads::Nothing,
    };

    /// Reads both keys. It is linearizable and costs etcd no raft entry.
    pub const READ: Self = Self {
        reads: Reads::Keys,
        ..Self::NOTHING
    };

    /// Takes both keys, if both are absent: while `leader` exists, a candidate is elected; while
    /// `leader/acting` exists, one may act.
    #[must_use]
    pub const fn campaign(lease: LeaseId) -> Self {
        Self {
            leader: Guard::Absent,
            acting: Guard::Absent,
            effect: Effect::Lead {
                lease,
                takes_over: false,
            },
            ..Self::READ
        }
    }

    /// Rule 30: challenges the holder of `leader/acting` as it was read, unless there is a challenge.
    #[must_use]
    pub fn challenge(acting: &Entry) -> Self {
        Self {
            acting: Guard::standing(acting),
            challenge: Guard::Absent,
            about_challenge: true,
            effect: Effect::Challenge,
            ..Self::READ
        }
    }

    /// Rule 29: responds to a challenge in a term.
    #[must_use]
    pub const fn confirm(term: Term) -> Self {
        Self {
            acting: Guard::Unchanged {
                mod_revision: term.token.get(),
                lease: term.lease,
            },
            about_challenge: true,
            effect: Effect::Confirm,
            ..Self::READ
        }
    }

    /// Rule 31: takes both keys over from a leader that has not responded to a challenge, if all three keys stand
    /// as they were read.
    #[must_use]
    pub fn take_over(
        lease: LeaseId,
        leader: Option<&Entry>,
        acting: &Entry,
        challenge: Guard,
    ) -> Self {
        Self {
            leader: leader.map_or(Guard::Absent, Guard::standing),
            acting: Guard::standing(acting),
            challenge,
            about_challenge: true,
            effect: Effect::Lead {
                lease,
                takes_over: true,
            },
            ..Self::READ
        }
    }

    /// Asks whether the user may read and write the challenge, and writes nothing: no key has this revision. A full
    /// database does not refuse it.
    #[must_use]
    pub const fn probe_challenge() -> Self {
        Self::confirm(Term {
            token: FencingToken::new(i64::MAX),
            lease: LeaseId::new(0),
        })
    }

    /// Sets whether it is about the challenge.
    #[must_use]
    pub const fn about_challenge(mut self, about_challenge: bool) -> Self {
        self.about_challenge = about_challenge;
        self
    }

    /// Returns true iff it records that the job was completed in a term.
    #[must_use]
    pub fn is_record(self, term: Term) -> bool {
        self.about_challenge(false) == Self::record(term)
    }

    /// Sets whether it is about the job that runs once.
    #[must_use]
    pub const fn about_job(mut self, about_job: bool) -> Self {
        self.about_job = about_job;
        self
    }

    /// Sets what its response shows.
    #[must_use]
    pub const fn reading(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// Rule 22: takes a seat that is free.
    #[must_use]
    pub const fn take_seat(
        seat: SeatNumber,
        lease: LeaseId,
        acts: Option<FencingToken>,
        is_healthy: bool,
    ) -> Self {
        Self {
            own_seat: Some((seat, Guard::Absent)),
            effect: Effect::PutSeat {
                lease,
                acts,
                is_healthy,
            },
            reads: Reads::KeysAndSeats,
            ..Self::NOTHING
        }
    }

    /// Rule 22: writes the own seat again, if it stands as it was read.
    #[must_use]
    pub const fn rewrite_seat(
        seat: SeatNumber,
        mod_revision: i64,
        lease: LeaseId,
        acts: Option<FencingToken>,
        is_healthy: bool,
    ) -> Self {
        let unchanged = Guard::Unchanged {
            mod_revision,
            lease,
        };
        Self {
            own_seat: Some((seat, unchanged)),
            ..Self::take_seat(seat, lease, acts, is_healthy)
        }
    }

    /// Rule 27: asks whether etcd's database has room, and writes nothing: no key has this revision.
    #[must_use]
    pub const fn probe_room(seat: SeatNumber, lease: LeaseId) -> Self {
        Self::rewrite_seat(seat, i64::MAX, lease, None, true)
    }

    /// Rule 23: hands a term whose holder has stopped acting to the candidate in a seat: `leader/acting`
    /// must stand as it was written when the term began; `leader` must too, or be absent; `KEY/next` and the seat
    /// must stand as they were read.
    ///
    /// Returns `None` if the seat is bound to no lease.
    #[must_use]
    pub fn hand_over(term: Term, leader_stands: bool, seats: &Seats, to: &Seat) -> Option<Self> {
        let lease = to.entry.lease?;
        let unchanged = Guard::Unchanged {
            mod_revision: term.token.get(),
            lease: term.lease,
        };
        let own_seat = seats.of(term.lease).map(|seat| seat.number);
        Some(Self {
            leader: if leader_stands {
                unchanged
            } else {
                Guard::Absent
            },
            acting: unchanged,
            next: seats
                .next
                .as_ref()
                .map_or(Guard::Absent, |next| Guard::standing(&next.entry)),
            other_seat: Some((to.number, Guard::standing(&to.entry))),
            own_seat: own_seat.map(|seat| (seat, Guard::BoundTo { lease: term.lease })),
            effect: Effect::HandOver {
                lease,
                is_chosen: seats.chosen_for(term.token) == Some(lease),
            },
            reads: Reads::KeysAndSeats,
            ..Self::NOTHING
        })
    }

    /// Rule 24: asks the holder of a term to hand it to the candidate in a seat: unless the term is over or
    /// ends already, and if the seat stands as it was read.
    ///
    /// Returns `None` if the seat is bound to no lease.
    #[must_use]
    pub fn choose(term: Term, to: &Seat) -> Option<Self> {
        let unchanged = Guard::Unchanged {
            mod_revision: term.token.get(),
            lease: term.lease,
        };
        Some(Self {
            leader: unchanged,
            acting: unchanged,
            other_seat: Some((to.number, Guard::standing(&to.entry))),
            effect: Effect::Choose {
                lease: to.entry.lease?,
            },
            reads: Reads::KeysAndSeats,
            ..Self::NOTHING
        })
    }

    /// Rule 7: releases the keys of a term that is over, and the seat of its holder: `leader/acting` if it
    /// stands as it was written when the term began, and `leader` if `with_leader`, which is then required to
    /// stand so too.
    #[must_use]
    pub const fn release(term: Term, with_leader: bool, own_seat: Option<SeatNumber>) -> Self {
        let unchanged = Guard::Unchanged {
            mod_revision: term.token.get(),
            lease: term.lease,
        };
        Self {
            leader: if with_leader {
                unchanged
            } else {
                Guard::Ignored
            },
            acting: unchanged,
            own_seat: match own_seat {
                Some(seat) => Some((seat, Guard::BoundTo { lease: term.lease })),
                None => None,
            },
            effect: Effect::Release,
            ..Self::READ
        }
    }

    /// Rule 21: puts a key if `leader/acting` stands as it was written when the term began.
    ///
    /// Repeating it does no harm: it puts the same value, or nothing.
    #[must_use]
    pub const fn put_in_term(term: Term) -> Self {
        Self {
            acting: Guard::Unchanged {
                mod_revision: term.token.get(),
                lease: term.lease,
            },
            effect: Effect::Put,
            ..Self::NOTHING
        }
    }

    /// Rule 21: records that the job was completed in a term. Its response shows either the record, or
    /// that the term is over without one.
    #[must_use]
    pub const fn record(term: Term) -> Self {
        Self::put_in_term(term).reading(Reads::Keys).about_job(true)
    }

    /// Asks whether the user may write the job's record, and writes nothing: no key has this revision.
    #[must_use]
    pub const fn probe() -> Self {
        Self {
            acting: Guard::Unchanged {
                mod_revision: i64::MAX,
                lease: LeaseId::new(0),
            },
            about_job: true,
            effect: Effect::Put,
            ..Self::READ
        }
    }

    /// Asks the holder of a term to step down, unless that term is over.
    ///
    /// Repeating it does no harm: a later term has another revision.
    #[must_use]
    pub const fn end_term(mod_revision: i64, lease: LeaseId) -> Self {
        Self {
            leader: Guard::Unchanged {
                mod_revision,
                lease,
            },
            effect: Effect::DeleteLeader,
            ..Self::NOTHING
        }
    }

    /// Returns true iff it may write, so that its outcome is unknown if the response is lost.
    #[must_use]
    pub const fn writes(&self) -> bool {
        !matches!(self.effect, Effect::None)
    }

    /// Returns true iff it requires that the job has no record: it lets a term begin, or records the job. A leader goes on
    /// undisturbed if somebody writes the record by hand.
    #[must_use]
    pub const fn requires_no_record(&self) -> bool {
        self.about_job && matches!(self.effect, Effect::Lead { .. } | Effect::Put)
    }

    /// Returns true iff it takes room in etcd's database, so that a full one refuses it.
    #[must_use]
    pub const fn takes_room(&self) -> bool {
        !matches!(
            self.effect,
            Effect::None | Effect::Release | Effect::DeleteLeader | Effect::Confirm
        )
    }

    /// Returns true iff it tries to get elected, by a campaign or by taking over.
    #[must_use]
    pub const fn is_campaign(&self) -> bool {
        matches!(self.effect, Effect::Lead { .. })
    }

    /// Returns the guards of the election's two keys.
    #[must_use]
    pub const fn key_guards(&self) -> [(ElectionKey, Guard); 2] {
        [
            (ElectionKey::Leader, self.leader),
            (ElectionKey::Acting, self.acting),
        ]
    }

    /// Returns the guards of seats.
    pub fn seat_guards(&self) -> impl Iterator<Item = (SeatNumber, Guard)> {
        self.other_seat.into_iter().chain(self.own_seat)
    }
}
