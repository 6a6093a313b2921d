//! What `observe -- COMMAND` runs, when, and with what: variables, standard input, output and errors.

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write, pipe};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::daemon::{Daemon, LEADER, Line, Stream, after, json};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::operator::{
    ADDRESS, advertised, at, object, observe, run, wait_for_next_name, wait_for_next_state,
};
use support::proxy::{Link, Proxy, refusing};
use support::{PATIENCE, poll_until, wait_until};

/// The limit for what takes milliseconds, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A COMMAND that prints what it gets.
const PRINT: &str = "echo \"$LEADER_ELECTION_STATE [$LEADER_ELECTION_LEADER] \
                     [$LEADER_ELECTION_ADDRESS] [$LEADER_ELECTION_TOKEN] \
                     [$LEADER_ELECTION_LEADER_KEY]\"; cat";

/// Returns an observer that runs this shell script, whose `$0` is the last argument.
fn reacting(endpoint: &str, script: &str, zero: &str) -> Command {
    at(endpoint, &["observe", "--", "sh", "-c", script, zero])
}

/// Returns a folder, and the path of a file in it that does not exist yet.
fn flag() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("flag").to_str().unwrap().to_owned();
    (folder, flag)
}

/// Returns the lines on standard error, without the time with which each begins.
fn warnings(observer: &Daemon) -> Vec<String> {
    let lines = observer.lines();
    let errors = lines.iter().filter(|line| line.stream == Stream::Err);
    let text = |line: &Line| {
        let text = line.text();
        let (time, text) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z'), "{time}");
        text.to_owned()
    };
    errors.map(text).collect()
}

/// Waits for the next line on standard error that contains this text.
fn wait_for_warning(observer: &mut Daemon, text: &str) -> Line {
    observer.wait_for_next_line(text, |line| {
        line.stream == Stream::Err && line.text().contains(text)
    })
}

#[test]
fn command_runs_for_the_first_state_and_each_change_and_gets_the_state_in_two_ways() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut plain = observe("observer", &endpoint);
        let mut command = reacting(&endpoint, PRINT, "sh");
        // They are those of another process.
        command.env("LEADER_ELECTION_LEADER", "stale");
        command.env("LEADER_ELECTION_TOKEN", "7");
        command.env("LEADER_ELECTION_STATE", "led");
        let mut observer = Daemon::spawn("reacting", command);
        let check = |observer: &mut Daemon, line: &str, expected: Value| {
            observer.wait_for_next(line);
            let mut input = object(&observer.wait_for_next_start("{").text());
            let mut expected = expected.as_object().unwrap().clone();
            for object in [input.as_object_mut().unwrap(), &mut expected] {
                assert!(object.remove("time").is_some_and(|time| time.is_string()));
            }
            assert_eq!(input, Value::Object(expected));
        };
        let vacant = wait_for_next_state(&mut plain, "vacant");
        check(&mut observer, "vacant [] [] [] [leader]", vacant);

        let mut leader = Daemon::spawn("server1", advertised("server1", &endpoint));
        let token = leader.wait_for_next(LEADER).field("token").unwrap();
        let led = wait_for_next_name(&mut plain, "server1");
        let line = format!("led [server1] [{ADDRESS}] [{token}] [leader]");
        check(&mut observer, &line, led);

        leader.signal(Signal::TERM);
        leader.wait_exit();
        let vacant = wait_for_next_state(&mut plain, "vacant");
        check(&mut observer, "vacant [] [] [] [leader]", vacant);
        etcd.put("leader", b"by hand", None);
        let blocked = wait_for_next_state(&mut plain, "blocked");
        check(&mut observer, "blocked [] [] [] [leader]", blocked);
        assert_eq!(warnings(&observer), [""; 0]);
        observer.signal(Signal::TERM);
        assert_eq!(observer.wait_exit().code(), Some(0));
    });
}

