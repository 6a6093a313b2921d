//! examples/demo.sh: the demo without containers.
#[path = "support/process.rs"]
mod process;

use process::{PATIENCE, Process, project};
use rustix::process::Signal;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The newest etcd at hand.
fn etcd() -> PathBuf {
    match env::var_os("TEST_ETCDS").filter(|list| !list.is_empty()) {
        Some(list) => env::split_paths(&list).last(),
        None => env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join("etcd"))
            .find(|file| file.is_file()),
    }
    .expect("this test needs an etcd: run tests/run.sh, which fetches it")
}

/// The demo, in a temporary folder of its own.
struct Demo {
    process: Process,
    folder: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let process = Process::start(
            Command::new(project("examples/demo.sh"))
                .args(args)
                .env("ETCD", etcd())
                .env("DEMO_BINARY", env!("CARGO_BIN_EXE_leader-election"))
                .env("TMPDIR", folder.path()),
        );
        Self { process, folder }
    }

    /// Waits for a line that ends in this, and returns what is before.
    fn wait_for_any_end(&self, end: &str) -> String {
        self.process.wait_until_lines(end, |lines| {
            lines
                .iter()
                .find_map(|line| line.strip_suffix(end).map(str::to_owned))
        })
    }

    /// Waits for its end, and sees that nothing is left behind.
    fn end(mut self) -> (i32, Vec<String>) {
        let (status, lines) = self.process.wait_end(PATIENCE);
        let transcript = lines.join("\n");
        let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(
            left.is_empty(),
            "left behind: {left:?}, after\n{transcript}"
        );
        let address = lines[0]
            .strip_prefix("etcd serves at ")
            .unwrap_or_else(|| panic!("{transcript}"));
        let folder = self.folder.path().to_str().unwrap();
        for process in fs::read_dir("/proc").unwrap() {
            // What is no process, or has ended meanwhile, has no such file.
            let words =
                fs::read_to_string(process.unwrap().path().join("cmdline")).unwrap_or_default();
            assert!(
                !words.contains(address) && !words.contains(folder),
                "still running: {words:?}, after\n{transcript}"
            );
        }
        (status.code().unwrap(), lines)
    }
}

#[test]
fn a_round_kills_the_leader_and_tells_how_long_nobody_led() {
    let demo = Demo::start(&["--rounds", "1"]);
    demo.process.wait_until_lines("the round", |lines| {
        lines
            .iter()
            .any(|line| line.starts_with("Bringing "))
            .then_some(())
    });
    let (code, lines) = demo.end();
    let transcript = lines.join("\n");
    assert_eq!(code, 0, "{transcript}");
    let said = |line: &str| {
        lines
            .iter()
            .position(|said| said == line)
            .unwrap_or_else(|| panic!("no {line:?} in\n{transcript}"))
    };
    let said_after = |from: usize, line: &str| {
        assert!(
            lines[from..].iter().any(|said| said == line),
            "no {line:?} after line {from} in\n{transcript}"
        );
    };

    let killing = lines
        .iter()
        .position(|line| line.starts_with("Killing "))
        .unwrap_or_else(|| panic!("{transcript}"));
    let killed = lines[killing]
        .trim_start_matches("Killing ")
        .trim_end_matches('.');
    assert!(
        said(&format!("{killed}_1  | I am the leader.")) < killing,
        "{transcript}"
    );
    assert_eq!(
        lines[killing + 1],
        format!("{killed} exited with code 137"),
        "{transcript}"
    );

    let measured = lines
        .iter()
        .find_map(|line| line.strip_prefix("Nobody led for ")?.strip_suffix('.'))
        .unwrap_or_else(|| panic!("{transcript}"));
    let (time, names) = measured.split_once(" ms, from the kill of ").unwrap();
    let (victim, successor) = names.split_once(" to ").unwrap();
    assert_eq!(victim, killed, "{transcript}");
    assert!(
        successor.starts_with("server") && successor != killed,
        "{transcript}"
    );
    said_after(
        killing,
        &format!("{successor}_1  | LEADERSHIP CHANGE REQUIRED"),
    );
    said_after(killing, &format!("{successor}_1  | I am the leader."));
    // The lease, renewed within the second before the kill, runs 5 s.
    let time = Duration::from_millis(time.parse().unwrap());
    assert!(
        time > Duration::from_secs(3) && time < Duration::from_secs(10),
        "{transcript}"
    );

    said_after(
        said(&format!("Bringing {killed} back.")),
        &format!("{killed}_1  | I am a follower."),
    );
    said_after(
        killing,
        &format!("{successor}_1  | Revoking lease; no longer the leader."),
    );
    assert!(
        !transcript.contains('\x1b'),
        "colours, though not on a terminal"
    );
}

#[test]
fn ctrl_c_stops_the_replicas_in_order_and_leaves_nothing_behind() {
    let demo = Demo::start(&[]);
    let leader = demo.wait_for_any_end(" I am the leader.");
    demo.process.wait_until_lines("two followers", |lines| {
        let followers = lines
            .iter()
            .filter(|line| line.ends_with(" I am a follower."));
        (followers.count() == 2).then_some(())
    });
    demo.process.signal(Signal::INT);
    let (code, lines) = demo.end();
    let transcript = lines.join("\n");
    assert_eq!(code, 130, "{transcript}");
    assert!(
        lines.contains(&format!("{leader} Revoking lease; no longer the leader.")),
        "{transcript}"
    );
    let followers = lines
        .iter()
        .filter(|line| line.ends_with(" Revoking lease; no longer a candidate."))
        .count();
    assert_eq!(followers, 2, "{transcript}");
}

#[test]
fn an_absent_etcd_is_named_with_its_package() {
    let script = project("examples/demo.sh");
    let (status, lines) = Process::start(
        Command::new("/bin/bash")
            .arg(script)
            .env_remove("ETCD")
            .env("PATH", "/nowhere"),
    )
    .wait_end(PATIENCE);
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert_eq!(
        lines,
        [
            "demo.sh: there is no etcd on the PATH. On Debian: apt-get install etcd-server. Or name one: ETCD=/path/to/etcd"
        ]
    );
}
