//! The listed candidates of an election, in the order in which they would follow the leader.

use crate::{
    observer::Leader,
    protocol::{
        Entry, FailOverLimit, FencingToken, LeaseId, Seat, SeatNumber, Seats, Status, View,
    },
    record::SeatRecord,
};
use std::time::SystemTime;

/// The candidates that have a seat: the leader first, then the others in the order in which they would follow the
/// leader.
///
/// A candidate of an earlier version has no seat. Neither has one whose etcd role may not write a seat. These
/// candidates take part without being listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidates {
    /// The candidates, each once.
    pub listed: Vec<ListedCandidate>,
    /// Whether all seats are taken, so that further candidates take part without being listed.
    pub is_full: bool,
}

/// A candidate as its seat describes it. A field that the seat lacks, or that cannot be read, is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedCandidate {
    /// Its seat.
    pub seat: SeatNumber,
    /// Its lease. It distinguishes the candidate from all others, even from one with the same name.
    pub lease: LeaseId,
    /// Its name. This text and the others can be anything, because anyone who may write the seat can choose them.
    pub name: Option<String>,
    /// How to reach it while it leads.
    pub address: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
    /// When it began to take part, by its own wall clock.
    pub since: Option<SystemTime>,
    /// Its priority; 0 if the seat lacks it.
    pub priority: i32,
    /// Whether it is healthy, if it reports that. An unhealthy candidate does not campaign, and no term is handed to
    /// it.
    pub healthy: Option<bool>,
    /// Why it is unhealthy, such as the text that was passed to
    /// [`Candidate::stand_back`](crate::Candidate::stand_back).
    pub reason: Option<String>,
    /// Whether it leads.
    pub leads: bool,
    /// The time within which it responds to a challenge when it leads; `None` if it does not respond to challenges.
    pub fail_over: Option<FailOverLimit>,
}

impl Candidates {
    /// Returns the candidates as the candidate with this status last read them; `None` if it has not read them, or may
    /// not read them.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let seats = status.seats.as_deref()?;
        Some(Self::new(
            seats,
            status.leader.as_ref(),
            status.acting.as_ref(),
        ))
    }

    /// Returns the candidates that a response shows; `None` if the request did not ask for them.
    pub(crate) fn shown_in(view: &View) -> Option<Self> {
        let seats = view.seats.as_ref()?;
        Some(Self::new(seats, view.leader.as_ref(), view.acting.as_ref()))
    }

    /// Lists the candidates; the other arguments are the election's two keys.
    fn new(seats: &Seats, leader: Option<&Entry>, acting: Option<&Entry>) -> Self {
        let leading = Leader::of(leader, acting).map(|leader| leader.lease);
        // The term goes on in `leader/acting` after `leader` was deleted.
        let term = acting.or(leader);
        let chosen = term.and_then(|term| seats.chosen_for(FencingToken::new(term.mod_revision)));
        let ending = acting.and_then(|acting| acting.lease);
        let rank = |seat: &&Seat| match seat.entry.lease {
            lease if lease == leading => Rank::Leads,
            // A term is not handed to a candidate without a name, chosen or not.
            _ if !seat.has_name => Rank::WithoutName,
            _ if !seat.is_healthy => Rank::StandsBack,
            lease if lease == chosen => Rank::Chosen,
            lease if lease == ending => Rank::Stops,
            _ => Rank::Waits,
        };
        let mut in_order = seats.in_order();
        // The sort is stable.
        in_order.sort_by_key(rank);
        let listed = in_order.into_iter().filter_map(|seat| {
            let leads = seat.entry.lease == leading;
            ListedCandidate::of(seat, leads)
        });
        Self {
            listed: listed.collect(),
            is_full: seats.taken.len() == SeatNumber::COUNT,
        }
    }
}

/// The rank of a candidate in the list. Candidates with the same rank are ordered by priority, then by the age of their
/// seats.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Leads,
    /// An operator has chosen it to follow.
    Chosen,
    Waits,
    /// It no longer leads, and lets others go first.
    Stops,
    /// It cannot lead, as it says.
    StandsBack,
    WithoutName,
}

