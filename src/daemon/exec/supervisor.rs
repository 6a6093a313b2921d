//! Runs COMMAND while this replica leads: starts a guard for each term, tells it what the election
//! says, and does its work when it cannot.

use super::{
    launch::start_guard,
    messages::{Order, Report, take_lines},
    reaping::{self, RETRY_INTERVAL, Reaped, Remaining},
};
use crate::{
    clock::{self, Alarm},
    config::Config,
    election::Leadership,
    printable::Printable,
    protocol::{FencingToken, Moment, Role, Status, Timing},
};
use rustix::{
    net::{SendFlags, send},
    process::{Pid, Signal, kill_process},
};
use std::{
    ffi::OsString,
    io::{self, ErrorKind},
};
use tokio::{
    net::UnixStream,
    signal::unix::{self, SignalKind},
    sync::watch,
};
use tracing::{error, info, warn};

/// How a run of COMMAND ended; nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Ended {
    /// It was told to stop.
    AsTold,
    /// By itself, with this exit code.
    ByItself(u8),
    /// It could not be run, for this reason of the system's.
    NeverRan(i32),
    /// The guard could not do its work.
    GuardFailed,
    /// Somebody killed the guard.
    GuardDied,
    /// The guard had not killed it in time.
    GuardLate,
}

/// Runs COMMAND in each term.
pub(in crate::daemon) struct Wrapper {
    name: String,
    config: Config,
    /// What to call COMMAND.
    called: String,
    timing: Timing,
    status: watch::Receiver<Status>,
    child_ended: unix::Signal,
    alarm: Alarm,
    /// The children that were there before: an entrypoint that became this process left them.
    spared: Vec<Pid>,
    running: Option<Running>,
}

/// What is known of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// It runs as this process, or is not reaped yet.
    Process(Pid),
    /// It has ended by itself and not well, if this is true; else somebody killed it, or its work
    /// was done.
    Gone { failed: bool },
}

/// A guard, and the term that it is about.
struct Running {
    leadership: Leadership,
    socket: UnixStream,
    unread: Vec<u8>,
    guard: Guard,
    ended: Option<Ended>,
    said: Option<Order>,
    /// Whether the socket has come to its end.
    hung_up: bool,
    /// When the guard is to kill, by the last order.
    kill_at: Moment,
    /// When all was ordered to be killed at once.
    hurried: Option<Moment>,
    /// Whether the guard has not killed in time.
    late: bool,
    told_not_ours: bool,
}

impl Wrapper {
    /// Gets ready to run `command`.
    ///
    /// # Errors
    /// If the system cannot do what that takes.
    pub fn new(
        command: &[OsString],
        config: &Config,
        status: watch::Receiver<Status>,
    ) -> io::Result<Self> {
        let spared = reaping::become_subreaper()?;
        let program = command
            .first()
            .map_or_else(Default::default, |program| program.as_encoded_bytes());
        Ok(Self {
            name: Printable(config.name().as_str().as_bytes()).to_string(),
            config: config.clone(),
            called: Printable(program).to_string(),
            timing: Timing::new(config.ttl().as_duration(), config.grace()),
            status,
            child_ended: unix::signal(SignalKind::child())?,
            alarm: Alarm::new()?,
            spared,
            running: None,
        })
    }

    /// Runs COMMAND in a term.
    ///
    /// # Errors
    /// If no guard can be started.
    pub fn start(&mut self, leadership: Leadership) -> io::Result<()> {
        let term = leadership.term();
        let (guard, socket) = start_guard(term.lease, &self.environment(term.token))?;
        self.running = Some(Running {
            leadership,
            socket,
            unread: Vec::new(),
            guard: Guard::Process(guard),
            ended: None,
            said: None,
            hung_up: false,
            kill_at: clock::now(),
            hurried: None,
            late: false,
            told_not_ours: false,
        });
        Ok(())
    }

