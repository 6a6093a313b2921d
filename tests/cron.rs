//! A real program, cron, that runs in exactly one of three containers.

use std::path::Path;
use std::thread;
use std::time::Duration;
use support::compose::{Compose, as_users_run, binaries, docker, inspect, poll_docker};
use support::process::{Process, run};

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
    let demo = Compose::new(binary);
    let compose = Compose::cron(&demo);
    let up = Process::spawn_script(&mut compose.command(&["up"]));
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

    compose.run(&["stop"]);
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

/// Returns what docker-compose makes of a file, with a user's environment.
fn config(binary: &Path, file: &str) -> Vec<String> {
    run(
        as_users_run(binary).args(["-f", file, "config"]),
        Duration::from_mins(1),
    )
}

#[test]
fn the_cron_example_is_built_upon_the_image_that_the_demo_builds() {
    for binary in binaries() {
        let values = |file: &str, key: &str| {
            let lines = config(&binary, file);
            let values = lines
                .iter()
                .filter_map(|line| line.trim().strip_prefix(key));
            values.map(str::to_owned).collect::<Vec<_>>()
        };
        let example = "examples/docker-compose-cron.yaml";
        let demo = values("docker-compose.yaml", "image: ");
        assert!(demo.contains(&"leader_election".to_owned()), "{demo:?}");
        assert_eq!(values(example, "IMAGE: "), ["leader_election"]);
        let mut images = values(example, "image: ");
        images.retain(|image| !image.contains("/etcd:"));
        images.dedup();
        assert_eq!(images, ["leader_election_cron"]);
    }
}
