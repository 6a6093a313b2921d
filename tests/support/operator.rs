//! The commands for operators, run to their end or while they observe.

use super::daemon::{Daemon, Line, Stream, command, json};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// An address with all that may need care.
pub const ADDRESS: &str = "https://10.0.0.1:8443/\"a b\"?é";

/// A candidate that says how to reach it.
pub fn advertised(name: &str, endpoint: &str) -> Command {
    let mut command = json(name, endpoint);
    command.args(["--advertise", ADDRESS]);
    command
}

/// A command of the binary, at an etcd.
pub fn at(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = command();
    command.args(["--etcd", endpoint]).args(arguments);
    command
}

/// How a command ended, and what it said on standard output and error.
pub struct Run {
    pub code: i32,
    pub out: Vec<String>,
    pub err: Vec<String>,
    pub took: Duration,
}

/// Runs a command to its end.
pub fn run(command: Command) -> Run {
    let begun = Instant::now();
    let mut run = Daemon::spawn("command", command);
    let code = run.wait_exit().code().expect("no signal ended it");
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

/// A line as JSON.
pub fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The exit code of `status --json`, and what it tells.
pub fn status(endpoint: &str) -> (i32, Value) {
    let run = run(at(endpoint, &["status", "--json"]));
    assert!(run.err.is_empty(), "{:?}", run.err);
    assert_eq!(run.out.len(), 1, "{:?}", run.out);
    (run.code, object(&run.out[0]))
}

/// An observer whose lines are JSON.
pub fn observe(name: &str, endpoints: &str) -> Daemon {
    Daemon::spawn(name, at(endpoints, &["observe", "--json"]))
}

/// All that it has told.
pub fn told(observer: &Daemon) -> Vec<Value> {
    let lines = observer.lines();
    lines.iter().map(|line| object(&line.text())).collect()
}

/// Waits until it tells of this state; returns what it tells.
pub fn wait_for_next_state(observer: &mut Daemon, state: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["state"] == state;
    object(&observer.wait_for_next_line(state, is_it).text())
}

/// Waits until it tells that this one leads.
pub fn wait_for_next_name(observer: &mut Daemon, name: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["leader"]["name"] == name;
    object(&observer.wait_for_next_line(name, is_it).text())
}

/// Waits until it tells of this event; returns what it tells.
pub fn wait_for_next_event(observer: &mut Daemon, event: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["event"] == event;
    object(&observer.wait_for_next_line(event, is_it).text())
}