    /// Returns what COMMAND finds in its environment, beside what this process was given.
    fn environment(&self, token: FencingToken) -> [(&'static str, String); 3] {
        let (name, leader_key) = (self.config.name(), self.config.leader_key());
        [
            ("LEADER_ELECTION_NAME", name.as_str().to_owned()),
            ("LEADER_ELECTION_LEADER_KEY", leader_key.as_str().to_owned()),
            ("LEADER_ELECTION_TOKEN", token.to_string()),
        ]
    }

    /// Returns true iff COMMAND runs, or something of it is left.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Passes a signal on to COMMAND, if it runs.
    pub fn pass_on(&mut self, signal: SignalKind) {
        if let Some(running) = &mut self.running {
            running.say(Order::Signal(signal.as_raw_value()));
        }
    }

    /// Lets COMMAND, and all that is left of it, be killed at once.
    pub fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            running.hurried = Some(clock::now());
        }
    }

    /// Waits until a run has ended and nothing of it is left; for ever while there is none.
    /// Nobody but this reaps this process's children.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// If the system does not tell what it must.
    pub async fn ended(&mut self) -> io::Result<(Ended, Leadership)> {
        loop {
            self.reap();
            let Some(running) = &mut self.running else {
                // A child that nobody expected: as the first process of a container, it is ours.
                self.child_ended.recv().await;
                continue;
            };
            running.listen(&self.name, &self.called);
            let said = running.guide(&self.timing, &self.status.borrow_and_update());
            let left = running
                .is_ours_to_kill()
                .then(|| reaping::kill_children(&self.spared));
            if let Some(Remaining::KillDenied(process)) = left {
                running.tell_not_ours(&self.name, &self.called, process.as_raw_nonzero().get());
            }
            let wake = match left {
                Some(left) => clock::now() + left.next_round_in(),
                None if said => running.own_kill_at(&self.timing),
                None => (clock::now() + RETRY_INTERVAL).min(running.own_kill_at(&self.timing)),
            };
            let is_over = |running: &mut Running| {
                let nobody_left = running.ended.is_some() || left == Some(Remaining::Nothing);
                running.guard_is_gone() && nobody_left
            };
            if let Some(over) = self.running.take_if(is_over) {
                let ended = over.how_it_ended();
                self.tell(ended);
                return Ok((ended, over.leadership));
            }
            let Some(running) = &self.running else {
                continue;
            };
            let election_goes_on = self.status.has_changed().is_ok();
            tokio::select! {
                _ = self.child_ended.recv() => {}
                _ = self.status.changed(), if election_goes_on => {}
                _ = running.socket.readable(), if !running.hung_up => {}
                result = self.alarm.wait_until(Some(wake)) => result?,
            }
        }
    }

    /// Reaps all that has ended.
    fn reap(&mut self) {
        let is_guard = |running: &Running, child| running.guard == Guard::Process(child);
        // What cannot be reaped now can be reaped later.
        while let Ok(reaped) = reaping::reap() {
            match (reaped, &mut self.running) {
                (Reaped::Ended(child, code), Some(running)) if is_guard(running, child) => {
                    let failed = (1..128).contains(&code);
                    running.guard = Guard::Gone { failed };
                }
                (Reaped::Ended(child, _), _) => self.spared.retain(|spared| *spared != child),
                // Nobody may stop a guard, and then COMMAND's end goes unheard.
                (Reaped::Stopped(child), Some(running)) if is_guard(running, child) => {
                    let _ = kill_process(child, Signal::CONT);
                }
                (Reaped::Stopped(_), _) => {}
                (Reaped::NoneEnded | Reaped::NoChildren, _) => break,
            }
        }
    }

    /// Says how a run has ended.
    fn tell(&self, ended: Ended) {
        let (name, called) = (&self.name, &self.called);
        match ended {
            Ended::AsTold => info!(name, "'{called}' has stopped."),
            Ended::ByItself(code) => info!(name, code, "'{called}' ended with exit code {code}."),
            Ended::GuardDied => warn!(
                name,
                "The guard of '{called}' died, and what was left of '{called}' was killed."
            ),
            Ended::GuardLate => warn!(
                name,
                "'{called}' was not gone when its time was up (is this machine paused or \
                 overloaded at times?); what was left was killed."
            ),
            Ended::NeverRan(error) => {
                let reason = io::Error::from_raw_os_error(error);
                error!(name, "cannot run '{called}': {reason}");
            }
            Ended::GuardFailed => {
                error!(name, "'{called}' has no guard any more: that one failed.");
            }
        }
    }
}

