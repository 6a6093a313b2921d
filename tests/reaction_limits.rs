//! How runs of `observe -- COMMAND` end: by their timeout, by signals to the observer, and with what
//! they leave behind.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, Line, Stream, after};
use support::etcd::Etcd;
use support::operator::{at, observe, wait_for_next_name};
use support::{NEXT_REQUEST, let_pass, poll_until};

/// The limit for what takes milliseconds, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a run gets to stop at its timeout.
const TIME_TO_STOP: Duration = Duration::from_secs(2);

/// Starts processes that end at nothing but SIGKILL, one of them in a session of its own, and prints
/// their ids.
const STUBBORN: &str = "trap '' TERM; sleep 60 & echo left $!; \
     setsid sh -c 'sleep 60' & echo left $!; (setsid sh -c 'sleep 60; true' & echo left $!); \
     echo runs; sleep 60; true";

/// Returns an observer that runs this shell script, with these options.
fn reacting(etcd: &Etcd, options: &[&str], script: &str) -> Command {
    let mut command = at(&etcd.endpoint(), &["observe"]);
    command.args(options).args(["--", "sh", "-c", script]);
    command
}

fn exists(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}

/// Returns the ids of the processes that COMMAND has said to leave.
fn left(observer: &Daemon) -> Vec<String> {
    let texts = observer.texts();
    let ids = texts.iter().filter_map(|line| line.strip_prefix("left "));
    ids.map(str::to_owned).collect()
}

/// Ends an observer and its run. Without this, the run would outlive the observer.
fn end(mut observer: Daemon) {
    observer.signal(Signal::TERM);
    let_pass(NEXT_REQUEST);
    // It may have ended already.
    observer.signal(Signal::TERM);
    observer.wait_exit();
}

/// Whether a line is the observer's. The shell prints others, such as `Terminated`.
fn is_warning(line: &Line) -> bool {
    line.stream == Stream::Err && line.text().contains("Z WARN ")
}

/// Returns what the observer has warned of.
fn warnings(observer: &Daemon) -> Vec<String> {
    let lines = observer.lines();
    let warnings = lines.iter().filter(|line| is_warning(line));
    warnings.map(Line::text).collect()
}

#[test]
fn a_run_that_hangs_is_asked_to_stop_and_retried() {
    let etcd = Etcd::newest();
    let script = "trap 'echo cleaned; exit' TERM; sleep 60 & echo runs; wait";
    let command = reacting(&etcd, &["--timeout", "3s"], script);
    let mut observer = Daemon::spawn("reacting", command);
    let began = observer.wait_for_next("runs").at;
    let cleaned = observer.wait_for_next("cleaned").at;
    let took = cleaned - began;
    assert!(took < Duration::from_secs(3) + AT_ONCE, "{took:?}");
    let logged = observer.wait_for_any_line("a warning", is_warning);
    let expected = " WARN 'sh' did not end within 3s, and was stopped with all that it had started; \
                    trying again in ";
    assert!(logged.text().contains(expected), "{}", logged.text());
    let took = logged.at - began;
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(3) + TIME_TO_STOP, "{took:?}");
    observer.wait_for_next("runs");
    end(observer);
}

#[test]
fn a_run_that_does_not_stop_is_killed_with_all_that_it_has_started() {
    let etcd = Etcd::newest();
    let command = reacting(&etcd, &["--timeout", "500ms"], STUBBORN);
    let mut observer = Daemon::spawn("reacting", command);
    let began = observer.wait_for_next("runs").at;
    let ids = left(&observer);
    assert_eq!(ids.len(), 3);
    let logged = observer.wait_for_any_line("a warning", is_warning);
    assert!(logged.text().contains("did not end within 500ms"));
    for id in ids {
        assert!(!exists(&id), "{:?}", observer.texts());
    }
    let took = logged.at - began;
    assert!(took >= TIME_TO_STOP, "{took:?}");
    assert!(took < TIME_TO_STOP + 2 * AT_ONCE, "{took:?}");
    end(observer);
}

