//! The log and the help: formats and filters; and that no reader of the log, slow or absent, affects
//! the election.

use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::daemon::{
    Daemon, EVERYTHING, FOLLOWER, LEADER, LEADER_STOPS, LOST, Line, REFRESHED, Stream, command,
    json, plain,
};
use support::etcd::Etcd;
use support::etcdctl::Key;
use support::{NEXT_REQUEST, PATIENCE, TTL, let_pass};

/// Runs the program until it exits with 0. Returns what it printed on standard output.
fn output(args: &[&str]) -> String {
    let mut run = Daemon::spawn(&args.join(" "), {
        let mut command = command();
        command.args(args);
        command
    });
    assert_eq!(run.wait_exit().code(), Some(0));
    assert!(run.lines().iter().all(|line| line.stream == Stream::Out));
    run.messages().join("\n")
}

#[test]
fn the_version_is_printed() {
    let version = format!("leader-election {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(output(&["--version"]), version);
    assert_eq!(output(&["-V"]), version);
}

#[test]
fn the_help_names_every_option_its_variable_and_its_default() {
    let help = output(&["--help"]);
    for (option, variable) in [
        ("name", "NAME"),
        ("etcd", "ETCD"),
        ("leader-key", "LEADER_KEY"),
        ("ttl", "TTL"),
        ("log-filter", "LOG"),
        ("log-format", "LOG_FORMAT"),
    ] {
        assert!(help.contains(&format!("--{option} ")), "{option}: {help}");
        let variable = format!("LEADER_ELECTION_{variable}]");
        assert!(help.contains(&variable), "{variable}: {help}");
    }
    for word in [
        "127.0.0.1:2379",
        "5s",
        "[default: leader]",
        "RUST_LOG",
        "plain",
        "text",
        "json",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let (_, examples) = help.split_once("Examples").expect("examples");
    assert!(examples.contains("leader-election --"), "{examples}");
    let short = output(&["-h"]);
    // It is aligned in columns, so that it may have more characters.
    let lines = |text: &str| text.lines().count();
    assert!(short.contains("--etcd") && lines(&short) < lines(&help));
}

#[test]
fn plain_lines_are_the_message_alone_and_warnings_go_to_standard_error() {
    let etcd = Etcd::newest();
    let mut leader = Daemon::spawn("server1", plain("server1", &etcd.endpoint()));
    leader.wait_for_next_refreshes(1);
    assert!(
        leader.lines().iter().all(|line| line.stream == Stream::Out),
        "there is nothing to warn about"
    );
    etcd.freeze();
    let warning = leader.wait_for_next_line("a warning", |line| line.text().starts_with("WARN "));
    assert_eq!(warning.stream, Stream::Err);
    for line in leader.lines() {
        let is_warning = line.text().starts_with("WARN ") || line.text().starts_with("ERROR ");
        assert_eq!(is_warning, line.stream == Stream::Err, "{}", line.text());
    }
}

#[test]
fn text_lines_have_a_time_a_level_and_fields() {
    let etcd = Etcd::newest();
    let mut command = plain("server1", &etcd.endpoint());
    command.args(["--log-format", "text"]);
    let mut leader = Daemon::spawn("server1", command);
    let line = leader
        .wait_for_next_line("the line that it leads", |line| {
            line.text().contains(LEADER)
        })
        .text();
    let time = line.split(' ').next().unwrap();
    assert!(
        time.starts_with("20") && time.contains('T') && time.ends_with('Z'),
        "{line}"
    );
    assert!(line.contains(" INFO "), "{line}");
    let key = etcd.key("leader").unwrap();
    for field in [
        format!("token={}", key.mod_revision),
        format!("lease={}", key.lease.unwrap()),
    ] {
        assert!(line.contains(&field), "{field}: {line}");
    }
    assert!(
        !line.contains('\u{1b}'),
        "there are no colours in a pipe: {line}"
    );
}

#[test]
fn json_lines_are_objects_with_the_fields_of_the_event() {
    let etcd = Etcd::newest();
    let mut leader = Daemon::spawn("leader", json("leader", &etcd.endpoint()));
    let elected = leader.wait_for_next(LEADER);
    let mut follower = Daemon::spawn("follower", json("follower", &etcd.endpoint()));
    let following = follower.wait_for_next(FOLLOWER);
    let refreshed = leader.wait_for_next_refreshes(1);
    let key = etcd.key("leader").unwrap();
    etcd.etcdctl(&["del", "leader"]);
    let lost = leader.wait_for_next_start(LOST);

    for line in [&elected, &refreshed, &lost] {
        assert_eq!(line.field("name").as_deref(), Some("leader"));
        assert_eq!(line.field("lease"), key.lease);
        assert_eq!(
            line.json().unwrap()["token"].as_u64(),
            Some(key.mod_revision)
        );
    }
    assert_eq!(
        elected.json().unwrap()["ttl"]
            .to_string()
            .trim_matches('"')
            .trim_end_matches('s'),
        "2"
    );
    for line in [&elected, &refreshed] {
        // From the send of the renewal, a part of the TTL ago, to the margin before its end.
        let field = |name| humantime::parse_rfc3339(&line.field(name).unwrap()).unwrap();
        let left = field("acts_until").duration_since(field("timestamp"));
        assert!(left.unwrap() <= TTL * 9 / 10, "{}", line.text());
    }
    let reason = lost.field("reason").unwrap();
    assert_eq!(lost.message(), format!("{LOST}{reason}."));
    assert_eq!(following.field("name").as_deref(), Some("follower"));
    assert_eq!(following.field("leader").as_deref(), Some("leader"));

    for daemon in [&mut leader, &mut follower] {
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit().code(), Some(0));
        for line in daemon.lines() {
            assert_eq!(line.stream, Stream::Out, "{}", line.text());
            let object = line.json().expect("an object");
            for field in ["timestamp", "level", "message", "name"] {
                assert!(object[field].is_string(), "{field}: {object}");
            }
        }
    }
}

#[test]
fn the_refresh_lines_can_be_silenced_alone() {
    let etcd = Etcd::newest();
    let start = |key: &str, set: fn(&mut Command)| {
        let mut command = plain(key, &etcd.endpoint());
        command.args(["--leader-key", key]);
        set(&mut command);
        Daemon::spawn(key, command)
    };
    let mut silenced = [
        start("option", |c| {
            c.args(["--log-filter", "info,leader_election::refresh=warn"]);
        }),
        start("alias", |c| {
            c.args(["--log", "info,leader_election::refresh=warn"]);
        }),
        start("variable", |c| {
            c.env("LEADER_ELECTION_LOG", "info,leader_election::refresh=warn");
        }),
        start("fallback", |c| {
            c.env("RUST_LOG", "info,leader_election::refresh=off");
        }),
        start("variable over fallback", |c| {
            c.env("LEADER_ELECTION_LOG", "info,leader_election::refresh=warn");
            c.env("RUST_LOG", "info");
        }),
        start("option over variable", |c| {
            c.args(["--log-filter", "info,leader_election::refresh=warn"]);
            c.env("LEADER_ELECTION_LOG", "info").env("RUST_LOG", "info");
        }),
    ];
    let mut loud = start("loud", |_| {});
    for leader in &mut silenced {
        leader.wait_for_next(LEADER);
    }
    loud.wait_for_next_refreshes(5);
    for leader in &mut silenced {
        leader.signal(Signal::TERM);
        assert_eq!(leader.wait_exit().code(), Some(0));
        assert_eq!(
            leader.messages(),
            [
                &format!("Starting the server '{}'", leader.name),
                &format!("Connecting to etcd at '{}'", etcd.endpoint()),
                "New leader election happening.",
                LEADER,
                LEADER_STOPS,
            ]
        );
    }
}

#[test]
fn a_bare_level_is_for_the_programs_own_lines_and_a_pair_reaches_a_dependency() {
    let mut etcd = Etcd::newest();
    let mut leader = Daemon::spawn("leader", plain("leader", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    let start = |name: &str, set: fn(&mut Command)| {
        let mut command = json(name, &etcd.endpoint());
        set(&mut command);
        let mut replica = Daemon::spawn(name, command);
        replica.wait_for_next(FOLLOWER);
        replica
    };
    let quiet = [
        start("option", |c| {
            c.args(["--log-filter", "trace"]);
        }),
        start("variable", |c| {
            c.env("LEADER_ELECTION_LOG", "debug");
        }),
        start("fallback", |c| {
            c.env("RUST_LOG", "trace");
        }),
    ];
    let loud = [
        start("pair", |c| {
            c.args(["--log-filter", "h2=trace, info,"]);
        }),
        start("fallback with a pair", |c| {
            c.env("RUST_LOG", "debug,h2=debug");
        }),
    ];
    let of_dependencies = |replica: &Daemon| {
        let mut lines = replica.lines();
        lines.retain(|line| {
            let is_own = OWN_DEBUG_LINES.contains(&&*line.message());
            let level = line.field("level");
            matches!(level.as_deref(), Some("DEBUG" | "TRACE")) && !is_own
        });
        lines.iter().map(Line::text).collect::<Vec<_>>()
    };
    for replica in &loud {
        assert!(!of_dependencies(replica).is_empty(), "{}", replica.name);
    }
    etcd.kill();
    for replica in &quiet {
        for own in OWN_DEBUG_LINES {
            replica.wait_for_any(own);
        }
        let lines = of_dependencies(replica);
        assert!(lines.is_empty(), "{}: {lines:?}", replica.name);
    }
}

/// What a follower of a leader that dies with its etcd logs at the level debug.
const OWN_DEBUG_LINES: [&str; 2] = ["Granted a lease.", "The watch ended."];

#[test]
fn a_filter_for_warnings_leaves_only_warnings() {
    let etcd = Etcd::newest();
    etcd.freeze();
    let mut command = plain("server1", &etcd.endpoint());
    command.args(["--log-filter", "warn"]);
    let mut replica = Daemon::spawn("server1", command);
    let warning = replica.wait_for_next_line("a warning", Line::is_warning);
    assert_eq!(warning.stream, Stream::Err);
    assert_eq!(replica.messages(), [""; 0]);
}

/// Waits until a candidate whose log cannot be read leads. Returns its key.
fn key_once_it_leads(etcd: &Etcd, key: &str) -> Key {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = etcd.key(key).filter(|found| found.value == key.as_bytes()) {
            return found;
        }
        assert!(Instant::now() < end, "it never led");
    }
}

/// Checks that a leader whose output nobody reads keeps leading, and stops in order.
fn assert_leads_on_and_stops(etcd: &Etcd, key: &str, mut leader: Daemon) {
    let term = key_once_it_leads(etcd, key);
    let_pass(TTL * 3 + TTL / 2);
    assert_eq!(etcd.key(key), Some(term), "the term has changed");
    assert!(!leader.has_ended());
    leader.signal(Signal::TERM);
    let signalled = Instant::now();
    assert_eq!(leader.wait_exit().code(), Some(0));
    assert!(
        signalled.elapsed() < TTL,
        "it ended after {:?}",
        signalled.elapsed()
    );
    assert_eq!(etcd.key(key), None);
    assert_eq!(etcd.key(&format!("{key}/acting")), None);
}

/// Returns a candidate for the key that has its name.
fn candidate(etcd: &Etcd, key: &str, format: &str) -> Command {
    let mut command = plain(key, &etcd.endpoint());
    command.args([
        "--leader-key",
        key,
        "--log-format",
        format,
        "--log-filter",
        EVERYTHING,
    ]);
    command
}

/// Returns a pipe that is full, so that writing one more byte blocks.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (read, mut write) = pipe().unwrap();
    let size = rustix::pipe::fcntl_getpipe_size(&write).unwrap();
    write.write_all(&vec![b'.'; size]).unwrap();
    (read, write)
}

#[test]
fn a_blocked_output_neither_delays_nor_ends_the_election() {
    let etcd = Etcd::newest();
    std::thread::scope(|scope| {
        for format in ["plain", "text", "json"] {
            for both in [false, true] {
                let etcd = &etcd;
                scope.spawn(move || {
                    let key = format!("{format} {both}");
                    let (reader, full) = full_pipe();
                    let mut command = candidate(etcd, &key, format);
                    let stderr = if both {
                        full.try_clone().unwrap().into()
                    } else {
                        Stdio::null()
                    };
                    command.stdout(full).stderr(stderr);
                    let leader = Daemon::spawn_with_own_output(&key, command);
                    assert_leads_on_and_stops(etcd, &key, leader);
                    drop(reader);
                });
            }
        }
    });
}

#[test]
fn a_second_signal_does_not_wait_for_a_blocked_output() {
    let etcd = Etcd::newest();
    let (reader, full) = full_pipe();
    let mut command = candidate(&etcd, "leader", "plain");
    command.stdout(full.try_clone().unwrap()).stderr(full);
    let mut leader = Daemon::spawn_with_own_output("leader", command);
    key_once_it_leads(&etcd, "leader");
    etcd.freeze();
    leader.signal(Signal::TERM);
    // It waits because its lease cannot be revoked.
    let_pass(NEXT_REQUEST);
    let before = Instant::now();
    leader.signal(Signal::INT);
    assert_eq!(leader.wait_exit().code(), Some(130));
    assert!(
        before.elapsed() < Duration::from_millis(500),
        "{:?}",
        before.elapsed()
    );
    etcd.thaw();
    drop(reader);
}

#[test]
fn filters_that_are_empty_or_of_another_kind_leave_the_default() {
    let etcd = Etcd::newest();
    for (variable, value, warnings) in [
        ("LEADER_ELECTION_LOG", "", 0),
        ("RUST_LOG", "", 0),
        ("RUST_LOG", "info,foo[span{a=1}]=debug", 1),
    ] {
        let mut command = plain("leader", &etcd.endpoint());
        command.env(variable, value);
        let mut leader = Daemon::spawn("leader", command);
        leader.wait_for_next(LEADER);
        leader.signal(Signal::TERM);
        assert_eq!(leader.wait_exit().code(), Some(0));
        assert_eq!(leader.warnings().len(), warnings, "{variable}={value}");
        assert_eq!(leader.count(LEADER_STOPS), 1, "{variable}={value}");
    }
}

#[test]
fn a_closed_or_full_output_neither_delays_nor_ends_the_election() {
    let etcd = Etcd::newest();
    std::thread::scope(|scope| {
        let etcd = &etcd;
        scope.spawn(|| {
            // As `| head -1` does: it reads one line and closes the pipe.
            let (reader, writer) = pipe().unwrap();
            let mut command = candidate(etcd, "head", "plain");
            command.stdout(writer).stderr(Stdio::null());
            let leader = Daemon::spawn_with_own_output("head", command);
            let mut line = String::new();
            BufReader::with_capacity(1, reader)
                .read_line(&mut line)
                .unwrap();
            assert!(!line.is_empty());
            assert_leads_on_and_stops(etcd, "head", leader);
        });
        scope.spawn(|| {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            let mut command = candidate(etcd, "broken", "json");
            command.stdout(writer.try_clone().unwrap()).stderr(writer);
            assert_leads_on_and_stops(
                etcd,
                "broken",
                Daemon::spawn_with_own_output("broken", command),
            );
        });
        scope.spawn(|| {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let mut command = candidate(etcd, "disk full", "text");
            command.stdout(full.try_clone().unwrap()).stderr(full);
            assert_leads_on_and_stops(
                etcd,
                "disk full",
                Daemon::spawn_with_own_output("full", command),
            );
        });
        scope.spawn(|| {
            let inner = candidate(etcd, "none", "plain");
            let mut shell = Command::new("sh");
            shell
                .args(["-c", r#"exec "$0" "$@" >&- 2>&- <&-"#])
                .arg(inner.get_program());
            shell
                .args(inner.get_args())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            assert_leads_on_and_stops(etcd, "none", Daemon::spawn_with_own_output("none", shell));
        });
    });
}

#[test]
fn a_reader_that_pauses_finds_whole_lines_and_every_role() {
    let etcd = Etcd::newest();
    std::thread::scope(|scope| {
        for format in ["plain", "json"] {
            let etcd = &etcd;
            scope.spawn(move || assert_a_late_reader_finds_whole_lines(etcd, format));
        }
    });
}

fn assert_a_late_reader_finds_whole_lines(etcd: &Etcd, format: &str) {
    let (reader, full) = full_pipe();
    let mut command = candidate(etcd, format, format);
    command.stdout(full).stderr(Stdio::null());
    let mut leader = Daemon::spawn_with_own_output(format, command);
    // Long enough to lose lines.
    let_pass(TTL * 3);

    let (sender, read) = channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n') {
            let line = String::from_utf8(line.unwrap()).unwrap();
            sender
                .send(line.trim_start_matches('.').to_owned())
                .unwrap();
        }
    });
    let mut lines = Vec::new();
    while !lines
        .last()
        .is_some_and(|line: &String| line.contains("were lost"))
    {
        lines.push(
            read.recv_timeout(PATIENCE)
                .expect("a line that says that lines were lost"),
        );
    }
    leader.signal(Signal::TERM);
    lines.extend(read);
    reading.join().unwrap();
    assert_eq!(leader.wait_exit().code(), Some(0));
    if format == "json" {
        for line in &mut lines {
            let object: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            // Some crates trace events without a message.
            let message = object["message"].as_str().unwrap_or_default();
            message.clone_into(line);
        }
    }
    for line in [
        &format!("Starting the server '{format}'"),
        LEADER,
        REFRESHED,
        LEADER_STOPS,
    ] {
        assert!(lines.iter().any(|it| it == line), "{line} is missing");
    }
}
