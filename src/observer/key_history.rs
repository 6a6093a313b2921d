//! Builds the history of the two keys from the events of two watches, without I/O.

use super::ElectionState;
use crate::{
    etcd::Change,
    protocol::{ElectionKey, Entry, View},
};
use std::collections::BTreeMap;

/// One key: how it stands, and up to which revision nothing more can come of it.
#[derive(Clone, Debug)]
struct Side {
    entry: Option<Entry>,
    as_of: i64,
}

/// What one revision did to a key.
#[derive(Debug, Default)]
enum Step {
    /// Nothing that was delivered.
    #[default]
    Unknown,
    Put(Entry),
    Deleted,
}

/// What one revision did to both keys.
#[derive(Debug, Default)]
struct Steps {
    leader: Step,
    acting: Step,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextReport {
    /// Report this.
    Report(Box<ElectionState>),
    /// Read this key as it was at this revision, for [`KeyHistory::settle`].
    Read { key: ElectionKey, revision: i64 },
    /// Wait for what the watches deliver: there is more to come.
    Wait,
    /// Nothing: all is reported.
    Rest,
}

/// How a read compares with what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// Nothing has changed.
    Same,
    /// Something has changed that the watches have not delivered yet.
    Ahead,
    /// etcd went back in its history, or is another etcd.
    WentBack,
}

/// The history of the two keys.
///
/// A transaction that changes both shows in two events, which come in any order, and other changes
/// of one key may come between them. An event is reported once it is certain how the *other* key
/// stood at its revision: by that key's own event of the same revision, or by reading how it stood
/// then.
#[derive(Debug)]
pub(super) struct KeyHistory {
    cluster_id: u64,
    leader: Side,
    acting: Side,
    pending: BTreeMap<i64, Steps>,
    /// How a key stood at a revision, by the revision that had written it.
    settled: Option<(ElectionKey, i64, Option<i64>)>,
}

impl KeyHistory {
    /// Begins with how things stand.
    pub fn new(view: View) -> Self {
        let side = |entry| Side {
            entry,
            as_of: view.revision,
        };
        Self {
            cluster_id: view.cluster_id,
            leader: side(view.leader),
            acting: side(view.acting),
            pending: BTreeMap::new(),
            settled: None,
        }
    }

    /// Returns the last revision up to which everything was reported.
    pub fn reported_up_to(&self) -> i64 {
        self.leader.as_of.min(self.acting.as_of)
    }

    /// Forgets what was delivered and not reported yet: a new watch delivers it again.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
        self.settled = None;
    }

    /// Compares a read with what is known.
    pub fn compare(&mut self, view: &View) -> Comparison {
        let highest = self.leader.as_of.max(self.acting.as_of);
        if view.cluster_id != self.cluster_id || view.revision < highest {
            return Comparison::WentBack;
        }
        let mut comparison = Comparison::Same;
        for (side, seen) in [
            (&mut self.leader, &view.leader),
            (&mut self.acting, &view.acting),
        ] {
            match (&side.entry, seen) {
                // A key that stands as it was written has not been touched since. One that is not
                // there may have come and gone.
                (Some(known), Some(seen)) if known.mod_revision == seen.mod_revision => {
                    side.as_of = view.revision;
                }
                (None, None) => {}
                _ => comparison = Comparison::Ahead,
            }
        }
        comparison
    }

    /// Whether the watches have delivered all that a read showed.
    pub fn has_reached(&self, view: &View) -> bool {
        [(&self.leader, &view.leader), (&self.acting, &view.acting)]
            .into_iter()
            .all(|(side, seen)| match (&side.entry, seen) {
                (_, Some(seen)) => side.as_of >= seen.mod_revision,
                (Some(known), None) => known.mod_revision > view.revision,
                (None, None) => true,
            })
    }

    /// Takes in an event; one that is not newer than what is known of its key is dropped.
    pub fn take(&mut self, change: Change) {
        if change.revision <= self.side(change.key).as_of {
            return;
        }
        let steps = self.pending.entry(change.revision).or_default();
        let step = match change.key {
            ElectionKey::Leader => &mut steps.leader,
            ElectionKey::Acting => &mut steps.acting,
        };
        *step = change.entry.map_or(Step::Deleted, Step::Put);
    }

    /// Takes in how a key stood at a revision.
    pub fn settle(&mut self, key: ElectionKey, revision: i64, entry: Option<&Entry>) {
        self.settled = Some((key, revision, entry.map(|entry| entry.mod_revision)));
    }

    /// Says what is to be done next.
    pub fn next(&mut self) -> NextReport {
        let Some((&revision, steps)) = self.pending.first_key_value() else {
            return NextReport::Rest;
        };
        let other = match (&steps.leader, &steps.acting) {
            (Step::Unknown, _) => Some((ElectionKey::Leader, &self.leader)),
            (_, Step::Unknown) => Some((ElectionKey::Acting, &self.acting)),
            _ => None,
        };
        if let Some((key, side)) = other
            && side.as_of < revision
        {
            let known = side.entry.as_ref().map(|entry| entry.mod_revision);
            match self.settled {
                // Its own event is still to come.
                Some((settled, at, stood))
                    if (settled, at) == (key, revision) && stood != known =>
                {
                    return NextReport::Wait;
                }
                Some((settled, at, _)) if (settled, at) == (key, revision) => {}
                _ => return NextReport::Read { key, revision },
            }
        }
        let steps = self.pending.remove(&revision).unwrap_or_default();
        for (side, step) in [
            (&mut self.leader, steps.leader),
            (&mut self.acting, steps.acting),
        ] {
            side.entry = match step {
                Step::Unknown => continue,
                Step::Put(entry) => Some(entry),
                Step::Deleted => None,
            };
            side.as_of = revision;
        }
        NextReport::Report(Box::new(self.state(revision)))
    }

    fn state(&self, revision: i64) -> ElectionState {
        let (leader, acting) = (self.leader.entry.as_ref(), self.acting.entry.as_ref());
        ElectionState::new(revision, leader, acting)
    }

    fn side(&self, key: ElectionKey) -> &Side {
        match key {
            ElectionKey::Leader => &self.leader,
            ElectionKey::Acting => &self.acting,
        }
    }
}
