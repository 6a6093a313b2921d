//! The example of a job that runs once: three containers, each of which serves after one of them has
//! migrated.

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::PATIENCE;
use support::compose::{Compose, binaries, docker, inspect, poll_docker};
use support::daemon::FOLLOWER;
use support::process::run;
use tempfile::NamedTempFile;

const REPLICAS: [&str; 3] = ["replica1", "replica2", "replica3"];

/// How a replica begins to say that it migrates, that it has migrated, and that it serves.
const MIGRATES: &str = "migrating to release ";
const MIGRATED: &str = "migrated to release ";
const SERVES: &str = "serving release ";

/// A stop that takes longer has not reached the program: docker kills it after 25 s.
const STOP: Duration = Duration::from_secs(10);

/// The exit code of a replica that was stopped before the migration was done.
const STOPPED: &str = "143";

/// A migration that lasts until the test says so, and ends with the code that the test gives.
const CONTROLLED_MIGRATION: &str = "
      MIGRATE: |
        echo \"migrating to release $$RELEASE\"
        until [ -e /tmp/code ]; do sleep 0.1; done
        code=$$(cat /tmp/code); rm /tmp/code; exit $$code
";

/// A container of the example.
struct Replica {
    container: String,
}

impl Replica {
    /// Counts how often it has said a line that begins like this, in all its runs.
    fn count(&self, start: &str) -> usize {
        let lines = docker(&["logs", &self.container]);
        lines.iter().filter(|line| line.starts_with(start)).count()
    }

    fn wait_for(&self, start: &str, times: usize) {
        poll_docker(&format!("{start:?} {times} times"), || {
            let count = self.count(start);
            assert!(count <= times, "{start:?} {count} times");
            (count == times).then_some(())
        });
    }

    /// Lets the controlled migration end.
    fn end_migration(&self, code: u8) {
        let end = format!("echo {code} >/tmp/new && mv /tmp/new /tmp/code");
        docker(&["exec", &self.container, "sh", "-c", &end]);
    }

    /// Stops it, which must not take long; returns its exit code.
    fn stop(&self) -> String {
        let asked = Instant::now();
        docker(&["stop", &self.container]);
        let took = asked.elapsed();
        assert!(took < STOP, "stopping took {took:?}");
        inspect(&self.container, "{{.State.ExitCode}}")
    }
}

/// Brings up all three replicas of a release, with further arguments before `up`.
fn up(compose: &Compose, release: &str, args: &[&str]) -> Vec<Replica> {
    let mut command = compose.command(&[args, &["up", "--detach"]].concat());
    run(command.env("RELEASE", release), PATIENCE);
    let replica = |service: &&str| Replica {
        container: compose.container(service),
    };
    REPLICAS.iter().map(replica).collect()
}

fn count(replicas: &[Replica], start: &str) -> usize {
    replicas.iter().map(|replica| replica.count(start)).sum()
}

/// Waits until each of these has begun to serve this often, in all its runs.
fn wait_until_all_serve(replicas: &[Replica], times: usize) {
    for replica in replicas {
        replica.wait_for(SERVES, times);
    }
}

/// Waits until one of these, the last one that it returns, has begun to migrate.
fn wait_for_migration(mut replicas: Vec<Replica>) -> Vec<Replica> {
    let migrating = poll_docker("a migration", || {
        let migrates = |replica: &Replica| replica.count(MIGRATES) > 0;
        replicas.iter().position(migrates)
    });
    let migrating = replicas.remove(migrating);
    replicas.push(migrating);
    replicas
}

fn migrates_once_per_release(binary: &Path) {
    let compose = Compose::once(binary);
    let replicas = up(&compose, "1", &[]);
    wait_until_all_serve(&replicas, 1);
    let migrations = |replicas: &[Replica]| (count(replicas, MIGRATES), count(replicas, MIGRATED));
    assert_eq!(migrations(&replicas), (1, 1));

    for replica in &replicas {
        assert_eq!(replica.stop(), "0");
    }
    let replicas = up(&compose, "1", &[]);
    wait_until_all_serve(&replicas, 2);
    assert_eq!(migrations(&replicas), (1, 1));

    compose.run(&[&["rm", "--stop", "--force"], &REPLICAS[..]].concat());
    let replicas = up(&compose, "1", &[]);
    wait_until_all_serve(&replicas, 1);
    assert_eq!(migrations(&replicas), (0, 0));

    let replicas = up(&compose, "2", &[]);
    wait_until_all_serve(&replicas, 1);
    assert_eq!(migrations(&replicas), (1, 1));

    // The former release has a record of its own.
    let replicas = up(&compose, "1", &[]);
    wait_until_all_serve(&replicas, 1);
    assert_eq!(migrations(&replicas), (0, 0));
}

#[test]
fn one_replica_migrates_once_per_release_and_all_serve() {
    thread::scope(|scope| {
        for binary in binaries() {
            scope.spawn(move || migrates_once_per_release(&binary));
        }
    });
}

fn another_migrates(binary: &Path) {
    let compose = Compose::once(binary);
    let mut controlled = NamedTempFile::new().unwrap();
    writeln!(controlled, "services:").unwrap();
    for replica in REPLICAS {
        write!(
            controlled,
            "  {replica}:\n    environment:{CONTROLLED_MIGRATION}"
        )
        .unwrap();
    }
    let with_control = ["-f", controlled.path().to_str().unwrap()];

    // One migrates, the others wait.
    let mut replicas = wait_for_migration(up(&compose, "1", &with_control));
    let killed = replicas.pop().unwrap();
    for replica in &replicas {
        replica.wait_for(FOLLOWER, 1);
    }
    assert_eq!(count(&replicas, MIGRATES), 0);

    // Killed: another one migrates, and the last one goes on waiting.
    docker(&["kill", &killed.container]);
    let mut replicas = wait_for_migration(replicas);
    let failing = replicas.pop().unwrap();
    let last = replicas.pop().unwrap();
    last.wait_for(FOLLOWER, 2);
    assert_eq!(last.count(MIGRATES), 0);

    // Failed: the last one migrates, and the container of the failed one is started again, and waits.
    let followed = failing.count(FOLLOWER);
    failing.end_migration(7);
    last.wait_for(MIGRATES, 1);
    failing.wait_for("'sh' ended with exit code 7.", 1);
    failing.wait_for(FOLLOWER, followed + 1);
    assert_eq!(inspect(&failing.container, "{{.RestartCount}}"), "1");

    // Stopped while it waits, and while it migrates.
    assert_eq!(failing.stop(), STOPPED);
    assert_eq!(last.stop(), STOPPED);

    let replicas = [killed, failing, last];
    assert_eq!(count(&replicas, SERVES), 0);
    let before = count(&replicas, MIGRATES);
    up(&compose, "1", &with_control);
    poll_docker("another migration", || {
        (count(&replicas, MIGRATES) > before).then_some(())
    });
    for replica in &replicas {
        replica.end_migration(0);
    }
    wait_until_all_serve(&replicas, 1);
    assert_eq!(count(&replicas, MIGRATES), before + 1);
    for replica in &replicas {
        assert_eq!(replica.stop(), "0");
    }
}

#[test]
fn another_replica_migrates_when_one_is_killed_or_fails_and_a_stop_is_quick_in_each_phase() {
    thread::scope(|scope| {
        for binary in binaries() {
            scope.spawn(move || another_migrates(&binary));
        }
    });
}
