//! `-- COMMAND`: what COMMAND inherits, when it starts, how it is stopped and killed, and what its end
//! means.

use rustix::process::Signal;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, LOST, Stream, command, plain};
use support::etcd::{Etcd, on_each_etcd};
use support::proxy::refusing;
use support::record::{Record, wait_for_guard};
use support::{NEXT_REQUEST, TTL, let_pass, poll_until};

/// The limit for what takes milliseconds, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Returns the command line of a replica that runs this shell script.
fn shell(name: &str, etcd: &Etcd, options: &[&str], script: &str) -> Command {
    let mut command = plain(name, &etcd.endpoint());
    command.args(options).args(["--", "sh", "-c", script]);
    command
}

fn start(name: &str, etcd: &Etcd, script: &str) -> Daemon {
    Daemon::spawn(name, shell(name, etcd, &[], script))
}

/// Returns what COMMAND has written to standard output.
fn output(replica: &Daemon) -> Vec<String> {
    let lines = replica.lines();
    let own = lines.iter().filter(|line| line.stream == Stream::Out);
    own.map(support::daemon::Line::text).collect()
}

/// Returns true iff there is such a process, even if it is dead and not reaped yet.
fn exists(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}

#[test]
fn command_inherits_arguments_environment_and_streams_and_no_descriptor_of_the_daemon() {
    let etcd = Etcd::newest();
    let script = r#"
        echo "$1,$2,$LEADER_ELECTION_NAME,$LEADER_ELECTION_LEADER_KEY,$LEADER_ELECTION_TOKEN"
        for file in /proc/self/fd/*; do echo "fd ${file##*/}"; done
        read -r stat </proc/$$/stat; set -- $stat; echo "group $5 of $1"
        cat
        echo aside >&2
    "#;
    let mut command = shell("one", &etcd, &["--leader-key", "key"], script);
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(b"from stdin\n").unwrap();
    stdin.rewind().unwrap();
    command.args(["zero", "first \"word\"", ""]);
    command.stdin(stdin).stdout(Stdio::piped());
    let mut replica = Daemon::spawn("one", command);
    assert_eq!(replica.wait_exit().code(), Some(0));
    let output = output(&replica);
    assert!(
        output[0].starts_with("first \"word\",,one,key,"),
        "{output:?}"
    );
    let group = output
        .iter()
        .find_map(|line| line.strip_prefix("group "))
        .unwrap();
    let (group, process) = group.split_once(" of ").unwrap();
    assert_eq!(group, process, "it leads a process group of its own");
    // COMMAND also inherits the descriptors that this test has inherited.
    let mut directly = Command::new("sh");
    directly.args(["-c", script]).stdin(Stdio::null());
    let directly = String::from_utf8(directly.output().unwrap().stdout).unwrap();
    let files = |lines: Vec<String>| -> Vec<String> {
        let files = lines.into_iter().filter(|line| line.starts_with("fd "));
        files.collect()
    };
    let directly = directly.lines().map(str::to_owned).collect();
    assert_eq!(files(output.clone()), files(directly));
    assert_eq!(output.last().unwrap(), "from stdin");
    // The log goes to standard error.
    let lines = replica.lines();
    let said = lines.iter().find(|line| line.message() == LEADER).unwrap();
    assert_eq!(said.stream, Stream::Err);
    assert!(
        lines
            .iter()
            .any(|line| line.text() == "aside" && line.stream == Stream::Err)
    );
}

#[test]
fn command_starts_as_soon_as_its_replica_leads_even_in_the_first_term() {
    let etcd = Etcd::newest();
    let mut command = command();
    // The first renewal, which sends an order again, comes two seconds later.
    command.args(["--etcd", &etcd.endpoint(), "--ttl", "10s"]);
    command.args(["--", "sh", "-c", "echo runs; exec sleep 60"]);
    let replica = Daemon::spawn("one", command);
    let leads = replica.wait_for_any_start(LEADER).at;
    let runs = replica.wait_for_any_start("runs").at;
    let took = runs.saturating_duration_since(leads);
    assert!(took < AT_ONCE, "it started after {took:?}");
}

/// Runs a guard that gets these orders from its daemon; returns what COMMAND and the guard have
/// written.
fn run_guard(orders: &str) -> (Vec<String>, String) {
    let (ours, guards) = UnixStream::pair().unwrap();
    let mut guard = command();
    guard.args([
        "--guard",
        "1",
        "15",
        "--etcd",
        &refusing(),
        "--",
        "sh",
        "-c",
        "echo it ran",
    ]);
    guard.stdin(Stdio::from(OwnedFd::from(guards)));
    let mut guard = Daemon::spawn("guard", guard);
    (&ours).write_all(b"\0").unwrap();
    (&ours).write_all(orders.as_bytes()).unwrap();
    guard.wait_exit();
    let mut reports = String::new();
    (&ours).read_to_string(&mut reports).unwrap();
    (output(&guard), reports)
}

