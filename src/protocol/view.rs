//! The two keys: as one response shows them, and as this candidate knows them.

use super::{
    Situation,
    event::Beginning,
    seat::Seats,
    term::{FencingToken, LeaseId, Term},
    timing::FailOverLimit,
};
use std::sync::Arc;

/// One of the election's two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionKey {
    /// Holds the leader's name.
    Leader,
    /// The acting marker: while it exists, its holder may be acting.
    Acting,
}

impl ElectionKey {
    /// All keys of an election.
    pub const ALL: &[Self] = &[Self::Leader, Self::Acting];
}

/// A key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value, unchecked: anyone who may write the key can choose it.
    pub value: Arc<[u8]>,
    /// The lease it is bound to, if any.
    pub lease: Option<LeaseId>,
    /// The revision that created it.
    pub create_revision: i64,
    /// The revision that last wrote it.
    pub mod_revision: i64,
    /// The settings of its term, if the key is `leader/acting`.
    pub settings: TermSettings,
}

/// The settings of a term, which `leader/acting` holds. They do not change while the term lasts. Other keys
/// hold no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TermSettings {
    /// Whether an operator has chosen its holder.
    pub is_chosen: bool,
    /// Whether its holder took over from a leader that did not respond to a challenge.
    pub was_taken_over: bool,
    /// The time within which its holder responds to a challenge; `None` if the term has no fail-over limit.
    pub fail_over: Option<FailOverLimit>,
}

impl Entry {
    fn bound_to(entry: Option<&Self>, lease: LeaseId) -> bool {
        entry.is_some_and(|entry| entry.lease == Some(lease))
    }
}

/// Both keys as the response to one transaction shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Which etcd cluster answered.
    pub cluster_id: u64,
    /// The revision as of which the keys are shown.
    pub revision: i64,
    /// The raft term in which the member answered.
    pub raft_term: u64,
    /// The key with the leader's name.
    pub leader: Option<Entry>,
    /// The acting marker.
    pub acting: Option<Entry>,
    /// `KEY/challenge`, if it exists and the transaction was about it.
    pub challenge: Option<Entry>,
    /// The record of the job that runs once, if there is one and the transaction was about the job.
    pub done: Option<Entry>,
    /// The seats and `KEY/next`, if the transaction read them.
    pub seats: Option<Arc<Seats>>,
}

/// Which of the two keys are bound to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    Both,
    LeaderAlone,
    ActingAlone,
    Neither,
}

impl Ownership {
    fn of(leader: bool, acting: bool) -> Self {
        match (leader, acting) {
            (true, true) => Self::Both,
            (true, false) => Self::LeaderAlone,
            (false, true) => Self::ActingAlone,
            (false, false) => Self::Neither,
        }
    }
}

/// What is known of both keys, each as of a revision of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub cluster_id: u64,
    leader: Option<Entry>,
    acting: Option<Entry>,
    /// The challenge, as the last response showed it.
    challenge: Option<Entry>,
    /// Whether the last response showed the challenge, or that there is none.
    pub shows_challenge: bool,
    leader_as_of: i64,
    acting_as_of: i64,
}

impl Known {
    pub fn from_view(view: View) -> Self {
        Self {
            cluster_id: view.cluster_id,
            challenge: view.challenge,
            shows_challenge: false,
            leader: view.leader,
            acting: view.acting,
            leader_as_of: view.revision,
            acting_as_of: view.revision,
        }
    }

    /// The highest revision seen in this history.
    pub fn revision(&self) -> i64 {
        self.leader_as_of.max(self.acting_as_of)
    }

    /// Applies an event; returns false if it is not news: the watches of the two keys deliver one
    /// revision's events in any order, and repeat what a response has shown already.
    pub fn apply(&mut self, key: ElectionKey, revision: i64, entry: Option<Entry>) -> bool {
        let (known, as_of) = match key {
            ElectionKey::Leader => (&mut self.leader, &mut self.leader_as_of),
            ElectionKey::Acting => (&mut self.acting, &mut self.acting_as_of),
        };
        if revision <= *as_of {
            return false;
        }
        *known = entry;
        *as_of = revision;
        true
    }

    /// Returns the revision as of which `leader` is known.
    pub fn leader_as_of(&self) -> i64 {
        self.leader_as_of
    }