#[test]
fn a_variable_holds_the_exact_text_or_nothing_and_the_key_is_the_one_given() {
    let etcd = Etcd::newest();
    let script = "printf %s \"$LEADER_ELECTION_LEADER\" | od -An -v -tx1 | tr -d ' \\n'; \
                  echo \" $LEADER_ELECTION_STATE $LEADER_ELECTION_LEADER_KEY\"; cat";
    let mut command = reacting(&etcd.endpoint(), script, "sh");
    command.env("LEADER_ELECTION_LEADER_KEY", "a/key");
    let mut observer = Daemon::spawn("reacting", command);
    observer.wait_for_next(" vacant a/key");
    let lease = etcd.grant(Duration::from_mins(10));
    let longest = vec![b'n'; 64 * 1024];
    let too_long = vec![b'n'; 300_000];
    for (name, is_in_variable, json) in [
        (&b"\xff\xfe=\x01"[..], true, "\u{fffd}\u{fffd}=\u{1}"),
        (b"a\nb $(false) 'c\"", true, "a\nb $(false) 'c\""),
        (b"a\0b", false, "a\0b"),
        (&longest, true, &"n".repeat(64 * 1024)),
        (&too_long, false, &"n".repeat(300_000)),
        (b"", true, ""),
    ] {
        etcd.put("a/key", name, Some(&lease));
        let shown = if is_in_variable { name } else { b"" };
        let hex: Vec<_> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.concat();
        observer.wait_for_next(&format!("{hex} led a/key"));
        let input = object(&observer.wait_for_next_start("{").text());
        assert_eq!(input["leader"]["name"], json);
        let is_exact = json.as_bytes() == name;
        assert_eq!(input["leader"]["name_is_exact"] != false, is_exact);
    }
    assert_eq!(warnings(&observer), [""; 0]);
}

#[test]
fn command_does_not_get_what_is_meant_for_the_observer_alone() {
    let etcd = Etcd::newest();
    let script = "env; echo done";
    let mut command = reacting(&etcd.endpoint(), script, "sh");
    command
        .args(["sh"])
        .env("LEADER_ELECTION_ETCD_USER", "looker");
    command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
    command.env("NOTIFY_SOCKET", "/nowhere");
    command.env("LISTEN_FDS", "1").env("ANOTHER", "stays");
    let mut observer = Daemon::spawn("reacting", command);
    observer.wait_for_any("done");
    let texts = observer.texts();
    assert!(texts.contains(&"ANOTHER=stays".to_owned()), "{texts:?}");
    for name in ["_PASSWORD=", "NOTIFY_SOCKET=", "LISTEN_FDS="] {
        assert!(!texts.iter().any(|line| line.contains(name)), "{texts:?}");
    }
    wait_for_warning(&mut observer, "Z WARN An etcd user is given, but");
}

#[test]
fn changes_during_a_run_are_merged_into_one_run_for_the_newest_state() {
    on_each_etcd(|etcd| {
        let (_folder, hold) = flag();
        fs::write(&hold, "").unwrap();
        let script = "echo begin $LEADER_ELECTION_LEADER; while [ -e \"$0\" ]; do sleep 0.02; done; \
                      echo end $LEADER_ELECTION_LEADER";
        let command = reacting(&etcd.endpoint(), script, &hold);
        let mut observer = Daemon::spawn("reacting", command);
        observer.wait_for_next("begin");
        let mut plain = observe("observer", &etcd.endpoint());
        let lease = etcd.grant(Duration::from_mins(10));
        for number in 1..=20 {
            etcd.put("leader", format!("server{number}").as_bytes(), Some(&lease));
        }
        wait_for_next_name(&mut plain, "server20");
        fs::remove_file(&hold).unwrap();
        observer.wait_for_next("end server20");
        let texts = observer.texts();
        for pair in texts.chunks(2) {
            let begun = pair[0].strip_prefix("begin").unwrap();
            let ended = pair[1].strip_prefix("end").unwrap();
            assert_eq!(begun, ended, "one run at a time: {texts:?}");
        }
        // The first, the last, and those that began before the last change had arrived.
        assert!(texts.len() / 2 <= 4, "{texts:?}");
    });
}