#[test]
fn a_guard_that_gets_its_order_too_late_starts_nothing() {
    for orders in [
        "run 1 2\n",
        "stop 1\n",
        "run 1 2\nstop 1\n",
        "run 9000000000000000000 9000000000000000000\nstop 1\n",
    ] {
        let (output, reports) = run_guard(orders);
        assert_eq!(output, [""; 0], "{orders:?}");
        assert_eq!(reports, "stopped\n", "{orders:?}");
    }
}

#[test]
fn command_does_not_inherit_a_terminal_as_standard_input() {
    let etcd = Etcd::newest();
    let ours = env!("CARGO_BIN_EXE_leader-election");
    let endpoint = etcd.endpoint();
    // `script` runs its command on a terminal.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command"]);
    script.arg(format!(
        "{ours} --etcd {endpoint} --ttl 2s -- readlink /proc/self/fd/0"
    ));
    script.arg("/dev/null").stdin(Stdio::null());
    let mut replica = Daemon::spawn("script", script);
    replica.wait_for_next_line("/dev/null", |line| line.text().trim() == "/dev/null");
    assert_eq!(replica.wait_exit().code(), Some(0));
}

#[test]
fn a_missing_or_not_executable_command_is_refused_before_any_election() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "echo no\n").unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    for (command, code, says) in [
        (
            "no-such-command".to_owned(),
            127,
            "there is no command 'no-such-command'",
        ),
        (
            "/no/such/file".to_owned(),
            127,
            "there is no command '/no/such/file'",
        ),
        (String::new(), 127, "there is no command ''"),
        (path(&file), 126, "cannot be executed"),
        (path(folder.path()), 126, "cannot be executed"),
    ] {
        let mut replica = plain("one", &refusing());
        replica.args(["--", &command]);
        let mut replica = Daemon::spawn("one", replica);
        assert_eq!(replica.wait_exit().code(), Some(code), "{command}");
        let lines = replica.lines();
        assert_eq!(lines.len(), 1, "it did something else first");
        assert!(lines[0].text().contains(says), "{}", lines[0].text());
        assert_eq!(lines[0].stream, Stream::Err);
    }
}

#[test]
fn a_command_that_fails_to_start_ends_the_replica_and_its_term() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    for (number, (contents, code)) in [("#!/no/such/interpreter\n", 127), ("\0", 126)]
        .iter()
        .enumerate()
    {
        let file = folder.path().join(number.to_string());
        fs::write(&file, contents).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let mut replica = plain("one", &etcd.endpoint());
        replica.arg("--").arg(&file);
        let mut replica = Daemon::spawn("one", replica);
        assert_eq!(replica.wait_exit().code(), Some(*code));
        replica.wait_for_any_start("ERROR cannot run '");
        replica.wait_for_any_start(LEADER_STOPS);
        assert_eq!(etcd.leases(), [""; 0]);
    }
}

#[test]
fn a_grace_or_stop_timeout_that_cannot_work_and_a_missing_command_are_refused() {
    let run = |args: &[&str]| {
        let mut replica = plain("one", &refusing());
        replica.args(args);
        let mut replica = Daemon::spawn("one", replica);
        assert_eq!(replica.wait_exit().code(), Some(2), "{args:?}");
        replica.lines()[0].text()
    };
    let too_long = run(&["--grace", "1s", "--", "true"]);
    assert!(
        too_long.contains("a grace of 1s does not fit a TTL of 2s"),
        "{too_long}"
    );
    let too_short = run(&["--grace", "99ms", "--", "true"]);
    assert!(too_short.contains("100ms at least"), "{too_short}");
    for (option, value) in [
        ("--grace", "300ms"),
        ("--stop-timeout", "300ms"),
        ("--stop-signal", "QUIT"),
    ] {
        let alone = run(&[option, value]);
        assert!(
            alone.contains(&format!("{option} is about a COMMAND")),
            "{alone}"
        );
    }
    run(&["--stop-timeout", "-1s", "--", "true"]);
    // Variables may be set for another replica.
    let mut replica = plain("one", &refusing());
    replica.env("LEADER_ELECTION_GRACE", "none");
    replica.env("LEADER_ELECTION_STOP_TIMEOUT", "none");
    replica.env("LEADER_ELECTION_STOP_SIGNAL", "none");
    Daemon::spawn("one", replica).wait_for_next_start("Starting the server");
    let nothing = run(&["--"]);
    assert!(
        nothing.contains("there is no COMMAND after --"),
        "{nothing}"
    );
}

