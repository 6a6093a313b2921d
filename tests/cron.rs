//! A real program, cron, that runs in exactly one of three containers.
mod support;

use std::path::Path;
use std::thread;
use std::time::Duration;
use support::PATIENCE;
use support::compose::{Compose, binaries, docker, inspect, poll_docker};
use support::process::{Process, run};

const FILE: &str = "examples/docker-compose-cron.yaml";
const REPLICAS: [&str; 3] = ["replica1", "replica2", "replica3"];

/// cron reads its jobs at one full minute and runs this one at the next.
const A_FULL_MINUTE: Duration = Duration::from_secs(100);

/// Returns whether cron runs in this container, and whether there is a zombie.
fn state_of(container: &str) -> (bool, bool) {
    let states = docker(&[
        "exec",
        container,
        "sh",
        "-c",
        // A process that ends between the listing and the reading is neither.
        "for file in /proc/[0-9]*/stat; do cut -d' ' -f2,3 $file 2>/dev/null; done; true",
    ]);
    let is_cron = |state: &String| state.starts_with("(cron)");
    (
        states.iter().any(is_cron),
        states.iter().any(|state| state.ends_with(" Z")),
    )
}

/// Waits until exactly one of these runs cron and no zombie is left; returns its name.
fn the_only_one<'a>(containers: &[(&'a str, String)]) -> &'a str {
    poll_docker("cron runs once", || {
        let states: Vec<_> = containers.iter().map(|(_, id)| state_of(id)).collect();
        let running = states.iter().filter(|(cron, _)| *cron).count();
        assert!(running <= 1, "cron runs {running} times");
        let zombies = states.iter().any(|(_, zombie)| *zombie);
        let place = states.iter().position(|(cron, _)| *cron)?;
        (!zombies).then_some(containers[place].0)
    })
}

fn cron_runs_once(binary: &Path) {
    let compose = Compose::new(binary);
    let cron = |args: &[&str]| compose.command(&[&["-f", FILE], args].concat());
    run(&mut cron(&["build"]), Duration::from_mins(10));
    let up = Process::spawn_script(&mut cron(&["up"]));
    let says = |replica: &str, what: &str| {
        up.wait_until_lines(&format!("{replica} says {what}"), |lines| {
            let said = |line: &&String| line.contains(replica) && line.contains(what);
            lines.iter().find(said).cloned()
        })
    };
    for replica in REPLICAS {
        says(replica, "Starting the server");
    }
    let mut containers: Vec<_> = REPLICAS.map(|name| (name, compose.container(name))).into();
    let first = the_only_one(&containers);

    // Process 1 reaps orphans, on followers too.
    for (_, container) in &containers {
        docker(&["exec", container, "sh", "-c", "(sleep 0.1 &) ; exit 0"]);
    }
    assert_eq!(the_only_one(&containers), first);

    let place = |containers: &[(&str, String)], name: &str| {
        containers
            .iter()
            .position(|(other, _)| *other == name)
            .unwrap()
    };
    let paused = containers.remove(place(&containers, first));
    docker(&["pause", &paused.1]);
    let second = the_only_one(&containers);
    docker(&["unpause", &paused.1]);
    // The daemon or its guard has stopped it, whichever read its clock first.
    up.wait_until_lines("the end of the paused cron", |lines| {
        let over = |line: &String| {
            line.contains("'cron' has stopped.") || line.contains("'cron' was not gone")
        };
        lines.iter().any(over).then_some(())
    });
    containers.push(paused);
    assert_eq!(the_only_one(&containers), second);

    let killed = containers.remove(place(&containers, second));
    docker(&["kill", "--signal", "KILL", &killed.1]);
    let third = the_only_one(&containers);
    let job = format!("the job runs on {third}");
    up.wait_until_lines_within(A_FULL_MINUTE, &job, |lines| {
        lines.iter().any(|line| line.contains(&job)).then_some(())
    });

    run(&mut cron(&["stop"]), PATIENCE);
    for (_, container) in &containers {
        assert_eq!(inspect(container, "{{.State.ExitCode}}"), "0");
    }
}

#[test]
fn cron_runs_once_among_three_containers_whatever_happens_to_them() {
    thread::scope(|scope| {
        for binary in binaries() {
            scope.spawn(move || cron_runs_once(&binary));
        }
    });
}
