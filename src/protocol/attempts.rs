//! Rule 14, the connection attempts: at most one at a time for each endpoint. If one is slow,
//! another endpoint is tried at the same time.

use super::{CallId, Failure, FailureKind, Moment, rotation::Rotation};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Attempt {
    id: CallId,
    endpoint: usize,
    started: Moment,
    /// When the next endpoint is tried beside it.
    patient_until: Moment,
    /// Whether that has happened, so that its failure was counted.
    is_passed_over: bool,
}

/// The connection attempts under way.
#[derive(Debug, Default)]
pub(super) struct Attempts(Vec<Attempt>);

impl Attempts {
    /// Begins an attempt.
    pub fn start(&mut self, id: CallId, endpoint: usize, now: Moment, patience: Duration) {
        self.0.push(Attempt {
            id,
            endpoint,
            started: now,
            patient_until: now + patience,
            is_passed_over: false,
        });
    }

    /// Ends an attempt; returns its endpoint and whether it was passed over.
    pub fn finish(&mut self, id: CallId) -> Option<(usize, bool)> {
        let place = self.0.iter().position(|attempt| attempt.id == id)?;
        let attempt = self.0.swap_remove(place);
        Some((attempt.endpoint, attempt.is_passed_over))
    }

    /// Forgets all attempts.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the endpoints that are being connected to.
    pub fn endpoints(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|attempt| attempt.endpoint)
    }

    /// Returns true iff there is an endpoint to try, and every attempt under way is slow.
    pub fn may_start(&self, rotation: &Rotation) -> bool {
        let all_slow = self.0.iter().all(|attempt| attempt.is_passed_over);
        all_slow && self.free_endpoint(rotation).is_some()
    }

    /// Returns the next endpoint that is not being connected to.
    pub fn free_endpoint(&self, rotation: &Rotation) -> Option<usize> {
        let is_free = |endpoint: &usize| self.endpoints().all(|other| other != *endpoint);
        rotation.upcoming().find(is_free)
    }

    /// Returns when another endpoint is tried beside an attempt; `None` if each endpoint has an
    /// attempt.
    pub fn patient_until(&self, rotation: &Rotation) -> Option<Moment> {
        if rotation.endpoints() == self.0.len() {
            return None;
        }
        let attempt = self.0.iter().find(|attempt| !attempt.is_passed_over);
        attempt.map(|attempt| attempt.patient_until)
    }

    /// Passes over an attempt beside which another endpoint is to be tried; returns its endpoint and
    /// its failure.
    pub fn pass_over(&mut self, now: Moment, rotation: &Rotation) -> Option<(usize, Failure)> {
        let until = self.patient_until(rotation)?;
        let attempt = self.0.iter_mut().find(|attempt| !attempt.is_passed_over)?;
        if now < until {
            return None;
        }
        attempt.is_passed_over = true;
        let limit = attempt.patient_until.since(attempt.started).as_millis();
        let message = format!("no connection within {limit} ms");
        let failure = Failure::new(FailureKind::TimedOut, message);
        Some((attempt.endpoint, failure))
    }
}
