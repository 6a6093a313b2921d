//! `observe`: prints a line for each change of the leader and of the candidates, as it happens.

use super::{
    super::{
        exit_code,
        http::{self, ObserverServer},
        render,
        signals::Signals,
    },
    print,
};
use crate::{
    candidates::Candidates,
    config::{Cluster, LeaderKey},
    observer::{ElectionState, Observed, Observer},
    wall_clock,
};
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    future::pending,
    io::{self, Write},
    mem,
    net::SocketAddr,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};

/// How many lines wait for a slow reader. After that, changes wait with etcd; but if HTTP is served, the oldest lines are
/// lost, because a page goes on even if nobody reads standard output.
const LINES_AHEAD: usize = 1000;

/// Prints changes, and serves them if there is an address for that, until a signal asks it to stop or standard output has
/// no reader any more.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
    http: Option<SocketAddr>,
) -> anyhow::Result<u8> {
    let mut signals = Signals::new(false).context("could not listen to signals")?;
    let mut server = match http {
        Some(address) => {
            let listener = http::listen(address).await?;
            Some(ObserverServer::new(listener, cluster, leader_key))
        }
        None => None,
    };
    let endpoints = render::endpoint_names(cluster);
    let mut reader_gone = watch_reader();
    let mut observer = Observer::start(cluster.clone(), leader_key);
    let mut candidates = None;
    let mut printer = Printer::default();
    loop {
        let change = tokio::select! {
            change = observer.next(), if server.is_some() || printer.has_room() => change,
            is_read = printer.print_next() => if is_read? {
                continue;
            } else {
                return Ok(exit_code::SUCCESS);
            },
            error = serve(&mut server) => return Err(error.context("could not go on serving HTTP")),
            _ = signals.next() => return Ok(exit_code::SUCCESS),
            Ok(()) = &mut reader_gone => return Ok(exit_code::SUCCESS),
        };
        let Some(change) = change else {
            bail!("the observation ended by itself, which is a bug in this program");
        };
        if let Some(server) = &server {
            server.record(&change);
        }
        let output = if json {
            Some(Output::Change(json_line(&change, &endpoints)))
        } else {
            text_line(&change, candidates.as_ref(), leader_key, &endpoints)
        };
        if let Observed::Candidates(now) = change {
            candidates = Some(now);
        }
        if let Some(output) = output {
            printer.add(output);
        }
    }
}

/// Serves HTTP, if an address is given, until that fails. Cancel safe.
async fn serve(server: &mut Option<ObserverServer>) -> anyhow::Error {
    match server {
        Some(server) => server.serve().await.into(),
        None => pending().await,
    }
}

/// Prints lines, one after the other. Writing blocks while a reader does not read, and signals and HTTP must be served even
/// then.
#[derive(Default)]
struct Printer {
    waiting: VecDeque<Output>,
    lost: usize,
    printing: Option<JoinHandle<anyhow::Result<bool>>>,
}

impl Printer {
    /// Returns whether another line may wait.
    fn has_room(&self) -> bool {
        self.waiting.len() < LINES_AHEAD
    }

