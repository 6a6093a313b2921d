//! Says which candidates have come and gone.

use crate::{
    candidates::{Candidates, ListedCandidate},
    daemon::render::{address_clause, candidate_name, full_sentence},
};

/// Returns one sentence that says who came, left or changed its entry since the last report, which was
/// `before` if there was one. Returns `None` if nobody did: another one of them may lead, or one has taken
/// a new seat, as after its term.
pub(super) fn changes(before: Option<&Candidates>, now: &Candidates) -> Option<String> {
    let Some(before) = before else {
        return (!now.listed.is_empty()).then(|| listing(now));
    };
    // The same candidate in a list, as if it led there as it does here.
    let same_in = |list: &Candidates, of: &ListedCandidate| {
        let found = list.listed.iter().find(|it| it.lease == of.lease);
        found.map(|found| ListedCandidate {
            leads: of.leads,
            ..found.clone()
        })
    };
    let left = before.listed.iter().filter_map(|candidate| {
        let has_left = same_in(now, candidate).is_none() && !has_other_seat(candidate, before, now);
        has_left.then(|| format!("{} left", name(candidate)))
    });
    let joined = now.listed.iter().filter_map(|candidate| {
        let name = name(candidate);
        match same_in(before, candidate) {
            None if has_other_seat(candidate, now, before) => None,
            None => {
                let address = address_clause(candidate.address.as_deref());
                Some(format!("{name} joined{address}"))
            }
            Some(before) if before != *candidate => Some(format!("{name} changed its entry")),
            Some(_) => None,
        }
    });
    let changes: Vec<_> = left.chain(joined).collect();
    if changes.is_empty() {
        return None;
    }
    Some(format!("{}; {}", changes.join(", "), listing(now)))
}

/// Returns whether a candidate in `its` list has a seat in the `other` one that is not in its own: under
/// another lease, but with the same text.
fn has_other_seat(candidate: &ListedCandidate, its: &Candidates, other: &Candidates) -> bool {
    let description = |it: &ListedCandidate| {
        let ListedCandidate {
            name,
            address,
            version,
            since,
            ..
        } = it.clone();
        (name, address, version, since)
    };
    let is_new = |seat: &&ListedCandidate| its.listed.iter().all(|it| it.lease != seat.lease);
    let mut new = other.listed.iter().filter(is_new);
    new.any(|seat| description(seat) == description(candidate))
}

/// Returns a clause that names all candidates, and a sentence if others may not be listed.
pub(super) fn listing(candidates: &Candidates) -> String {
    let names: Vec<_> = candidates.listed.iter().map(name).collect();
    let listing = match names.len() {
        0 => "no candidate is listed.".to_owned(),
        1 => format!("1 candidate: {}.", names.join(", ")),
        count => format!("{count} candidates: {}.", names.join(", ")),
    };
    let full = full_sentence(candidates);
    [Some(listing), full]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

fn name(candidate: &ListedCandidate) -> String {
    candidate_name(candidate.name.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{LeaseId, SeatNumber};
    use std::time::{Duration, SystemTime};

    fn candidate(lease: i64, name: &str, since: u64) -> ListedCandidate {
        ListedCandidate {
            seat: SeatNumber::all().next().unwrap(),
            lease: LeaseId::new(lease),
            name: Some(name.to_owned()),
            address: None,
            version: None,
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(since)),
            priority: 0,
            healthy: None,
            reason: None,
            leads: false,
        }
    }

    fn list(listed: &[ListedCandidate]) -> Candidates {
        Candidates {
            listed: listed.to_vec(),
            is_full: false,
        }
    }

    #[test]
    fn a_new_seat_of_the_same_candidate_is_not_reported_and_a_restart_is() {
        let before = list(&[candidate(1, "a", 5), candidate(2, "b", 5)]);
        let reseated = list(&[candidate(2, "b", 5), candidate(3, "a", 5)]);
        assert_eq!(changes(Some(&before), &reseated), None);
        let restarted = list(&[candidate(2, "b", 5), candidate(3, "a", 6)]);
        assert_eq!(
            changes(Some(&before), &restarted).unwrap(),
            "'a' left, 'a' joined; 2 candidates: 'b', 'a'."
        );
        // Both seats may be there for a moment.
        let both = list(&[
            candidate(1, "a", 5),
            candidate(2, "b", 5),
            candidate(3, "a", 5),
        ]);
        assert!(
            changes(Some(&before), &both)
                .unwrap()
                .starts_with("'a' joined;")
        );
    }
}
