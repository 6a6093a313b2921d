//! Renders which candidates have joined or left, and which have become unhealthy or healthy again.

use super::{
    address_clause, candidate_name, full_sentence, health, shows_priorities, unhealthy_sentence,
};
use crate::candidates::{Candidates, ListedCandidate};

/// Returns one sentence that says who came, left, changed its entry, or became unhealthy or healthy since the
/// last report, which was `before` if there was one. Returns `None` if nobody did: another one of them may
/// lead, or one has taken a new seat, as after its term.
pub(in crate::daemon) fn changes(before: Option<&Candidates>, now: &Candidates) -> Option<String> {
    let Some(before) = before else {
        return (!now.listed.is_empty()).then(|| listing(now));
    };
    let left = before.listed.iter().filter_map(|candidate| {
        let has_left = same_in(now, candidate, before).is_none();
        has_left.then(|| format!("{} left", name(candidate)))
    });
    let joined = now.listed.iter().filter_map(|candidate| {
        let name = name(candidate);
        let Some(before) = same_in(before, candidate, now) else {
            let address = address_clause(candidate.address.as_deref());
            return Some(format!("{name} joined{address}"));
        };
        let change = match (before.is_unhealthy(), candidate.is_unhealthy()) {
            (false, true) => "is unhealthy",
            (true, false) => "is healthy again",
            (true, true) if before.reason != candidate.reason => "is unhealthy for another reason",
            _ if has_other_entry(before, candidate) => "changed its entry",
            _ => return None,
        };
        Some(format!("{name} {change}"))
    });
    let changes: Vec<_> = left.chain(joined).collect();
    if changes.is_empty() {
        return None;
    }
    Some(format!("{}; {}", changes.join(", "), listing(now)))
}

/// Returns a candidate of `its` list as the `other` one shows it: under the same lease, or in a seat that is not in
/// its own list, under another lease, but with the same description.
fn same_in<'a>(
    other: &'a Candidates,
    candidate: &ListedCandidate,
    its: &Candidates,
) -> Option<&'a ListedCandidate> {
    let mut same = other.listed.iter();
    if let Some(same) = same.find(|it| it.lease == candidate.lease) {
        return Some(same);
    }
    let is_new = |seat: &&ListedCandidate| its.listed.iter().all(|it| it.lease != seat.lease);
    let mut new = other.listed.iter().filter(is_new);
    new.find(|seat| description(seat) == description(candidate))
}

/// What stays the same while one candidate takes part, whatever its seat and its health.
fn description(candidate: &ListedCandidate) -> impl PartialEq {
    let ListedCandidate {
        name,
        address,
        version,
        since,
        priority,
        ..
    } = candidate.clone();
    (name, address, version, since, priority)
}

/// Returns whether a candidate has rewritten its seat.
fn has_other_entry(before: &ListedCandidate, now: &ListedCandidate) -> bool {
    let is_same_seat = before.lease == now.lease;
    let as_before = ListedCandidate {
        leads: before.leads,
        ..now.clone()
    };
    is_same_seat && as_before != *before
}

/// Returns a clause that names all candidates, and sentences if none of them can lead, and if others may not be
/// listed.
pub(in crate::daemon) fn listing(candidates: &Candidates) -> String {
    let shows_priority = shows_priorities(candidates);
    let listed = candidates.listed.iter();
    let names: Vec<_> = listed
        .map(|candidate| name(candidate) + &remarks(candidate, shows_priority))
        .collect();
    let listing = match names.len() {
        0 => "no candidate is listed.".to_owned(),
        1 => format!("1 candidate: {}.", names.join(", ")),
        count => format!("{count} candidates: {}.", names.join(", ")),
    };
    let unhealthy = unhealthy_sentence(candidates);
    [Some(listing), unhealthy, full_sentence(candidates)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

fn name(candidate: &ListedCandidate) -> String {
    candidate_name(candidate.name.as_deref())
}

/// Returns what a candidate says of its priority and its health, in brackets.
fn remarks(candidate: &ListedCandidate, shows_priority: bool) -> String {
    let priority = shows_priority.then(|| format!("priority {}", candidate.priority));
    let remarks: Vec<_> = [priority, health(candidate)]
        .into_iter()
        .flatten()
        .collect();
    if remarks.is_empty() {
        return String::new();
    }
    format!(" ({})", remarks.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{LeaseId, SeatNumber};
    use std::{
        slice::from_ref,
        time::{Duration, SystemTime},
    };

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
            fail_over: None,
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

    #[test]
    fn a_candidate_that_becomes_unhealthy_or_healthy_is_reported_even_with_a_new_seat() {
        let health = |lease, healthy, reason: Option<&str>| ListedCandidate {
            healthy,
            reason: reason.map(str::to_owned),
            ..candidate(lease, "a", 5)
        };
        let fine = health(1, None, None);
        let ill = health(1, Some(false), Some("full\u{1b}"));
        let none_can = "No listed candidate can lead: all of them are unhealthy.";
        for (before, now, expected) in [
            (
                &fine,
                &ill,
                format!(
                    "'a' is unhealthy; 1 candidate: 'a' (unhealthy: 'full\\u{{1b}}'). {none_can}"
                ),
            ),
            (
                &fine,
                &health(2, Some(false), None),
                format!("'a' is unhealthy; 1 candidate: 'a' (unhealthy). {none_can}"),
            ),
            (
                &ill,
                &health(1, Some(false), Some("slow")),
                format!(
                    "'a' is unhealthy for another reason; 1 candidate: 'a' (unhealthy: 'slow'). {none_can}"
                ),
            ),
            (
                &ill,
                &health(2, Some(true), None),
                "'a' is healthy again; 1 candidate: 'a' (healthy).".to_owned(),
            ),
            (
                &fine,
                &health(1, Some(true), None),
                "'a' changed its entry; 1 candidate: 'a' (healthy).".to_owned(),
            ),
        ] {
            let said = changes(Some(&list(from_ref(before))), &list(from_ref(now)));
            assert_eq!(said, Some(expected));
        }
        let reseated = health(2, Some(false), Some("full\u{1b}"));
        let said = changes(Some(&list(&[ill])), &list(&[reseated]));
        assert_eq!(said, None);
    }

    #[test]
    fn priorities_are_shown_if_they_differ_from_0_and_an_unhealthy_leader_leads_nevertheless() {
        let leader = ListedCandidate {
            priority: -1,
            healthy: Some(false),
            leads: true,
            ..candidate(1, "a", 5)
        };
        let other = ListedCandidate {
            healthy: Some(false),
            ..candidate(2, "b", 5)
        };
        let said = listing(&list(&[leader, other]));
        let expected = "2 candidates: 'a' (priority -1, unhealthy), 'b' (priority 0, unhealthy).";
        assert_eq!(said, expected);
        let plain = listing(&list(&[candidate(1, "a", 5)]));
        assert_eq!(plain, "1 candidate: 'a'.");
    }
}
