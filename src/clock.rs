//! The clock of the election: boot time, which continues while the machine sleeps.
//!
//! The only other module that reads a clock is `wall_clock`, whose times are for people. `clippy.toml` forbids reading
//! a clock elsewhere, `lib.rs` switches this lint on, and `.ci/run` makes it an error. The state machine in `protocol`
//! gets the time with each input, so its deliberately wrong variants (`tests/simulation/patch.rs`) compile without this
//! module. Limits of single requests may use the runtime's timers, because no right to act depends on them.

use crate::protocol::Moment;
use rustix::{
    fd::{AsFd, OwnedFd},
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
        clock_gettime, timerfd_create, timerfd_settime,
    },
};
use std::{io, time::Duration};
use tokio::io::unix::AsyncFd;

/// Returns the present moment.
///
/// The clock is the same for all processes of a machine. [`std::time::Instant`] cannot be used: on
/// Linux, it stops while the machine sleeps, so an expired lease would seem to be valid.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the election's clock"
)]
pub fn now() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    Moment::from_origin(Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    ))
}

/// Creates a timer on this clock, which becomes readable when it fires.
///
/// # Errors
/// If no file descriptor is left.
pub(crate) fn create_timer() -> io::Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Boottime,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    Ok(timer)
}

/// Makes a timer fire at `moment`, instead of the moment that was set before.
///
/// # Errors
/// If the kernel refuses. There is no known reason for that.
pub(crate) fn set_timer(timer: impl AsFd, moment: Moment) -> io::Result<()> {
    let since_origin = moment.since_origin();
    let setting = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: since_origin.as_secs().try_into().unwrap_or(i64::MAX),
            // Zero altogether would disarm the timer.
            tv_nsec: since_origin.subsec_nanos().max(1).into(),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &setting)?;
    Ok(())
}

/// A timer on this clock: after a sleep of the machine it fires at once.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// Creates a timer.
    ///
    /// # Errors
    /// If no file descriptor is left.
    pub fn new() -> io::Result<Self> {
        // Deprecated for types that can hand out one descriptor and close another, which an
        // `OwnedFd` cannot; its successor is `unsafe`.
        #[allow(deprecated)]
        let timer = AsyncFd::new(create_timer()?)?;
        Ok(Self { timer })
    }

    /// Waits until `moment`; forever if there is none.
    ///
    /// Cancel safe: each call sets the timer anew.
    ///
    /// # Errors
    /// If the kernel refuses. There is no known reason for that.
    pub async fn wait_until(&mut self, moment: Option<Moment>) -> io::Result<()> {
        let Some(moment) = moment else {
            return std::future::pending().await;
        };
        // Set anew in each turn: a readiness may be an earlier setting's, and one that came a hair
        // too early must not be the last.
        while now() < moment {
            set_timer(&self.timer, moment)?;
            self.timer.readable().await?.clear_ready();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_waits_until_its_moment_and_can_be_set_again() {
        let mut alarm = Alarm::new().unwrap();
        for _ in 0..3 {
            let moment = now() + Duration::from_millis(5);
            alarm.wait_until(Some(moment)).await.unwrap();
            assert!(now() >= moment);
        }
    }

    #[tokio::test]
    async fn an_alarm_for_a_moment_that_has_passed_fires_at_once() {
        let mut alarm = Alarm::new().unwrap();
        alarm
            .wait_until(Some(Moment::from_origin(Duration::ZERO)))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_alarm_that_was_given_up_does_not_fire_early_afterwards() {
        let mut alarm = Alarm::new().unwrap();
        let soon = now() + Duration::from_millis(2);
        tokio::select! {
            biased;
            result = alarm.wait_until(Some(soon)) => result.unwrap(),
            () = tokio::task::yield_now() => {}
        }
        while now() < soon {
            tokio::task::yield_now().await;
        }
        let later = now() + Duration::from_millis(5);
        alarm.wait_until(Some(later)).await.unwrap();
        assert!(now() >= later);
    }
}
