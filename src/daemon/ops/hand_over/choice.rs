//! Finds the candidate that an operator has chosen to lead next.

use crate::{
    config::LeaderKey,
    daemon::render::{address_clause, candidate_name},
    observer::Leader,
    printable::Printable,
    protocol::{LeaseId, Seat, SeatNumber, Seats},
    record::SeatRecord,
};
use anyhow::bail;
use std::{ffi::OsString, fmt, os::unix::ffi::OsStringExt};

/// What an operator gave to choose a candidate.
pub(in crate::daemon::ops) enum Choice {
    /// Its name, which need not be UTF-8.
    Name(Vec<u8>),
    /// Its seat.
    Seat(SeatNumber),
}

impl Choice {
    /// Returns what was given; `None` if nothing was.
    pub fn new(name: Option<OsString>, seat: Option<SeatNumber>) -> Option<Self> {
        let name = name.map(|name| Self::Name(name.into_vec()));
        name.or(seat.map(Self::Seat))
    }
}

/// A candidate, as its seat describes it.
pub(super) struct Listed<'a> {
    pub seat: &'a Seat,
    pub lease: LeaseId,
    pub record: SeatRecord,
}

impl<'a> Listed<'a> {
    fn new(seat: &'a Seat) -> Option<Self> {
        Some(Self {
            seat,
            lease: seat.entry.lease?,
            record: SeatRecord::decode(&seat.entry.value),
        })
    }
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = candidate_name(self.record.name.as_deref());
        write!(f, "{name} in seat {}", self.seat.number)
    }
}

/// Returns the chosen candidate.
///
/// # Errors
/// If there is no such candidate, there are several, or it leads already.
pub(super) fn find<'a>(
    choice: &Choice,
    seats: &'a Seats,
    leader: &Leader,
    leader_key: &LeaderKey,
) -> anyhow::Result<Listed<'a>> {
    let all = seats.in_order();
    let all: Vec<_> = all.into_iter().filter_map(Listed::new).collect();
    let leader_has_seat = all.iter().any(|it| it.lease == leader.lease);
    // A leader without a seat is a candidate with its name as well.
    let is_leader_too =
        !leader_has_seat && matches!(choice, Choice::Name(name) if **name == *leader.name);
    if all.is_empty() && !is_leader_too {
        let key = Printable(leader_key.as_str().as_bytes());
        bail!(
            "no candidate is listed below '{key}/candidates/'; nothing was done; check whether the \
             replicas run an older version, or have an etcd role that may not write there"
        );
    }
    let list = list(&all, leader, |it| it.to_string());
    let mut chosen = all;
    chosen.retain(|it| is_chosen(choice, it, seats));
    if chosen.len() + usize::from(is_leader_too) > 1 {
        bail!("{}", ambiguous(&chosen, is_leader_too, leader));
    }
    match chosen.pop() {
        Some(it) if it.lease != leader.lease => Ok(it),
        None if !is_leader_too => {
            let nobody = match choice {
                Choice::Name(name) => format!("there is no candidate '{}'", Printable(name)),
                Choice::Seat(number) => format!("no candidate has seat {number}"),
            };
            let full = if seats.taken.len() < SeatNumber::COUNT {
                ""
            } else {
                "all seats are taken, and "
            };
            bail!(
                "{nobody}; nothing was done; the candidates are {list}; {full}a candidate without a seat \
                 is not listed and cannot be chosen"
            );
        }
        _ => bail!(
            "'{}' leads already; nothing was done",
            Printable(&leader.name)
        ),
    }
}

fn is_chosen(choice: &Choice, candidate: &Listed<'_>, seats: &Seats) -> bool {
    match choice {
        Choice::Name(name) => {
            let its_name = candidate.record.name.as_deref();
            its_name.is_some_and(|its_name| its_name.as_bytes() == name)
        }
        // A candidate may have taken two seats by a late request, and is listed with one of them.
        Choice::Seat(number) => (seats.taken.iter())
            .any(|seat| seat.number == *number && seat.entry.lease == Some(candidate.lease)),
    }
}

/// Returns a message that says why a name does not suffice.
fn ambiguous(chosen: &[Listed<'_>], is_leader_too: bool, leader: &Leader) -> String {
    let without_seat = if is_leader_too {
        "the leader, which has no seat, "
    } else {
        ""
    };
    let name = chosen.iter().find_map(|it| it.record.name.as_deref());
    let name = Printable(name.unwrap_or_default().as_bytes());
    let list = list(chosen, leader, seat_and_address);
    format!(
        "more than one candidate has the name '{name}': {without_seat}{list}; nothing was done; choose \
         one with --to-seat"
    )
}

/// Returns how a candidate differs from another one of the same name.
fn seat_and_address(candidate: &Listed<'_>) -> String {
    let address = address_clause(candidate.record.address.as_deref());
    format!("seat {}{address}", candidate.seat.number)
}

/// Returns the candidates as a part of a sentence.
fn list(candidates: &[Listed<'_>], leader: &Leader, describe: fn(&Listed<'_>) -> String) -> String {
    let entries: Vec<_> = (candidates.iter())
        .map(|it| {
            let remark = if it.lease == leader.lease {
                " (leads)"
            } else if it.record.healthy == Some(false) {
                " (unhealthy)"
            } else {
                ""
            };
            format!("{}{remark}", describe(it))
        })
        .collect();
    entries.join(", ")
}