impl Running {
    /// Takes in what the guard has to tell.
    fn listen(&mut self, name: &str, called: &str) {
        let mut buffer = [0; 512];
        while !self.hung_up {
            match self.socket.try_read(&mut buffer) {
                Ok(length @ 1..) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => self.hung_up = true,
            }
        }
        let Ok(reports) = take_lines(&mut self.unread) else {
            // It makes no sense, so that nothing can be left to it.
            self.late = true;
            return;
        };
        for report in reports {
            match report {
                Report::Started { process } => {
                    let token = self.leadership.token().get();
                    let guard = match self.guard {
                        Guard::Process(guard) => Some(guard.as_raw_nonzero().get()),
                        Guard::Gone { .. } => None,
                    };
                    info!(
                        name,
                        token, process, guard, "Running '{called}' as process {process}."
                    );
                }
                Report::NotStarted { error } => self.ended = Some(Ended::NeverRan(error)),
                Report::Stopped => self.ended = Some(Ended::AsTold),
                Report::Exited { code } => self.ended = Some(Ended::ByItself(code)),
                Report::KillDenied { process } => self.tell_not_ours(name, called, process),
            }
        }
    }

    /// Says once that nobody keeps the promise.
    fn tell_not_ours(&mut self, name: &str, called: &str, process: i32) {
        if !std::mem::replace(&mut self.told_not_ours, true) {
            error!(
                name,
                process,
                "'{called}' is to be killed, and its process {process} cannot be: it is another \
                 user's. Two may run at once until it ends by itself."
            );
        }
    }

    /// Tells the guard what follows from how things stand, and takes over where it is dead or late.
    /// Returns false if the guard could not be told.
    fn guide(&mut self, timing: &Timing, status: &Status) -> bool {
        let own = self.leadership.term();
        let order = match (self.hurried, status.role) {
            (Some(at), _) => Order::Stop { kill_at: at },
            (None, Role::Leader { term, deadline }) if term == own => Order::Run {
                stop_at: timing.stop_from(deadline),
                kill_at: timing.kill_at(deadline),
            },
            (None, Role::Stopping { term, by, .. }) if term == own => Order::Stop { kill_at: by },
            // The election has died; it promises what it promised last.
            _ => Order::Stop {
                kill_at: self.kill_at,
            },
        };
        if let Order::Run { kill_at, .. } | Order::Stop { kill_at } = order {
            self.kill_at = kill_at;
        }
        if self.said != Some(order) && self.say(order) {
            self.said = Some(order);
        }
        let is_there = matches!(self.guard, Guard::Process(_));
        self.late |= is_there && clock::now() >= self.own_kill_at(timing);
        self.said == Some(order)
    }

    /// Whether this process kills, the guard included if it is there.
    fn is_ours_to_kill(&self) -> bool {
        self.late || (self.guard_is_gone() && self.ended.is_none())
    }

    fn how_it_ended(&self) -> Ended {
        self.ended.unwrap_or(match self.guard {
            _ if self.late => Ended::GuardLate,
            Guard::Gone { failed: true } => Ended::GuardFailed,
            _ => Ended::GuardDied,
        })
    }

    /// When this process kills what a guard that is late has left: in the middle between the
    /// guard's time and the deadline.
    fn own_kill_at(&self, timing: &Timing) -> Moment {
        self.kill_at + timing.grace() / 20
    }

    /// Returns true iff it is dead, and all that it had to tell is known.
    fn guard_is_gone(&self) -> bool {
        matches!(self.guard, Guard::Gone { .. }) && self.hung_up
    }

    /// Returns false if the guard cannot be told now; then it keeps to what it was told before.
    fn say(&self, order: Order) -> bool {
        let line = order.to_string();
        // Not through the runtime: it knows only after a while that there is room.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&self.socket, line.as_bytes(), flags).is_ok_and(|length| length == line.len())
    }
}