#[test]
fn when_command_ends_the_replica_exits_with_its_code_and_another_one_starts_at_once() {
    on_each_etcd(|etcd| {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 42", 42),
            ("kill -9 $$", 137),
            ("kill $$", 143),
        ] {
            // What it leaves behind would hold the pipe open.
            let script = format!("setsid sleep 60 & echo left $!; read go; {script}");
            let mut command = shell("first", &etcd, &[], &script);
            command.stdin(Stdio::piped());
            let mut first = Daemon::spawn("first", command);
            let left = first.wait_for_next_start("left ").text()[5..].to_owned();
            let mut second = start("second", &etcd, "exec sleep 60");
            second.wait_for_next(FOLLOWER);
            let began = Instant::now();
            first.close_stdin();
            assert_eq!(first.wait_exit().code(), Some(code), "{script}");
            let took = second.wait_for_next_start("Running ").at - began;
            assert!(took < AT_ONCE, "the next one ran after {took:?}");
            assert!(!exists(&left), "it left something behind");
            first.wait_for_any_start(&format!("'sh' ended with exit code {code}."));
            second.signal(Signal::TERM);
            assert_eq!(second.wait_exit().code(), Some(0));
        }
    });
}

#[test]
fn a_planned_stop_waits_for_command_and_keeps_the_lease_meanwhile() {
    on_each_etcd(|etcd| {
        // Longer than the lease would last.
        let finish =
            "trap 'sleep 3; echo finished; exit 7' TERM; echo runs; while :; do sleep 0.05; done";
        let mut old = start("old", &etcd, finish);
        old.wait_for_next("runs");
        let mut new = start("new", &etcd, "echo runs; exec sleep 60");
        new.wait_for_next(FOLLOWER);
        old.signal(Signal::TERM);
        let finished = old.wait_for_next("finished").at;
        assert!(!new.has_said("runs"));
        let runs = new.wait_for_next("runs").at;
        assert!(
            runs > finished && runs - finished < AT_ONCE,
            "after {:?}",
            runs - finished
        );
        // COMMAND was asked to stop, so that its own exit code does not count.
        assert_eq!(old.wait_exit().code(), Some(0));
        old.wait_for_any_start(LEADER_STOPS);
    });
}

#[test]
fn a_deleted_leader_key_stops_command_in_order_and_it_runs_in_a_later_term() {
    on_each_etcd(|etcd| {
        let script = "trap 'echo stopping; exit' TERM; echo runs; while :; do sleep 0.05; done";
        let mut only = start("only", &etcd, script);
        for _ in 0..2 {
            only.wait_for_next("runs");
            etcd.etcdctl(&["del", "leader"]);
            only.wait_for_next("stopping");
        }
        only.wait_for_next("runs");
        assert!(!only.has_ended());
    });
}

#[test]
fn a_command_that_does_not_stop_in_time_is_killed_with_all_that_it_started() {
    let etcd = Etcd::newest();
    let script =
        "trap '' TERM; setsid sh -c 'sleep 60' & echo left $!; while :; do sleep 0.05; done";
    let options = ["--stop-timeout", "700ms"];
    let mut replica = Daemon::spawn("one", shell("one", &etcd, &options, script));
    let left = replica.wait_for_next_start("left ").text()[5..].to_owned();
    replica.signal(Signal::INT);
    let asked = Instant::now();
    assert_eq!(replica.wait_exit().code(), Some(0));
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(700),
        "it was killed after {took:?}"
    );
    assert!(took < TTL, "it was killed after {took:?}");
    assert!(!exists(&left));
    assert_eq!(etcd.leases(), [""; 0]);
}

#[test]
fn a_lost_lease_stops_command_a_grace_before_the_deadline() {
    on_each_etcd(|etcd| {
        let script = "trap 'echo stopping; exit' TERM; echo runs; while :; do sleep 0.02; done";
        let mut replica = Daemon::spawn("one", shell("one", &etcd, &["--grace", "500ms"], script));
        replica.wait_for_next("runs");
        replica.wait_for_next_refreshes(1);
        etcd.freeze();
        let renewed = replica.last(support::daemon::REFRESHED).at;
        let stopping = replica.wait_for_next("stopping").at;
        // The deadline is less than 0.9 TTL after the line about the last renewal.
        let latest = TTL * 9 / 10;
        assert!(
            stopping - renewed < latest,
            "stopping {:?} after the last renewal",
            stopping - renewed
        );
        replica.wait_for_any_start("'sh' has stopped.");
        replica.wait_for_any_start(LOST);
        replica.skip();
        etcd.thaw();
        replica.wait_for_next("runs");
    });
}