#[test]
fn a_run_that_fails_is_logged_and_retried_until_it_succeeds() {
    let etcd = Etcd::newest();
    let (folder, broken) = flag();
    fs::write(&broken, "").unwrap();
    let script = "echo run; [ ! -e \"$0\" ] || exit 7; echo done";
    let mut observer = Daemon::spawn("reacting", reacting(&etcd.endpoint(), script, &broken));
    let mut waits = Vec::new();
    for _ in 0..3 {
        let line = wait_for_warning(&mut observer, "'sh' failed").text();
        let (_, wait) = line
            .split_once(" WARN 'sh' failed with exit code 7; trying again in ")
            .unwrap_or_else(|| panic!("{line}"));
        let wait = wait.strip_suffix(" s unless the state changes before.");
        waits.push(wait.unwrap().parse::<f64>().unwrap());
    }
    for (wait, limit) in waits.iter().zip([1.0, 2.0, 4.0]) {
        assert!((limit / 2.0..=limit).contains(wait), "{waits:?}");
    }
    fs::remove_file(&broken).unwrap();
    observer.wait_for_any("done");
    let runs = observer.count("run");
    assert_eq!(runs, 4);

    // A program that can no longer be executed, and one that a signal ends.
    let program = folder.path().join("program");
    let write = |script: &str| {
        let new = folder.path().join("new");
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(&new, &program).unwrap();
    };
    write("echo first");
    let program_name = program.to_str().unwrap();
    let command = at(&etcd.endpoint(), &["observe", "--", program_name]);
    let mut observer = Daemon::spawn("reacting", command);
    observer.wait_for_next("first");
    fs::remove_file(&program).unwrap();
    let lease = etcd.grant(Duration::from_mins(10));
    etcd.put("leader", b"server1", Some(&lease));
    let missing = format!(" WARN cannot run '{program_name}': No such file or directory");
    wait_for_warning(&mut observer, &missing);
    write("kill -9 $$");
    wait_for_warning(&mut observer, "failed with exit code 137; trying again in ");
    write("echo last");
    observer.wait_for_any("last");
}

#[test]
fn a_newer_state_is_run_at_once_after_a_failure() {
    let etcd = Etcd::newest();
    let (_folder, hold) = flag();
    let script = "echo run $LEADER_ELECTION_STATE; [ $LEADER_ELECTION_STATE = vacant ] || exit 0; \
                  [ ! -e \"$0\" ] || { while [ -e \"$0\" ]; do sleep 0.02; done; sleep 1; }; exit 1";
    let mut observer = Daemon::spawn("reacting", reacting(&etcd.endpoint(), script, &hold));
    for _ in 0..3 {
        wait_for_warning(
            &mut observer,
            "'sh' failed with exit code 1; trying again in ",
        );
    }
    // The next try would come two seconds later at the earliest.
    let lease = etcd.grant(Duration::from_mins(10));
    etcd.put("leader", b"server1", Some(&lease));
    let changed = Instant::now();
    let ran = observer.wait_for_any("run led").at;
    let took = ran.saturating_duration_since(changed);
    assert!(took < AT_ONCE, "{took:?}");

    // One that comes during a run that fails. Nothing shows when it has come; the run gives it a second.
    fs::write(&hold, "").unwrap();
    observer.skip();
    etcd.etcdctl(&["del", "leader"]);
    observer.wait_for_next("run vacant");
    let mut plain = observe("observer", &etcd.endpoint());
    wait_for_next_state(&mut plain, "vacant");
    etcd.put("leader", b"server2", Some(&lease));
    wait_for_next_name(&mut plain, "server2");
    fs::remove_file(&hold).unwrap();
    observer.wait_for_next("run led");
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
    let last = warnings(&observer).pop().unwrap();
    let expected = "WARN 'sh' failed with exit code 1; running it for a newer state.";
    assert_eq!(last, expected);
}

