//! Rule 19, a limited wait: a candidate that is not elected within its wait withdraws.

use super::{Entry, Event, Machine, Moment, Settings, State};
use std::time::Duration;

impl Settings {
    /// How long a single try may take: long enough for a slow etcd to check a password.
    const LONGEST_SINGLE_TRY: Duration = Duration::from_secs(8);
    /// How long it may then take to give its lease back: both must not take more than 10 s.
    const LONGEST_SINGLE_RELEASE: Duration = Duration::from_millis(1500);

    /// Returns true iff the candidate tries once, and does not wait for another candidate to stop.
    pub(super) fn tries_once(self) -> bool {
        self.wait == Some(Duration::ZERO)
    }

    /// Returns when the wait of a candidate that begins to take part at `now` is over.
    pub(super) fn waits_until(self, now: Moment) -> Option<Moment> {
        let wait = self.wait?;
        let wait = if self.tries_once() {
            Self::LONGEST_SINGLE_TRY
        } else {
            wait
        };
        Some(now + wait)
    }
}

impl Machine {
    /// Begins to wait again after a term. A candidate that tries once gives up instead.
    pub(super) fn wait_again(&mut self, now: Moment) {
        self.has_led = true;
        self.waits_until = self.settings.wait.map(|wait| now + wait);
        self.expire_wait(now);
    }

    /// Returns when the wait is over; `None` while it does not count.
    pub(super) fn wait_timeout(&self) -> Option<Moment> {
        let waits = matches!(
            self.state,
            State::Unleased { .. } | State::Follower { .. } | State::Elected { .. }
        );
        self.waits_until
            .filter(|_| waits && self.withdrawing.is_none())
    }

    /// Gives up if the wait is over.
    pub(super) fn expire_wait(&mut self, now: Moment) {
        if self.wait_timeout().is_some_and(|until| now >= until) {
            self.give_up_waiting(now);
        }
    }

    /// Gives up at once if this candidate tries once, and one of the keys exists: another candidate
    /// leads or may still be acting, or somebody wrote a key by hand.
    pub(super) fn judge_wait(&mut self, now: Moment) {
        let is_taken = self
            .known
            .as_ref()
            .is_some_and(|known| !known.both_absent());
        let looks = matches!(self.state, State::Unleased { .. } | State::Follower { .. });
        if self.settings.tries_once() && is_taken && looks && self.withdrawing.is_none() {
            self.give_up_waiting(now);
        }
    }

    pub(super) fn give_up_waiting(&mut self, now: Moment) {
        let known = self.known.as_ref();
        let leader = known.filter(|known| known.situation().is_led());
        let leader = leader.and_then(|known| known.leader()).cloned();
        // The keys of its own last term may not be known to be gone.
        let is_others = |leader: &Entry| leader.lease.is_none_or(|lease| !self.is_given_up(lease));
        let leader = leader.filter(is_others);
        let has_led = self.has_led;
        self.events.push_back(Event::GaveUp { leader, has_led });
        self.withdraw(now);
    }

    /// Returns how long a withdrawal may take, if `longest` is the usual time.
    pub(super) fn limit_withdrawal(&self, longest: Duration) -> Duration {
        if self.settings.tries_once() && !self.has_led {
            longest.min(Settings::LONGEST_SINGLE_RELEASE)
        } else {
            longest
        }
    }
}
