//! Decides what follows from a failure: whether to ask the same endpoint again or the next one,
//! what to report, and how long to wait.

use super::{Action, CallId, Event, Failure, FailureKind, Machine, Moment, State, calls::CallKind};
use std::time::Duration;

impl Machine {
    /// Ends a call that failed, or was answered from two raft terms (then there is no failure to
    /// report).
    pub(super) fn fail_call(&mut self, now: Moment, id: CallId, failure: Option<Failure>) {
        if self.calls.finish_overdue(id).is_some() {
            // Another connection is being opened already, or has been.
            return;
        }
        self.fail_connection(now, failure);
    }

    /// Rule 15: drops the connection because of a failure, and asks the same endpoint or the next one.
    pub(super) fn fail_connection(&mut self, now: Moment, failure: Option<Failure>) {
        let endpoint = self.calls.endpoint();
        let kind = failure.as_ref().map(|failure| failure.kind);
        // A call that hung before it failed has used the time for a second try of its endpoint.
        let is_prompt = self.calls.is_prompt(now, self.timing().limit() / 4);
        let period = self.timing().limit();
        let is_silent = match kind {
            // A new connection brings a new token.
            Some(FailureKind::TokenExpired) => self.calls.try_silent_reconnect(now, period, true),
            // A load balancer closes what was idle, and etcd restarts: the endpoint is asked once
            // more before that is worth a report.
            Some(FailureKind::Unreachable) if self.calls.has_answered() => {
                let is_silent = self.calls.try_silent_reconnect(now, period, false);
                if is_silent {
                    // The next watch ends with the next connection; if that is soon, a try at once
                    // would find a failure that is reported.
                    self.watch_replaced_until = Some(now + period);
                }
                is_silent
            }
            _ => false,
        };
        self.disconnect(now);
        if is_silent {
            if is_prompt {
                self.calls.rotation.turn_to(endpoint);
            } else {
                self.calls.rotation.turn_from(endpoint);
            }
            return self.calls.next_now();
        }
        self.fail_endpoint(now, endpoint, failure);
    }

    /// Rules 13 and 14: lets another connection be opened beside a try that is overdue, because
    /// the one that it was sent on may be dead, and beside an attempt that is slow; or gives up a
    /// request for a lease.
    pub(super) fn expire_calls(&mut self, now: Moment) {
        self.calls.drop_older_than(now - self.timing().ttl());
        if let Some((kind, failure)) = self.calls.overdue_call(now) {
            let endpoint = self.calls.endpoint();
            match kind {
                CallKind::Grant { .. } | CallKind::Look { .. } => {
                    self.fail_connection(now, Some(failure));
                }
                CallKind::Try { .. } if self.calls.has_answered() => {
                    // One late response is worth no report.
                    self.calls.pass_over_try();
                    self.calls.rotation.turn_from(endpoint);
                    self.calls.next_now();
                }
                CallKind::Try { .. } => {
                    self.calls.pass_over_try();
                    self.fail_endpoint(now, endpoint, Some(failure));
                }
            }
        }
        while self.need().is_some()
            && let Some((endpoint, failure)) = self.calls.pass_over_attempt(now)
        {
            self.fail_endpoint(now, endpoint, Some(failure));
        }
    }

    /// Rules 5 and 17: turns to the next endpoint; once each has failed, reports that and waits.
    pub(super) fn fail_endpoint(&mut self, now: Moment, endpoint: usize, failure: Option<Failure>) {
        if let Some(failure) = failure.clone() {
            self.events.push_back(Event::Failed { endpoint, failure });
        }
        if !self.calls.record_failure(endpoint, failure) {
            return;
        }
        if self.withdrawing.is_none()
            && let Some((endpoint, failure)) = self.calls.rotation.take_report()
        {
            self.events
                .push_back(Event::Unanswered { endpoint, failure });
        }
        match self.state {
            State::Elected { .. } | State::Leader(_) | State::Stopping { .. } => {
                let next = self.calls.round_started() + self.timing().limit();
                self.calls.next_at(next.max(now));
            }
            State::Unleased { .. } | State::Follower { .. } | State::Withdrawn => {
                let longest = self.timing().longest_back_off();
                self.back_off(self.calls.rotation.back_off_limit(longest));
            }
        }
    }

    pub(super) fn disconnect(&mut self, now: Moment) {
        if let Some(lease) = self.calls.granting() {
            self.give_up_unknown(now, lease);
        }
        self.actions.push_back(Action::Disconnect);
        self.calls.disconnected();
        self.watch = None;
        self.interrupt_releases(now);
        self.interrupt_seat(now);
        self.interrupt_polling();
    }

    pub(super) fn back_off(&mut self, at_most: Duration) {
        let call = self.calls.back_off();
        self.actions.push_back(Action::BackOff { call, at_most });
    }
}