#[test]
fn an_outage_of_etcd_is_reported_once_and_no_state_is_lost() {
    let mut etcd = Etcd::absent(&binaries().pop().unwrap());
    let way = Proxy::start(&etcd.endpoint(), Link::Open);
    let script = "echo $LEADER_ELECTION_STATE";
    let mut observer = Daemon::spawn("reacting", reacting(&way.endpoint(), script, "sh"));
    wait_for_warning(&mut observer, " does not respond (");
    assert_eq!(observer.count("vacant"), 0);
    etcd.up();
    wait_until("the first state", PATIENCE, || {
        (observer.count("vacant") == 1).then_some(())
    });
    wait_for_warning(&mut observer, "' responds again.");
    way.set(Link::Cut);
    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    wait_for_warning(&mut observer, " does not respond (");
    way.set(Link::Open);
    observer.wait_for_any("led");
    wait_until("the end of the outage", PATIENCE, || {
        (warnings(&observer).len() == 4).then_some(())
    });
    let endpoint = way.endpoint();
    for (number, warning) in warnings(&observer).iter().enumerate() {
        let expected = [
            format!("WARN etcd at '{endpoint}' does not respond ("),
            format!("WARN etcd at '{endpoint}' responds again."),
        ];
        assert!(warning.starts_with(&expected[number % 2]), "{warning}");
    }
}

#[test]
fn a_command_that_cannot_be_executed_ends_it_before_anything() {
    let etcd = Etcd::newest();
    for endpoint in [etcd.endpoint(), refusing()] {
        for (program, code, error) in [
            (
                "no-such-program",
                127,
                "there is no command 'no-such-program'",
            ),
            (
                "/no/such/program",
                127,
                "there is no command '/no/such/program'",
            ),
            ("", 127, "there is no command ''"),
            ("/etc/passwd", 126, "'/etc/passwd' cannot be executed"),
            ("/", 126, "'/' cannot be executed"),
        ] {
            let run = run(at(&endpoint, &["observe", "--", program]));
            assert_eq!(run.code, code, "{program}");
            assert_eq!(run.err, [format!("error: {error}")]);
            assert!(run.out.is_empty(), "{:?}", run.out);
        }
    }
}

/// Returns an observer whose COMMAND counts its runs in a file.
fn counting(etcd: &Etcd, file: &Path) -> Command {
    let script = "trap '' PIPE; echo run >>\"$0\"; echo output; true";
    reacting(&etcd.endpoint(), script, file.to_str().unwrap())
}

fn wait_for_runs(file: &Path, count: usize) {
    poll_until("COMMAND runs", || {
        let runs = fs::read_to_string(file).unwrap_or_default();
        (runs.lines().count() >= count).then_some(())
    });
}

#[test]
fn a_standard_output_that_is_closed_or_that_nobody_reads_does_not_matter() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let lease = etcd.grant(Duration::from_mins(10));
    let (reader, gone) = pipe().unwrap();
    drop(reader);
    let (mut unread, full) = pipe().unwrap();
    for (name, closing, output) in [
        ("closed", "exec >&-", Stdio::null()),
        ("both closed", "exec >&- 2>&-", Stdio::null()),
        ("gone", "true", gone.into()),
    ] {
        let file = folder.path().join(name);
        let mut command = after(closing, &counting(&etcd, &file));
        command.stdout(output).stderr(Stdio::null());
        let mut observer = Daemon::spawn_with_own_output(name, command);
        wait_for_runs(&file, 1);
        etcd.put("leader", name.as_bytes(), Some(&lease));
        wait_for_runs(&file, 2);
        observer.signal(Signal::TERM);
        assert_eq!(observer.wait_exit().code(), Some(0), "{name}");
    }

    // Both are full from the start, and there is something to warn of.
    let capacity = rustix::pipe::fcntl_setpipe_size(&full, 4096).unwrap();
    let mut writer = full.try_clone().unwrap();
    writer.write_all(&vec![b'x'; capacity]).unwrap();
    drop(writer);
    let file = folder.path().join("full");
    let script = "echo run >>\"$0\"; exit 1";
    let mut command = reacting(&etcd.endpoint(), script, file.to_str().unwrap());
    command.stdout(full.try_clone().unwrap()).stderr(full);
    let mut observer = Daemon::spawn_with_own_output("full", command);
    wait_for_runs(&file, 3);
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
    let mut read = String::new();
    unread.read_to_string(&mut read).unwrap();
    assert_eq!(read, "x".repeat(capacity));
}
