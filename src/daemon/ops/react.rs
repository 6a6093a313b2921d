//! `observe -- COMMAND`: runs COMMAND at each change of the election's state.

use super::{
    agenda::{AfterFailure, Agenda},
    observe::{sentence, warning_line, whole_json_line},
};
use crate::{
    backoff::Jitter,
    clock::{self, Alarm},
    config::{Cluster, LeaderKey},
    daemon::{
        exec::{self, BoundedRunner, KILL_TIMEOUT, RunEvent},
        exit_code,
        log::{self, LOG_TIMEOUT, LineQueue, SHORT_LOG_TIMEOUT},
        render,
        signals::{Received, Signals, TIME_OF_ONE_REQUEST},
    },
    observer::{ElectionState, Observed, Observer},
    printable::Printable,
    protocol::Moment,
};
use anyhow::{Context, bail};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    time::Duration,
};
use tokio::{signal::unix::SignalKind, time::timeout};

/// The default of `--timeout`.
const DEFAULT_TIME_LIMIT: Duration = Duration::from_mins(1);

/// Runs COMMAND for the first state and at each change, until a signal asks to stop.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    command: Vec<OsString>,
    time_limit: Option<Duration>,
) -> anyhow::Result<u8> {
    let program = command.first().map_or(OsStr::new(""), |program| program);
    if let Err(error) = exec::check_command(program) {
        // If standard error is closed, only the exit code reports this.
        let _ = writeln!(io::stderr(), "error: {error}");
        return Ok(error.exit_code());
    }
    // From now on, a slow reader of standard error blocks nothing.
    let (lines, log) = log::start_lines();
    let time_limit = time_limit.unwrap_or(DEFAULT_TIME_LIMIT);
    let result = match Reactor::new(leader_key, command, time_limit, lines) {
        Ok(reactor) => reactor.run(cluster).await,
        Err(error) => Err(error),
    };
    let (result, log_timeout) = match result {
        Ok(None) => (Ok(exit_code::SUCCESS), LOG_TIMEOUT),
        Ok(Some(signal)) => (Ok(exit_code::of_signal(signal)), SHORT_LOG_TIMEOUT),
        Err(error) => (Err(error), LOG_TIMEOUT),
    };
    log.finish(log_timeout);
    result
}

/// Runs COMMAND when a run is due.
struct Reactor {
    leader_key: LeaderKey,
    /// COMMAND's program, for the log.
    program: String,
    time_limit: Duration,
    lines: LineQueue,
    signals: Signals,
    runner: BoundedRunner,
    agenda: Agenda<Reaction>,
    jitter: Jitter,
    /// When a signal has first asked to stop.
    stop_requested: Option<Moment>,
}

impl Reactor {
    fn new(
        leader_key: &LeaderKey,
        command: Vec<OsString>,
        time_limit: Duration,
        lines: LineQueue,
    ) -> anyhow::Result<Self> {
        let program = command.first().map_or(OsStr::new(""), |program| program);
        Ok(Self {
            leader_key: leader_key.clone(),
            program: Printable(program.as_bytes()).to_string(),
            time_limit,
            lines,
            signals: Signals::new(false).context("could not listen to signals")?,
            runner: BoundedRunner::new(command, time_limit)
                .context("could not get ready to run COMMAND")?,
            agenda: Agenda::new(),
            jitter: Jitter::new(),
            stop_requested: None,
        })
    }

