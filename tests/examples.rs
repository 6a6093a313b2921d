//! The examples run, and do what they say.

use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, Line, json, plain};
use support::etcd::Etcd;
use support::postgres::Postgres;
use support::{PATIENCE, poll_until};

/// An example, as `cargo test` has built it beside the tests.
fn example(name: &str, arguments: &[&str]) -> Daemon {
    let tests = env::current_exe().unwrap();
    let program = tests
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        program.is_file(),
        "there is no {}: `cargo test` builds it, as does `cargo build --examples`",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Daemon::spawn(&format!("{name} {}", arguments[0]), command)
}

fn contains(word: &str) -> impl Fn(&Line) -> bool {
    move |line| line.text().contains(word)
}

/// Looks again and again: a database reports no changes.
fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn singleton_workers_work_one_after_the_other_and_the_database_refuses_stale_tokens() {
    let etcd = Etcd::newest();
    let database = Postgres::start();
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fence.sql");
    database.query(&fs::read_to_string(schema).unwrap());
    let worker = |name: &str| {
        example(
            "singleton_worker",
            &[name, &etcd.endpoint(), &database.url()],
        )
    };
    let done_by = |name: &str| {
        let count = format!("SELECT count(*) FROM work WHERE worker = '{name}'");
        database.query(&count)[0].parse::<u32>().unwrap()
    };
    let mut first = worker("first");
    let line = first.wait_for_next_line("its token", contains("first works, with token "));
    let token = line.text().rsplit(' ').next().unwrap().to_owned();
    until(|| done_by("first") > 2);

    // It is paused in the middle of its work, and another goes on.
    first.signal(Signal::STOP);
    let mut second = worker("second");
    second.wait_for_next_line("its token", contains("second works, with token "));
    until(|| done_by("second") > 2);
    first.signal(Signal::CONT);
    first.wait_for_next_line("that it stops", |line| {
        line.text().contains("stops") || line.text().contains("cannot work")
    });

    // What a shell sends with the token of the past is refused, whole.
    let stale = format!(
        "SELECT pass_fence('leader', {token}); INSERT INTO work (worker, token) VALUES ('stale', {token})"
    );
    let refused = database.psql(&stale);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success(), "{said}");
    let expected = format!("the token {token} of election \"leader\" is stale");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(done_by("stale"), 0);

    second.crash();
    first.wait_for_next_line("that it works again", contains("first works, with token "));
    let before = done_by("first");
    until(|| done_by("first") > before);
    let tokens = database.query("SELECT token FROM work ORDER BY id");
    let tokens: Vec<u64> = tokens.iter().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
}

#[test]
fn the_observer_tells_who_leads_and_where() {
    let etcd = Etcd::newest();
    let mut observer = example("observer", &[&etcd.endpoint()]);
    observer.wait_for_next("nobody leads");
    let mut command = json("server1", &etcd.endpoint());
    command.args(["--advertise", "10.0.0.1:80"]);
    let mut leader = Daemon::spawn("server1", command);
    leader.wait_for_next(LEADER);
    observer.wait_for_next("server1 leads at 10.0.0.1:80");
    leader.signal(Signal::TERM);
    observer.wait_for_next("nobody leads");
}

#[test]
fn several_elections_in_one_process_are_led_by_whoever_is_there() {
    let etcd = Etcd::newest();
    let shards = ["shards/a", "shards/b", "shards/c"];
    let mut first = example("several_elections", &["first", &etcd.endpoint()]);
    for _ in shards {
        first.wait_for_next_line("a shard", contains("first serves shards/"));
    }
    let mut second = example("several_elections", &["second", &etcd.endpoint()]);
    etcd.etcdctl(&["del", "shards/b"]);
    second.wait_for_next_line("b", contains("second serves shards/b, with token "));
    assert_eq!(etcd.key("shards/a").unwrap().value, b"first");
    first.signal(Signal::INT);
    assert_eq!(first.wait_exit().code(), Some(0));
    for _ in 0..2 {
        second.wait_for_next_line("the rest", contains("second serves shards/"));
    }
    for shard in shards {
        assert_eq!(etcd.key(shard).unwrap().value, b"second");
    }
}

#[test]
fn a_machine_that_was_paused_cannot_write_with_its_stale_token() {
    let etcd = Etcd::newest();
    let database = Postgres::start();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = fs::read_to_string(project.join("examples/fence.sql")).unwrap();
    database.query(&schema);
    let worker = |name: &str| {
        let mut command = plain(name, &etcd.endpoint());
        command.env("DATABASE", database.url()).arg("--");
        command.arg(project.join("examples/worker.sh"));
        Daemon::spawn(name, command)
    };
    let done_by = |name: &str| {
        let count = format!("SELECT count(*) FROM work WHERE worker = '{name}'");
        database.query(&count)[0].parse::<u32>().unwrap()
    };
    let mut first = worker("first");
    let running = first.wait_for_next_start("Running ");
    let process: i32 = running
        .text()
        .rsplit(' ')
        .next()
        .unwrap()
        .trim_end_matches('.')
        .parse()
        .unwrap();
    let process = Pid::from_raw(process).unwrap();
    poll_until("it works", || (done_by("first") > 1).then_some(()));
    // Pauses the whole machine.
    let guard = Pid::from_raw(parent_of(process)).unwrap();
    for process in [first.pid(), guard, process] {
        kill_process(process, Signal::STOP).unwrap();
    }
    let second = worker("second");
    poll_until("another one works", || {
        (done_by("second") > 1).then_some(())
    });
    // The worker wakes up first, and still believes that it leads.
    kill_process(process, Signal::CONT).unwrap();
    first.wait_for_next("first could not work");
    let lines = first.lines();
    let stale = "of election \"leader\" is stale";
    assert!(lines.iter().any(|line| line.text().contains(stale)));
    let order = "SELECT worker FROM work ORDER BY id";
    let mut workers = database.query(order);
    workers.dedup();
    assert_eq!(workers, ["first", "second"]);
    for process in [guard, first.pid()] {
        kill_process(process, Signal::CONT).unwrap();
    }
    first.wait_for_next(FOLLOWER);
    assert!(!second.has_ended());
}

fn parent_of(process: Pid) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