    pub fn leader(&self) -> Option<&Entry> {
        self.leader.as_ref()
    }

    pub fn acting(&self) -> Option<&Entry> {
        self.acting.as_ref()
    }

    /// Returns the challenge that the last response showed.
    pub fn challenge(&self) -> Option<&Entry> {
        self.challenge.as_ref()
    }

    /// Returns `leader/acting` and its limit if its term may be taken over once its holder has not responded to
    /// a challenge for long enough: the keys are this term's, or `leader` is absent.
    pub fn may_be_taken_over(&self) -> Option<(&Entry, FailOverLimit)> {
        let acting = self.acting.as_ref()?;
        let limit = acting.settings.fail_over?;
        let mut leader = self.leader.iter();
        let is_own = leader.all(|leader| leader.lease == acting.lease);
        (acting.lease.is_some() && is_own).then_some((acting, limit))
    }

    pub fn situation(&self) -> Situation {
        Situation::of(self.leader.as_ref(), self.acting.as_ref())
    }

    /// Returns `leader/acting` if it is certain to have stood while nobody led: what is known of
    /// `leader` is no older than the revision that wrote it. It may be gone by now.
    pub fn acting_alone(&self) -> Option<&Entry> {
        let acting = self.acting.as_ref()?;
        let is_certain = self.leader_as_of >= acting.mod_revision;
        (is_certain && !self.situation().is_led()).then_some(acting)
    }

    pub fn both_absent(&self) -> bool {
        self.leader.is_none() && self.acting.is_none()
    }

    /// A key is a candidate's own when it is bound to its present lease, never by its value: a
    /// restart under the same name is another candidate.
    pub fn ownership(&self, lease: LeaseId) -> Ownership {
        Ownership::of(
            Entry::bound_to(self.leader.as_ref(), lease),
            Entry::bound_to(self.acting.as_ref(), lease),
        )
    }

    /// Which keys still stand as they were written when the term began: what was written again since, with
    /// the term's own lease even, was taken from it.
    pub fn ownership_in(&self, term: Term) -> Ownership {
        let stands = |entry: Option<&Entry>| {
            Entry::bound_to(entry, term.lease)
                && entry.is_some_and(|entry| entry.mod_revision == term.token.get())
        };
        Ownership::of(stands(self.leader.as_ref()), stands(self.acting.as_ref()))
    }

    /// The token of a term by this lease: both keys are bound to it, by one campaign.
    pub fn token(&self, lease: LeaseId) -> Option<FencingToken> {
        let token = FencingToken::new(self.leader.as_ref()?.mod_revision);
        let term = Term { token, lease };
        (self.ownership_in(term) == Ownership::Both).then_some(token)
    }

    /// Returns true iff `leader/acting` says that an operator has chosen its holder.
    pub fn is_chosen(&self) -> bool {
        let acting = self.acting.as_ref();
        acting.is_some_and(|acting| acting.settings.is_chosen)
    }

    /// Returns how the holder of `leader/acting` came to lead. After a hand-over, the key existed before it was
    /// written, whereas a campaign requires that it does not.
    pub fn beginning(&self) -> Beginning {
        match &self.acting {
            Some(acting) if acting.settings.was_taken_over => Beginning::TakeOver,
            Some(acting) if acting.create_revision < acting.mod_revision => Beginning::HandOver,
            _ => Beginning::Campaign,
        }
    }

    /// Returns true iff `leader/acting` stands as it was written when the term began.
    pub fn acts_in(&self, term: Term) -> bool {
        matches!(
            self.ownership_in(term),
            Ownership::Both | Ownership::ActingAlone
        )
    }

    /// Returns the token of the term whose `leader/acting` is bound to this lease.
    pub fn acting_token(&self, lease: LeaseId) -> Option<FencingToken> {
        let acting = self.acting.as_ref()?;
        let is_own = acting.lease == Some(lease);
        is_own.then(|| FencingToken::new(acting.mod_revision))
    }

    /// The key that no lease will ever remove, if there is one.
    pub fn without_lease(&self) -> Option<(ElectionKey, &Entry)> {
        [
            (ElectionKey::Leader, self.leader.as_ref()),
            (ElectionKey::Acting, self.acting.as_ref()),
        ]
        .into_iter()
        .find_map(|(key, entry)| Some((key, entry.filter(|entry| entry.lease.is_none())?)))
    }
}