    /// Reacts to changes until a signal asks to stop. Returns the signal if it was a second one, so
    /// that the run was killed.
    async fn run(mut self, cluster: &Cluster) -> anyhow::Result<Option<SignalKind>> {
        let endpoints = render::endpoint_names(cluster);
        let mut observer = Observer::start(cluster.clone(), &self.leader_key);
        let mut alarm = Alarm::new().context("could not create a timer")?;
        loop {
            if self.stop_requested.is_none() {
                self.begin_run();
            } else if !self.runner.is_running() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                received = self.signals.next() => {
                    let (Received::Stop(signal) | Received::Forward(signal)) = received;
                    let now = clock::now();
                    let first = *self.stop_requested.get_or_insert(now);
                    if now.since(first) >= TIME_OF_ONE_REQUEST {
                        // If that takes longer, this process does not wait for the rest.
                        let _ = timeout(KILL_TIMEOUT, self.runner.kill()).await;
                        return Ok(Some(signal));
                    }
                }
                event = self.runner.next() => {
                    self.follow_up(event.context("could not watch over COMMAND")?);
                }
                change = observer.next(), if self.stop_requested.is_none() => {
                    let Some(change) = change else {
                        bail!("the observation ended by itself, which is a bug in this program");
                    };
                    self.record(&change, &endpoints);
                }
                waited = alarm.wait_until(self.agenda.waits_until()) => {
                    waited.context("could not set a timer")?;
                }
            }
        }
    }

    /// Puts a new state on the agenda; logs anything else, but for the candidates.
    fn record(&mut self, change: &Observed, endpoints: &[String]) {
        // COMMAND runs for changes of the leader alone.
        if let Observed::Candidates(_) | Observed::CandidatesUnknown { .. } = change {
            return;
        }
        if let Observed::State(state) = change {
            let line = whole_json_line(change, endpoints);
            self.agenda
                .add(Reaction::new(state, &self.leader_key, line));
        } else {
            let sentence = sentence(change, &self.leader_key, endpoints);
            self.lines.send(&warning_line(&sentence));
        }
    }

    /// Begins a run if one is due.
    fn begin_run(&mut self) {
        if let Some(Reaction { variables, input }) = self.agenda.begin(clock::now())
            && let Err(error) = self.runner.start(variables, input)
        {
            self.fail(&format!("cannot run '{}': {error}", self.program));
        }
    }

    /// Handles an event of the run: updates the agenda, and logs a failure.
    fn follow_up(&mut self, event: RunEvent) {
        let program = &self.program;
        match event {
            RunEvent::Exited(0) => self.agenda.succeed(),
            RunEvent::Exited(code) => {
                self.fail(&format!("'{program}' failed with exit code {code}"));
            }
            RunEvent::Killed => {
                let limit = humantime::format_duration(self.time_limit);
                self.fail(&format!(
                    "'{program}' did not end within {limit}, and was stopped with all that it had \
                     started"
                ));
            }
            RunEvent::KillDenied(process) => self.lines.send(&warning_line(&format!(
                "'{program}' is to be killed, and its process {process} cannot be: it is another \
                 user's; waiting until it ends by itself."
            ))),
        }
    }

    /// Records that the run has failed; logs why, and what happens next.
    fn fail(&mut self, what: &str) {
        let after = self
            .agenda
            .fail(clock::now(), |limit| self.jitter.up_to(limit));
        let next = match after {
            _ if self.stop_requested.is_some() => "not trying again, but stopping".to_owned(),
            AfterFailure::Newer => "running it for a newer state".to_owned(),
            AfterFailure::Retry(wait) => format!(
                "trying again in {:.1} s unless the state changes before",
                wait.as_secs_f64()
            ),
        };
        self.lines.send(&warning_line(&format!("{what}; {next}.")));
    }
}

/// What COMMAND gets in a run.
struct Reaction {
    variables: [(&'static str, OsString); 5],
    input: String,
}

impl Reaction {
    fn new(state: &ElectionState, leader_key: &LeaderKey, line: String) -> Self {
        let name = render::situation_name(state.situation);
        let leader = state.leader.as_ref();
        let address = leader.and_then(|leader| leader.address.as_deref());
        let token = leader.map(|leader| leader.token.to_string());
        let variables = [
            ("LEADER_ELECTION_STATE", name.into()),
            (
                "LEADER_ELECTION_LEADER",
                exact_or_empty(leader.map_or(b"", |leader| &leader.name)),
            ),
            (
                "LEADER_ELECTION_ADDRESS",
                exact_or_empty(address.unwrap_or_default().as_bytes()),
            ),
            ("LEADER_ELECTION_TOKEN", token.unwrap_or_default().into()),
            ("LEADER_ELECTION_LEADER_KEY", leader_key.as_str().into()),
        ];
        Self {
            variables,
            input: line + "\n",
        }
    }
}

/// The longest text that is passed in a variable, half of what Linux permits for a variable.
const LONGEST_VARIABLE: usize = 64 * 1024;

/// Returns a text from etcd as the value of a variable: the exact text, or empty if it does not fit. A
/// truncated name could be the name of another replica.
fn exact_or_empty(text: &[u8]) -> OsString {
    if text.len() > LONGEST_VARIABLE || text.contains(&0) {
        return OsString::new();
    }
    OsString::from_vec(text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_holds_the_exact_text_or_nothing() {
        let longest = vec![b'x'; LONGEST_VARIABLE];
        for exact in [&b""[..], b"server1", b"\xff\xfe\n=", &longest] {
            assert_eq!(exact_or_empty(exact).as_bytes(), exact);
        }
        let too_long = vec![b'x'; LONGEST_VARIABLE + 1];
        for unfit in [&b"a\0b"[..], &too_long] {
            assert_eq!(exact_or_empty(unfit), "");
        }
    }
}
