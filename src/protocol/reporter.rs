//! What was last reported of the election, so that nothing is reported twice.

use super::{ElectionKey, Entry, Event, version::is_outdated};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Campaigning,
    /// The `mod_revision` of the key that is followed.
    Following(i64),
    LeaderGone,
    SomebodyStillActs,
}

/// Turns what a candidate sees into events, each only when it is news.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    last: Option<Report>,
    has_campaigned: bool,
    /// The `mod_revision` of the key without a lease that was reported last.
    without_lease: Option<i64>,
    knows_version: bool,
    has_reported_authentication_off: bool,
}

impl Reporter {
    /// Forgets the last report: what comes next is news.
    pub fn reset(&mut self) {
        self.last = None;
    }

    /// Reports a campaign.
    pub fn campaigning(&mut self) -> Option<Event> {
        self.replace_last(Report::Campaigning)?;
        let again = std::mem::replace(&mut self.has_campaigned, true);
        Some(Event::Campaigning { again })
    }

    /// Reports that somebody else leads; and that the leader before is gone, if its key has not been seen
    /// to be absent, because it has handed its term over.
    pub fn following(&mut self, leader: &Entry) -> impl Iterator<Item = Event> + use<> {
        let before = self.last;
        let is_news = self.replace_last(Report::Following(leader.mod_revision));
        let was_handed_over = matches!(before, Some(Report::Following(_))) && is_news.is_some();
        let gone = was_handed_over.then_some(Event::LeaderGone);
        let leader = leader.clone();
        let following = is_news.map(|()| Event::Following { leader });
        gone.into_iter().chain(following)
    }

    /// Reports that the leader that was followed is gone.
    pub fn leader_gone(&mut self) -> Option<Event> {
        if !matches!(self.last, Some(Report::Following(_))) {
            return None;
        }
        self.replace_last(Report::LeaderGone)?;
        Some(Event::LeaderGone)
    }

    /// Reports that nobody leads and somebody may still be acting.
    pub fn somebody_still_acts(&mut self) -> Option<Event> {
        self.replace_last(Report::SomebodyStillActs)?;
        Some(Event::SomebodyStillActs)
    }

    /// Reports a key that no lease will ever remove.
    pub fn key_without_lease(&mut self, key: ElectionKey, entry: &Entry) -> Option<Event> {
        let before = self.without_lease.replace(entry.mod_revision);
        (before != Some(entry.mod_revision)).then_some(Event::KeyWithoutLease { key })
    }

    /// Returns true iff no member has reported its version.
    pub fn needs_version(&self) -> bool {
        !self.knows_version
    }

    /// Reports an etcd that is too old for the promises on which this election relies.
    pub fn version(&mut self, version: String) -> Option<Event> {
        let is_news = !std::mem::replace(&mut self.knows_version, true);
        (is_news && is_outdated(&version)).then_some(Event::OutdatedEtcd { version })
    }

    /// Reports that a user is configured for nothing.
    pub fn authentication_off(&mut self) -> Option<Event> {
        let is_news = !std::mem::replace(&mut self.has_reported_authentication_off, true);
        is_news.then_some(Event::AuthenticationOff)
    }

    fn replace_last(&mut self, report: Report) -> Option<()> {
        (self.last.replace(report) != Some(report)).then_some(())
    }
}
