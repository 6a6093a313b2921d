//! The commands for operators.

use super::daemon::{Daemon, command, json};
use super::line::{Line, Stream};
use super::process::Process;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// An address with every character that may need care.
pub const ADDRESS: &str = "https://10.0.0.1:8443/\"a b\"?é";

/// Returns a candidate that advertises that address.
pub fn advertised(name: &str, endpoint: &str) -> Command {
    let mut command = json(name, endpoint);
    command.args(["--advertise", ADDRESS]);
    command
}

/// Returns a command of the binary for this etcd.
pub fn at(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = command();
    command.args(["--etcd", endpoint]).args(arguments);
    command
}

/// How a command ended, and what it printed.
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// The lines of its standard output.
    pub out: Vec<String>,
    /// The lines of its standard error.
    pub err: Vec<String>,
    /// How long it ran.
    pub took: Duration,
}

/// Runs a command to its end.
pub fn run(command: Command) -> Run {
    let begun = Instant::now();
    let mut run = Process::spawn("command", command);
    let code = run.wait_exit().code().expect("not ended by a signal");
    let took = begun.elapsed();
    let lines = run.lines();
    let said = |stream| {
        let lines = lines.iter().filter(|line| line.stream == stream);
        lines.map(Line::text).collect()
    };
    Run {
        code,
        out: said(Stream::Out),
        err: said(Stream::Err),
        took,
    }
}

/// Parses a line of JSON.
pub fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Returns the exit code of `status --json` and its object.
pub fn status(endpoint: &str) -> (i32, Value) {
    let run = run(at(endpoint, &["status", "--json"]));
    assert!(run.err.is_empty(), "{:?}", run.err);
    assert_eq!(run.out.len(), 1, "{:?}", run.out);
    (run.code, object(&run.out[0]))
}

/// Starts an observer whose lines are JSON.
pub fn observe(name: &str, endpoints: &str) -> Daemon {
    Daemon::spawn(name, at(endpoints, &["observe", "--json"]))
}

/// Returns all objects that it has printed.
pub fn objects(observer: &Daemon) -> Vec<Value> {
    let lines = observer.lines();
    lines.iter().map(|line| object(&line.text())).collect()
}

/// Returns all objects that it has printed, but for those about the candidates.
pub fn objects_about_leaders(observer: &Daemon) -> Vec<Value> {
    let mut objects = objects(observer);
    objects.retain(|object| object["event"] != "candidates");
    objects
}

/// Waits for the next object with this state.
pub fn wait_for_next_state(observer: &mut Daemon, state: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["state"] == state;
    object(&observer.wait_for_next_line(state, is_it).text())
}

/// Waits for the next object in which this replica leads.
pub fn wait_for_next_name(observer: &mut Daemon, name: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["leader"]["name"] == name;
    object(&observer.wait_for_next_line(name, is_it).text())
}

/// Waits for the next object with this event.
pub fn wait_for_next_event(observer: &mut Daemon, event: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["event"] == event;
    object(&observer.wait_for_next_line(event, is_it).text())
}