#[test]
fn a_second_stop_signal_kills_command_and_all_that_it_started_at_once() {
    let etcd = Etcd::newest();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let script = "trap 'echo stopping' TERM; setsid sleep 60 & echo left $!; while :; do sleep 0.05; done";
        let key = format!("key{code}");
        let mut replica =
            Daemon::spawn("one", shell("one", &etcd, &["--leader-key", &key], script));
        let left = replica.wait_for_next_start("left ").text()[5..].to_owned();
        replica.signal(signal);
        replica.wait_for_next("stopping");
        let_pass(NEXT_REQUEST);
        replica.signal(signal);
        let asked = Instant::now();
        assert_eq!(replica.wait_exit().code(), Some(code));
        assert!(asked.elapsed() < AT_ONCE, "after {:?}", asked.elapsed());
        assert!(!exists(&left));
        assert!(etcd.key(&key).is_some(), "the lease was revoked");
    }
}

#[test]
fn a_daemon_that_was_stopped_for_long_finds_command_dead_and_leads_again() {
    on_each_etcd(|etcd| {
        let record = Record::new();
        let mut command = record.replica("one", &etcd.endpoint(), "stubborn");
        command.stdin(Stdio::null());
        let mut replica = Daemon::spawn("one", command);
        let first = record.wait_for_term_after(0);
        let guard = wait_for_guard(&mut replica).as_raw_nonzero().to_string();
        replica.signal(Signal::STOP);
        poll_until("the guard has killed COMMAND", || {
            let stat = fs::read_to_string(format!("/proc/{guard}/stat")).ok()?;
            stat.contains(") Z ").then_some(())
        });
        let length = fs::metadata(record.path()).unwrap().len();
        let_pass(TTL / 4);
        assert_eq!(
            fs::metadata(record.path()).unwrap().len(),
            length,
            "something still runs"
        );
        replica.signal(Signal::CONT);
        let next = record.wait_for_term_after(first.token);
        assert!(next.token > first.token);
        assert_eq!(record.check(), ["one", "one"]);
    });
}

#[test]
fn processes_that_fork_faster_than_they_are_killed_are_killed_too() {
    let etcd = Etcd::newest();
    // Each process starts another one in a new session, and ends.
    let folder = tempfile::tempdir().unwrap();
    let (file, trace) = (folder.path().join("hop"), folder.path().join("trace"));
    let hop = format!(
        "#!/bin/sh\ntrap '' TERM\necho $$ >>{}\nsetsid {} &\n",
        trace.display(),
        file.display()
    );
    fs::write(&file, hop).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "for i in 1 2 3 4; do {} & done; exec sleep 60",
        file.display()
    );
    let mut replica = start("one", &etcd, &script);
    poll_until("they hop", || {
        let hops = fs::read_to_string(&trace)
            .unwrap_or_default()
            .lines()
            .count();
        (hops >= 100).then_some(())
    });
    replica.signal(Signal::TERM);
    assert_eq!(replica.wait_exit().code(), Some(0));
    let length = fs::metadata(&trace).unwrap().len();
    let_pass(Duration::from_millis(200));
    assert_eq!(
        fs::metadata(&trace).unwrap().len(),
        length,
        "some still run"
    );
}

#[test]
fn the_process_that_revokes_a_dead_daemons_lease_has_a_name_of_its_own() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    let mut replica = command();
    replica.args(["--name", "one", "--etcd", &endpoint, "--ttl", "1m"]);
    replica.args(["--", "sh", "-c", "echo runs; exec sleep 60"]);
    let mut replica = Daemon::spawn("one", replica);
    replica.wait_for_next("runs");
    // The lease cannot be revoked for as long as etcd is frozen, which is tried until it has expired.
    etcd.freeze();
    replica.signal(Signal::KILL);
    let process = poll_until("the lease is being revoked", || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut processes = processes.map(|process| process.path());
        processes.find(|process| {
            let command_line = fs::read(process.join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).into_owned();
            command_line.contains("\0--release\0") && command_line.contains(&endpoint)
        })
    });
    let threads = poll_until("it has its name", || {
        let name = |file: &Path| fs::read_to_string(file).unwrap();
        if name(&process.join("comm")).trim_end() != "leader-revoke" {
            return None;
        }
        let threads = fs::read_dir(process.join("task")).unwrap().flatten();
        Some(
            threads
                .map(|thread| name(&thread.path().join("comm")))
                .collect::<Vec<_>>(),
        )
    });
    assert!(!threads.contains(&"exe\n".to_owned()), "{threads:?}");
    etcd.thaw();
    replica.wait_exit();
}
