//! examples/demo.sh: the demo without containers.

use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;
use support::etcd::binaries;
use support::process::Process;
use support::{processes_with, project};
use tempfile::TempDir;

/// The demo, in a temporary folder of its own.
struct Demo {
    process: Process,
    folder: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// Starts it in an environment that this changes.
    fn start_with(args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut script = Command::new(project("examples/demo.sh"));
        script
            .args(args)
            .env("ETCD", binaries().pop().unwrap())
            .env("DEMO_BINARY", env!("CARGO_BIN_EXE_leader-election"))
            .env("TMPDIR", folder.path())
            // A user's own, for other programs.
            .env("RUST_LOG", "off");
        change(&mut script);
        let process = Process::spawn_script(&mut script);
        Self { process, folder }
    }

    /// Waits until any line ends in this; returns what is before.
    fn wait_for_any_end(&self, end: &str) -> String {
        self.process.wait_until_lines(end, |lines| {
            lines
                .iter()
                .find_map(|line| line.strip_suffix(end).map(str::to_owned))
        })
    }

    /// Waits for its end, and checks that nothing is left behind.
    fn end(mut self) -> (i32, Vec<String>) {
        let (status, lines) = self.process.finish();
        let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let address = lines[0].strip_prefix("etcd serves at ").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        for text in [address, folder] {
            assert_eq!(processes_with(text), [""; 0], "still running");
        }
        (status.code().unwrap(), lines)
    }
}

#[test]
fn a_round_kills_the_leader_and_reports_how_long_nobody_led() {
    let mut demo = Demo::start(&["--rounds", "1"]);
    demo.process.wait_for_next_start("Bringing ");
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
fn without_an_etcd_on_the_path_it_starts_the_one_that_is_fetched() {
    // All that a script needs, and no etcd.
    let path = TempDir::new().unwrap();
    for program in fs::read_dir("/usr/bin")
        .unwrap()
        .chain(fs::read_dir("/bin").unwrap())
    {
        let program = program.unwrap();
        if program.file_name() != "etcd" {
            // Where one folder is a link to the other, all are there twice.
            let _ = symlink(program.path(), path.path().join(program.file_name()));
        }
    }
    let cache = TempDir::new().unwrap();
    let fetched = cache.path().join("leader-election-tests/etcd-sid");
    fs::create_dir_all(&fetched).unwrap();
    symlink(binaries().pop().unwrap(), fetched.join("etcd")).unwrap();

    let demo = Demo::start_with(&[], |script| {
        script
            .env_remove("ETCD")
            .env("PATH", path.path())
            .env("XDG_CACHE_HOME", cache.path());
    });
    demo.wait_for_any_end(" I am the leader.");
    demo.process.signal(Signal::INT);
    assert_eq!(demo.end().0, 130);
}