#[test]
fn what_a_successful_run_leaves_behind_survives_later_timeouts_and_is_reaped_when_it_ends() {
    let etcd = Etcd::newest();
    // What the first run leaves is a server with a process of its own, and a process that it lets go
    // of later.
    let script = "if [ $LEADER_ELECTION_STATE = vacant ]; then \
                  exec >/dev/null 2>&1; setsid sh -c 'sleep 60; true' & echo $! >\"$0\"; \
                  else trap '' TERM; sleep 60 & echo left $!; echo runs; wait; sleep 60; fi";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server");
    let mut command = reacting(&etcd, &["--timeout", "2s"], script);
    command.arg(&file);
    let mut observer = Daemon::spawn("reacting", command);
    let server = poll_until("it is left", || {
        let id = fs::read_to_string(&file).ok()?;
        id.ends_with('\n').then(|| id.trim().to_owned())
    });
    let children = format!("/proc/{server}/task/{server}/children");
    let child = poll_until("its process", || {
        let children = fs::read_to_string(&children).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    });
    let lease = etcd.grant(Duration::from_mins(10));
    etcd.put("leader", b"server1", Some(&lease));
    observer.wait_for_next("runs");
    let hanging = left(&observer).pop().unwrap();
    // The server ends during the run, so that its process is the observer's own child when the run is
    // killed.
    let kill = |process: &str| {
        let process = Pid::from_raw(process.parse().unwrap()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
    };
    kill(&server);
    poll_until("it is reaped", || (!exists(&server)).then_some(()));
    observer.wait_for_any_line("a warning", |line| {
        line.text().contains("did not end within")
    });
    assert!(!exists(&hanging));
    assert!(exists(&child));
    // Its parent is the observer; nothing else would reap it.
    kill(&child);
    poll_until("it is reaped", || (!exists(&child)).then_some(()));
    end(observer);
}

#[test]
fn a_signal_lets_the_run_finish_and_no_other_begins() {
    let etcd = Etcd::newest();
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let folder = tempfile::tempdir().unwrap();
        let hold = folder.path().join("hold");
        fs::write(&hold, "").unwrap();
        let script = "echo begin; while [ -e \"$0\" ]; do sleep 0.02; done; echo end; exit 7";
        let mut command = reacting(&etcd, &[], script);
        command.arg(&hold);
        let mut observer = Daemon::spawn("reacting", command);
        observer.wait_for_next("begin");
        // A newer state waits.
        let mut plain = observe("observer", &etcd.endpoint());
        let lease = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"server1", Some(&lease));
        wait_for_next_name(&mut plain, "server1");
        observer.signal(signal);
        // Within one request, a second signal changes nothing.
        observer.signal(signal);
        let_pass(Duration::from_millis(100));
        fs::remove_file(&hold).unwrap();
        assert_eq!(observer.wait_exit().code(), Some(0), "{signal:?}");
        assert_eq!(observer.count("begin"), 1);
        assert_eq!(observer.count("end"), 1);
        let warnings = warnings(&observer);
        let expected = " WARN 'sh' failed with exit code 7; not trying again, but stopping.";
        assert!(
            matches!(&warnings[..], [one] if one.ends_with(expected)),
            "{warnings:?}"
        );
        etcd.etcdctl(&["del", "leader"]);
    }
}

#[test]
fn the_timeout_bounds_how_long_a_signal_waits_for_the_run() {
    let etcd = Etcd::newest();
    let command = reacting(&etcd, &["--timeout", "1s"], STUBBORN);
    let mut observer = Daemon::spawn("reacting", command);
    observer.wait_for_next("runs");
    let asked = Instant::now();
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
    let took = asked.elapsed();
    let limit = Duration::from_secs(1) + TIME_TO_STOP + AT_ONCE;
    assert!(took > TIME_TO_STOP && took < limit, "{took:?}");
    let warnings = warnings(&observer);
    let expected = "; not trying again, but stopping.";
    assert!(
        matches!(&warnings[..], [one] if one.ends_with(expected)),
        "{warnings:?}"
    );
    for id in left(&observer) {
        assert!(!exists(&id));
    }
}

#[test]
fn a_second_signal_kills_the_run_at_once() {
    let etcd = Etcd::newest();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut observer = Daemon::spawn("reacting", reacting(&etcd, &[], STUBBORN));
        observer.wait_for_next("runs");
        observer.signal(Signal::TERM);
        let_pass(NEXT_REQUEST);
        assert!(!observer.has_ended());
        let asked = Instant::now();
        observer.signal(signal);
        assert_eq!(observer.wait_exit().code(), Some(code));
        let took = asked.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        let ids = left(&observer);
        assert_eq!(ids.len(), 3);
        for id in ids {
            assert!(!exists(&id));
        }
    }
}

#[test]
fn without_a_run_a_signal_ends_it_at_once() {
    let etcd = Etcd::newest();
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
    ] {
        // In the wait after a failure, and in the wait for a change.
        for script in ["echo runs; exit 1", "echo runs"] {
            let mut observer = Daemon::spawn("reacting", reacting(&etcd, &[], script));
            observer.wait_for_next("runs");
            if script.ends_with('1') {
                observer.wait_for_any_line("a failure", is_warning);
            }
            let asked = Instant::now();
            observer.signal(signal);
            assert_eq!(observer.wait_exit().code(), Some(0), "{signal:?}");
            assert!(asked.elapsed() < AT_ONCE);
        }
    }
}

#[test]
fn under_nohup_a_hangup_stops_neither_it_nor_command() {
    let etcd = Etcd::newest();
    let script = "grep SigIgn /proc/self/status; echo $LEADER_ELECTION_STATE";
    let command = after("trap '' HUP", &reacting(&etcd, &[], script));
    let mut observer = Daemon::spawn("reacting", command);
    let ignored = observer.wait_for_next_start("SigIgn:").text();
    assert!(ignored.ends_with("0000001"), "{ignored}");
    observer.wait_for_next("vacant");
    observer.signal(Signal::HUP);
    let lease = etcd.grant(Duration::from_mins(10));
    etcd.put("leader", b"server1", Some(&lease));
    observer.wait_for_next("led");
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
}

#[test]
fn command_has_a_process_group_of_its_own_and_default_signals() {
    let etcd = Etcd::newest();
    let script = "read -r _ _ _ _ group _ </proc/$$/stat; echo \"$$ is in $group\"; \
                  grep -E 'Sig(Blk|Ign)' /proc/self/status; echo done";
    let mut observer = Daemon::spawn("reacting", reacting(&etcd, &[], script));
    observer.wait_for_next("done");
    let texts = observer.texts();
    let (process, group) = texts[0].split_once(" is in ").unwrap();
    assert_eq!(process, group, "{texts:?}");
    for line in &texts[1..3] {
        let signals = u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        // Real-time signals don't matter.
        assert_eq!(signals & 0x7fff_ffff, 0, "{texts:?}");
    }
}
