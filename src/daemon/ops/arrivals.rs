//! Says which candidates have come and gone.

use crate::{
    candidates::{Candidates, ListedCandidate},
    daemon::render::{address_clause, candidate_name, full_sentence},
};

/// Returns one sentence that says who came, left or changed its entry since the last report, which was
/// `before` if there was one. Returns `None` if nobody did: another one of them may lead.
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
        let has_left = same_in(now, candidate).is_none();
        has_left.then(|| format!("{} left", name(candidate)))
    });
    let joined = now.listed.iter().filter_map(|candidate| {
        let name = name(candidate);
        match same_in(before, candidate) {
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
