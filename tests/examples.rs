//! The examples do what they say.
mod support;

use rustix::process::Signal;
use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::daemon::{Daemon, LEADER, json};
use support::etcd::Etcd;
use support::line::Line;
use support::poll_every;
use support::postgres::Postgres;
use support::process::Process;

/// Starts an example, which stands beside the tests.
fn example(name: &str, arguments: &[&str]) -> Process {
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
        "there is no {}: `cargo build --examples` builds it, as does `tests/run.sh`",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Process::spawn(&format!("{name} {}", arguments[0]), command)
}

fn contains(word: &str) -> impl Fn(&Line) -> bool {
    move |line| line.text().contains(word)
}

/// Asks the database, which costs a process, until it is so.
fn poll_database(what: &str, is_so: impl Fn() -> bool) {
    poll_every(Duration::from_millis(20), what, || is_so().then_some(()));
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
    poll_database("the first works", || done_by("first") > 2);

    // It is paused in the middle of its work, and another one continues.
    first.signal(Signal::STOP);
    let mut second = worker("second");
    second.wait_for_next_line("its token", contains("second works, with token "));
    poll_database("the second works", || done_by("second") > 2);
    first.signal(Signal::CONT);
    first.wait_for_next_line("that it stops", |line| {
        line.text().contains("stops") || line.text().contains("cannot work")
    });

    // A transaction with the old token is refused as a whole.
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
    poll_database("the first works again", || done_by("first") > before);
    let tokens = database.query("SELECT token FROM work ORDER BY id");
    let tokens: Vec<u64> = tokens.iter().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
}

#[test]
fn the_observer_prints_who_leads_and_where() {
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
fn several_elections_in_one_process_may_have_different_leaders() {
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
