//! Rule 18, a `leader/acting` without a leader: it is reported soon, but only if it lasts.
//!
//! The events of one revision arrive one by one. So after a crash, a follower may see the deletion of
//! `leader` before it sees that of `leader/acting`. Besides, a leader that stops gracefully takes a
//! moment. So a follower waits, and then reads both keys at once. It does not wait for its next
//! regular try, which may be many minutes away.

use super::{Machine, Moment, State};

/// One `leader/acting` that stands while nobody leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActingAlone {
    /// The revision that wrote it.
    mod_revision: i64,
    /// A try that is sent from then on shows whether this lasts.
    lasts_from: Moment,
}

impl ActingAlone {
    /// Returns when the next try is to be sent after one that was sent at `sent`, if that is sooner
    /// than `next`.
    pub fn next_try(self, sent: Moment, next: Moment) -> Moment {
        if sent < self.lasts_from {
            next.min(self.lasts_from)
        } else {
            next
        }
    }
}

impl Machine {
    /// Takes in which `leader/acting` of somebody else stands alone, if one does. `sent` is when the
    /// try was sent whose response shows that, if it is not an event.
    pub(super) fn judge_acting_alone(
        &mut self,
        now: Moment,
        sent: Option<Moment>,
        mod_revision: Option<i64>,
    ) {
        let lasts_from = now + self.timing().settling();
        let State::Follower { acting_alone, .. } = &mut self.state else {
            return;
        };
        let before = acting_alone.filter(|before| Some(before.mod_revision) == mod_revision);
        let found = mod_revision.map(|mod_revision| ActingAlone {
            mod_revision,
            lasts_from,
        });
        *acting_alone = before.or(found);
        let Some(alone) = *acting_alone else { return };
        match sent {
            Some(sent) if sent >= alone.lasts_from => {
                self.events.extend(self.reporter.somebody_still_acts());
            }
            None if now < alone.lasts_from => self.calls.next_by(alone.lasts_from),
            // The next try after a response is a matter of `next_try`.
            _ => {}
        }
    }
}