impl ListedCandidate {
    /// Returns whether the candidate says that it is not healthy.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        self.healthy == Some(false)
    }

    /// Returns the candidate in a seat; `None` if that is bound to no lease.
    fn of(seat: &Seat, leads: bool) -> Option<Self> {
        let SeatRecord {
            name,
            address,
            version,
            since,
            priority,
            healthy,
            reason,
            fail_over,
            ..
        } = SeatRecord::decode(&seat.entry.value);
        Some(Self {
            seat: seat.number,
            lease: seat.entry.lease?,
            name,
            address,
            version,
            since,
            priority,
            healthy,
            reason,
            leads,
            fail_over,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Next;

    const TERM: i64 = 50;

    fn entry(lease: i64, mod_revision: i64, value: &str) -> Entry {
        Entry {
            value: value.as_bytes().into(),
            lease: (lease != 0).then(|| LeaseId::new(lease)),
            create_revision: mod_revision,
            settings: crate::protocol::TermSettings::default(),
            mod_revision,
        }
    }

    /// A seat whose number is its place in the list of these.
    fn seats(seats: &[(i64, i64, &str)]) -> Seats {
        let seats = SeatNumber::all().zip(seats);
        let taken = seats.map(|(number, (lease, create_revision, value))| Seat {
            number,
            entry: entry(*lease, *create_revision, value),
            has_name: SeatRecord::decode(value.as_bytes()).name.is_some(),
            is_healthy: SeatRecord::decode(value.as_bytes()).healthy != Some(false),
            priority: SeatRecord::decode(value.as_bytes()).priority,
            acts: None,
        });
        Seats {
            taken: taken.collect(),
            next: None,
        }
    }

    fn leases(candidates: &Candidates) -> Vec<i64> {
        let listed = candidates.listed.iter();
        listed.map(|candidate| candidate.lease.get()).collect()
    }

    #[test]
    fn the_leader_comes_first_then_the_chosen_one_then_the_oldest_seats() {
        let named = r#"{"name":"a"}"#;
        let mut seats = seats(&[
            (1, 40, named),
            (2, 10, "\u{1b}"),
            (3, 30, named),
            (4, 20, named),
            (5, 35, named),
            // Bound to no lease, and the second seat of one candidate.
            (0, 1, named),
            (4, 45, named),
        ]);
        let term = entry(3, TERM, "a");
        let led = |seats: &Seats| Candidates::new(seats, Some(&term), Some(&term));
        let candidates = led(&seats);
        assert_eq!(leases(&candidates), [3, 4, 5, 1, 2]);
        let leads: Vec<_> = candidates.listed.iter().map(|it| it.leads).collect();
        assert_eq!(leads, [true, false, false, false, false]);
        assert!(!candidates.is_full);
        let next = |lease, ends| Next {
            entry: entry(lease, 60, ""),
            ends: Some(FencingToken::new(ends)),
        };
        seats.next = Some(next(1, TERM));
        assert_eq!(leases(&led(&seats)), [3, 1, 4, 5, 2]);
        // The term ends: its holder lets the chosen one and the others go first.
        let ending = Candidates::new(&seats, None, Some(&term));
        assert_eq!(leases(&ending), [1, 4, 5, 3, 2]);
        assert!(ending.listed.iter().all(|candidate| !candidate.leads));
        // Of another term, and a candidate to which no term can be handed.
        for next in [next(1, TERM - 1), next(2, TERM)] {
            seats.next = Some(next);
            assert_eq!(leases(&led(&seats)), [3, 4, 5, 1, 2]);
        }
        assert_eq!(
            leases(&Candidates::new(&seats, None, None)),
            [4, 3, 5, 1, 2]
        );
    }

    #[test]
    fn sixteen_seats_are_all_even_if_one_candidate_has_several() {
        let mut taken = vec![(1, 10, ""); SeatNumber::COUNT];
        let full = Candidates::new(&seats(&taken), None, None);
        assert!(full.is_full);
        assert_eq!(full.listed.len(), 1);
        taken.pop();
        assert!(!Candidates::new(&seats(&taken), None, None).is_full);
    }
}