    /// Lets a line wait, instead of the oldest one if there is no room.
    fn add(&mut self, output: Output) {
        if !self.has_room() {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(output);
    }

    /// Returns the next line to print, if there is one.
    fn take_next(&mut self) -> Option<Output> {
        match mem::take(&mut self.lost) {
            0 => self.waiting.pop_front(),
            lost => Some(Output::Warning(warning_line(&format!(
                "{lost} lines are lost, because nobody read them."
            )))),
        }
    }

    /// Prints the next line, if there is one; returns false if standard output has no reader any more. Cancel safe.
    async fn print_next(&mut self) -> anyhow::Result<bool> {
        if self.printing.is_none() {
            let next = self.take_next();
            self.printing = next.map(|output| spawn_blocking(move || output.print()));
        }
        let Some(printing) = &mut self.printing else {
            return pending().await;
        };
        let printed = printing.await.context("printing died")?;
        self.printing = None;
        printed
    }
}

/// Starts to watch standard output: the receiver gets a value once its reader is gone, which the
/// program would otherwise notice only when it prints the next line.
fn watch_reader() -> oneshot::Receiver<()> {
    let (sender, reader_gone) = oneshot::channel();
    std::thread::spawn(move || {
        let out = io::stdout();
        // poll reports errors even if no event is asked for.
        let mut outputs = [PollFd::new(&out, PollFlags::empty())];
        if rustix::io::retry_on_intr(|| poll(&mut outputs, None)).is_ok() {
            // It fails if the program is about to end anyway.
            let _ = sender.send(());
        } else {
            // Dropping the sender would complete the receiver, which must not be polled after that.
            // The next line will show whether there is a reader.
            std::mem::forget(sender);
        }
    });
    reader_gone
}

/// A line to print.
enum Output {
    /// A change, for standard output.
    Change(String),
    /// A warning, for standard error.
    Warning(String),
}

impl Output {
    /// Prints the line; returns false if standard output has no reader any more.
    fn print(self) -> anyhow::Result<bool> {
        match self {
            Self::Change(line) => print(&line),
            Self::Warning(line) => {
                // If standard error is closed, changes are printed nevertheless.
                let _ = writeln!(io::stderr(), "{line}");
                Ok(true)
            }
        }
    }
}

/// Returns what was observed as a line of text, if it is worth one; `candidates` are those before.
fn text_line(
    observed: &Observed,
    candidates: Option<&Candidates>,
    leader_key: &LeaderKey,
    endpoints: &[String],
) -> Option<Output> {
    let change = match observed {
        Observed::State(_) => Some(sentence(observed, leader_key, endpoints)),
        Observed::Candidates(now) => render::arrivals::changes(candidates, now),
        _ => {
            let sentence = sentence(observed, leader_key, endpoints);
            return Some(Output::Warning(warning_line(&sentence)));
        }
    };
    change.map(|sentence| Output::Change(at_present(&sentence)))
}

/// Returns what was observed as a sentence.
pub(super) fn sentence(
    observed: &Observed,
    leader_key: &LeaderKey,
    endpoints: &[String],
) -> String {
    match observed {
        Observed::State(state) => render::state_sentence(state, leader_key),
        Observed::Candidates(candidates) => render::arrivals::listing(candidates),
        Observed::CandidatesUnknown { failure } => render::unknown_sentence(leader_key, failure),
        Observed::Gap { after } => {
            format!(
                "etcd has compacted its history: changes after revision {after} may be missing."
            )
        }
        Observed::HistoryWentBack => format!("{}; starting afresh.", render::HISTORY_WENT_BACK),
        Observed::Unanswered { endpoint, failure } => {
            let failure = render::endpoint_failure(&endpoints[*endpoint], failure);
            format!("{failure}; trying again until that changes.")
        }
        Observed::AuthenticationOff => format!("{}.", render::AUTHENTICATION_OFF),
        Observed::AnsweredAgain { endpoint } => {
            format!("etcd at '{}' responds again.", endpoints[*endpoint])
        }
    }
}

/// Returns a warning as a line for standard error.
pub(super) fn warning_line(sentence: &str) -> String {
    at_present(&format!("WARN {sentence}"))
}

fn at_present(text: &str) -> String {
    let now = humantime::format_rfc3339_millis(wall_clock::now());
    format!("{now} {text}")
}

/// Returns what was observed as one line of JSON.
pub(super) fn json_line(observed: &Observed, endpoints: &[String]) -> String {
    json_line_with(observed, endpoints, render::state_fields)
}

/// Returns the same line with whole texts, however long these are.
pub(super) fn whole_json_line(observed: &Observed, endpoints: &[String]) -> String {
    json_line_with(observed, endpoints, render::whole_state_fields)
}

fn json_line_with(
    observed: &Observed,
    endpoints: &[String],
    state_fields: impl Fn(&ElectionState) -> Map<String, Value>,
) -> String {
    let field = |name: &str, value| (name.to_owned(), value);
    let endpoint = |endpoint: &usize| field("endpoint", json!(endpoints[*endpoint]));
    let (event, mut fields) = match observed {
        Observed::State(state) => ("situation", state_fields(state)),
        Observed::Candidates(candidates) => {
            ("candidates", render::candidates_fields(Some(candidates)))
        }
        Observed::CandidatesUnknown { failure } => {
            let reason = field("reason", json!(render::failure_reason(failure)));
            ("candidates_unknown", Map::from_iter([reason]))
        }
        Observed::Gap { after } => ("gap", Map::from_iter([field("after", json!(after))])),
        Observed::HistoryWentBack => ("history_went_back", Map::new()),
        Observed::AuthenticationOff => ("authentication_off", Map::new()),
        Observed::Unanswered {
            endpoint: failed,
            failure,
        } => {
            let reason = field("reason", json!(render::failure_reason(failure)));
            ("unanswered", Map::from_iter([endpoint(failed), reason]))
        }
        Observed::AnsweredAgain { endpoint: answered } => {
            ("answered_again", Map::from_iter([endpoint(answered)]))
        }
    };
    let now = humantime::format_rfc3339_millis(wall_clock::now());
    fields.extend([
        field("event", json!(event)),
        field("time", json!(now.to_string())),
    ]);
    render::line(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_which_there_is_no_room_are_lost_and_counted() {
        let mut printer = Printer::default();
        for number in 0..LINES_AHEAD + 3 {
            printer.add(Output::Change(number.to_string()));
        }
        assert!(!printer.has_room());
        match printer.take_next() {
            Some(Output::Warning(line)) => assert!(line.contains("3 lines are lost"), "{line}"),
            _ => panic!("it warns"),
        }
        for number in 3..LINES_AHEAD + 3 {
            match printer.take_next() {
                Some(Output::Change(line)) => assert_eq!(line, number.to_string()),
                _ => panic!("the oldest comes first"),
            }
        }
        assert!(printer.take_next().is_none());
    }
}
