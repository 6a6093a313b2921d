//! Decides when COMMAND is asked to stop, and when it is killed.
//!
//! COMMAND is asked to stop when its deadline is near, or earlier if the daemon orders that. Some time
//! later, all processes of COMMAND that are left are killed. If COMMAND ends by itself, the processes
//! that it leaves behind are asked to stop at that moment. Each order of the daemon moves these two
//! moments, with two exceptions. If COMMAND was asked to stop because its deadline was near, no order
//! gives it more time. If COMMAND has ended by itself, only an order to stop gives its processes more
//! time: a service manager sends COMMAND and the daemon the same signal, so COMMAND may end before that
//! order arrives.

use crate::protocol::Moment;
use std::time::Duration;

/// How long the processes that COMMAND leaves behind when it ends by itself get to stop.
///
/// Another replica waits for them, and they were not meant to outlive COMMAND.
pub(super) const TIME_FOR_LEFTOVERS: Duration = Duration::from_secs(1);

/// The two moments, and whether the first one has come.
#[derive(Debug)]
pub(super) struct Schedule {
    stop_at: Moment,
    kill_at: Moment,
    /// Whether an order to stop moves the moment to kill: it does not if COMMAND was asked to stop because
    /// its time got short.
    stop_is_planned: bool,
    /// Whether COMMAND was asked to stop, or has ended by itself.
    is_stopping: bool,
}

impl Schedule {
    /// Creates a schedule for a COMMAND that runs.
    pub fn new(stop_at: Moment, kill_at: Moment) -> Self {
        Self {
            stop_at,
            kill_at,
            stop_is_planned: false,
            is_stopping: false,
        }
    }

    /// Moves both moments, because the lease was renewed. Once COMMAND is to stop, this changes
    /// nothing.
    pub fn renew(&mut self, stop_at: Moment, kill_at: Moment) {
        if !self.stop_is_planned && !self.is_stopping {
            (self.stop_at, self.kill_at) = (stop_at, kill_at);
        }
    }

    /// Makes `now` the moment to stop, because the daemon ordered that, and moves the moment to
    /// kill.
    pub fn order_stop(&mut self, now: Moment, kill_at: Moment) {
        if self.is_stopping && !self.stop_is_planned {
            self.kill_at = self.kill_at.min(kill_at);
            return;
        }
        self.stop_is_planned = true;
        self.stop_at = self.stop_at.min(now);
        self.kill_at = kill_at;
    }

    /// Begins the stop if its moment has come. Returns true iff the caller must ask COMMAND to
    /// stop, which is true only once.
    pub fn begin_stop(&mut self, now: Moment) -> bool {
        let begins = !self.is_stopping && now >= self.stop_at;
        self.is_stopping |= begins;
        begins
    }

    /// Returns true iff the daemon ordered a stop that leaves COMMAND the time that it gives.
    pub fn is_stop_ordered(&self) -> bool {
        self.stop_is_planned
    }

    /// Begins the stop of what COMMAND has left behind, because it ended by itself at `now`.
    pub fn stop_leftovers(&mut self, now: Moment) {
        (self.is_stopping, self.stop_is_planned) = (true, true);
        self.kill_at = self.kill_at.min(now + TIME_FOR_LEFTOVERS);
    }

    /// Returns true iff COMMAND was asked to stop, or has ended by itself.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Returns true iff all that is left of COMMAND must be killed.
    pub fn is_kill_due(&self, now: Moment) -> bool {
        now >= self.kill_at
    }

    /// Returns the moment of the next step.
    pub fn next_step_at(&self) -> Moment {
        if self.is_stopping {
            self.kill_at
        } else {
            self.kill_at.min(self.stop_at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn command_is_stopped_and_killed_in_time_unless_its_lease_is_renewed() {
        let mut schedule = Schedule::new(at(4), at(5));
        assert_eq!(schedule.next_step_at(), at(4));
        assert!(!schedule.begin_stop(at(3)));
        schedule.renew(at(6), at(7));
        assert!(!schedule.begin_stop(at(5)) && !schedule.is_kill_due(at(5)));
        assert!(schedule.begin_stop(at(6)) && !schedule.begin_stop(at(6)));
        assert!(schedule.is_stopping());
        assert_eq!(schedule.next_step_at(), at(7));
        assert!(!schedule.is_kill_due(at(6)) && schedule.is_kill_due(at(7)));
    }

    #[test]
    fn a_command_that_stops_for_lack_of_time_gets_no_more_time() {
        let mut schedule = Schedule::new(at(4), at(5));
        assert!(schedule.begin_stop(at(4)));
        schedule.renew(at(8), at(9));
        schedule.order_stop(at(4), at(10));
        assert_eq!(schedule.next_step_at(), at(5));
        schedule.order_stop(at(4), at(4));
        assert!(schedule.is_kill_due(at(4)));
    }

    #[test]
    fn what_a_command_leaves_behind_gets_a_short_time_unless_the_daemon_stops_too() {
        let mut schedule = Schedule::new(at(4), at(5));
        schedule.stop_leftovers(at(2));
        schedule.renew(at(8), at(9));
        assert!(schedule.is_stopping() && !schedule.begin_stop(at(2)));
        assert_eq!(schedule.next_step_at(), at(2) + TIME_FOR_LEFTOVERS);
        schedule.order_stop(at(2), at(10));
        assert_eq!(schedule.next_step_at(), at(10));
        let mut schedule = Schedule::new(at(4), at(5));
        schedule.stop_leftovers(at(5));
        assert!(schedule.is_kill_due(at(5)));
    }

    #[test]
    fn each_order_to_stop_moves_the_kill_and_a_renewal_does_not() {
        let mut schedule = Schedule::new(at(4), at(5));
        schedule.order_stop(at(2), at(5));
        assert!(schedule.begin_stop(at(2)));
        schedule.order_stop(at(3), at(9));
        schedule.renew(at(20), at(20));
        assert_eq!(schedule.next_step_at(), at(9));
        schedule.order_stop(at(4), at(4));
        assert!(schedule.is_kill_due(at(4)));
    }
}
