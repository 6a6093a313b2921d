//! The candidates' seats, and the choice of a successor among them.

use super::{Entry, FencingToken, LeaseId};
use std::{cmp::Reverse, fmt, str::FromStr};

/// The number of a seat. An election has sixteen seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatNumber(u8);

impl SeatNumber {
    /// How many seats there are.
    pub const COUNT: usize = 16;

    /// Returns all seats, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).take(Self::COUNT).map(Self)
    }
}

impl fmt::Display for SeatNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// The error of a text that names no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a seat is a number from 00 to 15")]
pub struct InvalidSeat;

impl FromStr for SeatNumber {
    type Err = InvalidSeat;

    fn from_str(text: &str) -> Result<Self, InvalidSeat> {
        let number = text.parse().map_err(|_| InvalidSeat)?;
        let is_seat =
            usize::from(number) < Self::COUNT && text.bytes().all(|byte| byte.is_ascii_digit());
        is_seat.then_some(Self(number)).ok_or(InvalidSeat)
    }
}

/// A candidate's seat, as a response shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which seat.
    pub number: SeatNumber,
    /// The key, bound to the candidate's lease. Its value is a [`SeatRecord`](crate::SeatRecord).
    pub entry: Entry,
    /// Whether its value says who the candidate is. A term is not handed to a candidate without a name.
    pub has_name: bool,
    /// Whether the candidate can lead, as far as it says. A term is not handed to one that is not healthy.
    pub is_healthy: bool,
    /// The candidate's priority, as far as it says.
    pub priority: i32,
    /// The term in which the candidate says that it leads.
    pub acts: Option<FencingToken>,
}

/// The request to hand the present term to a chosen candidate, as a response shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The key, bound to the lease of the chosen candidate.
    pub entry: Entry,
    /// The term that is to be handed over.
    pub ends: Option<FencingToken>,
}

/// The seats and `KEY/next`, as one response shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    /// The seats that are taken, in the order of their numbers.
    pub taken: Vec<Seat>,
    /// The request to hand the term to a chosen candidate, if there is one.
    pub next: Option<Next>,
}

impl Seats {
    /// Returns the candidates, each once, in the order in which they would follow the leader.
    #[must_use]
    pub fn in_order(&self) -> Vec<&Seat> {
        let mut seats: Vec<_> = self
            .taken
            .iter()
            .filter(|seat| seat.entry.lease.is_some())
            .collect();
        seats.sort_by_key(|seat| {
            (
                Reverse(seat.priority),
                seat.entry.create_revision,
                seat.number,
            )
        });
        // A late request may have taken a second one.
        let mut leases = Vec::new();
        seats.retain(|seat| {
            let is_new = !leases.contains(&seat.entry.lease);
            leases.push(seat.entry.lease);
            is_new
        });
        seats
    }

    /// Returns the lease of the candidate to which `KEY/next` asks for a term to be handed.
    #[must_use]
    pub fn chosen_for(&self, term: FencingToken) -> Option<LeaseId> {
        let next = self.next.as_ref()?;
        next.entry.lease.filter(|_| next.ends == Some(term))
    }

    /// Returns the seat of the candidate with this lease.
    #[must_use]
    pub fn of(&self, lease: LeaseId) -> Option<&Seat> {
        let own = self.taken.iter();
        own.filter(|seat| seat.entry.lease == Some(lease))
            .min_by_key(|seat| (seat.entry.create_revision, seat.number))
    }
}
