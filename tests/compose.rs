//! The demo in containers, as a user runs it.

use rustix::process::Signal;
use std::process::Command;
use support::compose::{Compose, Up, binaries, docker, inspect, poll_docker};
use support::daemon::{CANDIDATE_STOPS, FOLLOWER, LEADER, LEADER_STOPS, REFRESHED, command};
use support::http::{get, get_json};
use support::poll_until;
use support::process::Process;

const ROLES: &[&str] = &[LEADER, FOLLOWER];
const SERVERS: [&str; 3] = ["server1", "server2", "server3"];

/// Returns what a replica says from its start until it has a role.
fn start_of(name: &str, etcd: &str, role: &str) -> Vec<String> {
    vec![
        format!("Starting the server '{name}'"),
        format!("Connecting to etcd at '{etcd}'"),
        "New leader election happening.".to_owned(),
        role.to_owned(),
    ]
}

/// Returns what a follower says from the hand-over of a term until it has a role again: nobody campaigns.
fn transfer_to(role: &str) -> Vec<String> {
    ["LEADERSHIP CHANGE REQUIRED", role]
        .map(str::to_owned)
        .into()
}

/// Returns what a follower says from the deletion of the leader's key until it has a role again.
fn change_to(role: &str) -> Vec<String> {
    [
        "LEADERSHIP CHANGE REQUIRED",
        "new election",
        "New leader election happening.",
        role,
    ]
    .map(str::to_owned)
    .into()
}

/// Waits until each of the servers has a role, and checks its lines against what `expected` returns
/// for that role. Returns the leader and the others.
fn elect<'a>(
    up: &mut Up,
    servers: &[&'a str],
    expected: impl Fn(&str, &str) -> Vec<String>,
) -> (&'a str, Vec<&'a str>) {
    let mut leaders = Vec::new();
    let mut followers = Vec::new();
    for &server in servers {
        let said = up.wait_for_next(server, ROLES);
        let role = said.last().unwrap();
        if role == LEADER {
            leaders.push(server);
        } else {
            followers.push(server);
        }
        assert_eq!(timeless(&said), expected(server, role), "{server}");
    }
    assert_eq!(leaders.len(), 1, "{leaders:?}");
    (leaders[0], followers)
}

fn wait_until_healthy(container: &str) {
    // Before it starts, it has no health.
    let health = "{{with .State.Health}}{{.Status}}{{end}}";
    poll_docker("a healthy container", || {
        (inspect(container, health) == "healthy").then_some(())
    });
}

fn exit_code(container: &str) -> String {
    poll_docker("the end of a container", || {
        (inspect(container, "{{.State.Running}}") == "false").then_some(())
    });
    inspect(container, "{{.State.ExitCode}}")
}

/// Returns what a replica's container says from its start until it has a role.
fn in_demo(name: &str, role: &str) -> Vec<String> {
    let mut lines = vec![
        "wait-for-it.sh: waiting 15 seconds for etcd_server:2378".to_owned(),
        format!("{AVAILABLE}0 seconds"),
    ];
    lines.extend(start_of(name, "etcd_server:2378", role));
    lines
}

const AVAILABLE: &str = "wait-for-it.sh: etcd_server:2378 is available after ";

/// Returns the lines as they are when etcd can be reached at once.
fn timeless(lines: &[String]) -> Vec<String> {
    let waited = |line: &String| line.starts_with(AVAILABLE);
    lines
        .iter()
        .map(|line| {
            if waited(line) {
                format!("{AVAILABLE}0 seconds")
            } else {
                line.clone()
            }
        })
        .collect()
}

#[test]
fn a_follower_takes_over_from_a_killed_leader_which_then_comes_back() {
    for binary in binaries() {
        let compose = Compose::new(&binary);
        let mut up = Up::start(&compose, &["up", "--build"]);

        let (first, others) = elect(&mut up, &SERVERS, in_demo);
        up.wait_for_another(first, REFRESHED);

        for (server, page) in SERVERS.into_iter().zip(compose.pages()) {
            assert!(
                get(&page, "/").body.starts_with("<!DOCTYPE html>"),
                "{server}"
            );
            // The other pages are found by what they advertise. Of replicas that start together, one may take its seat
            // a second later.
            let address = poll_until("the replica lists itself", || {
                let status = get_json(&page, "/status");
                assert_eq!(status["name"], server);
                let candidates = status["candidates"].as_array()?;
                let itself = candidates.iter().find(|it| it["name"] == server)?;
                Some(itself["address"].clone())
            });
            assert_eq!(address, format!("http://{page}"));
        }

        // A replica on the machine itself joins, and leaves.
        let etcd = compose.etcd();
        let mut fourth =
            Process::spawn_script(command().args(["--name", "server4", "--etcd", &etcd]));
        fourth.wait_for_next(FOLLOWER);
        fourth.signal(Signal::TERM);
        let (status, lines) = fourth.finish();
        assert!(status.success());
        let mut expected = start_of("server4", &etcd, FOLLOWER);
        expected.push(CANDIDATE_STOPS.to_owned());
        assert_eq!(lines, expected);

        compose.run(&["kill", "-s", "SIGKILL", first]);
        let (second, others) = elect(&mut up, &others, |_, role| change_to(role));
        up.wait_for_another(second, REFRESHED);
        let killed = compose.container(first);
        assert_eq!(exit_code(&killed), "137");

        let stopped = compose.container(second);
        docker(&["stop", &stopped]);
        assert_eq!(up.wait_for_next(second, &[LEADER_STOPS]), [LEADER_STOPS]);
        assert_eq!(exit_code(&stopped), "0");
        let (third, _) = elect(&mut up, &others, |_, role| transfer_to(role));
        let handed_over = format!("Handed over to '{third}'.");
        assert_eq!(up.wait_for_next(second, &[&handed_over]), [&*handed_over]);
        up.wait_for_another(third, REFRESHED);

        docker(&["start", &killed]);
        let follow = ["logs", "--follow", &killed];
        let log = Process::spawn_script(Command::new("docker").args(follow));
        log.wait_until_lines("its second start, to a follower", |lines| {
            let start = lines.iter().rposition(|line| line.contains(": waiting "))?;
            (timeless(&lines[start..]) == in_demo(first, FOLLOWER)).then_some(())
        });
        drop(log);

        // Not by Ctrl-C: compose 2.26 sometimes takes one for two, and kills what it should stop.
        compose.run(&["stop"]);
        up.process.wait_exit();
        compose.run(&["down"]);
        for list in [&["ps", "--all"][..], &["network", "ls"], &["volume", "ls"]] {
            assert_eq!(compose.things(list), [""; 0], "{list:?}");
        }
    }
}

#[test]
fn in_two_terminals_the_second_finds_the_etcd_of_the_first() {
    for binary in binaries() {
        let compose = Compose::new(&binary);
        let etcd_up = Up::start(&compose, &["-f", "docker-compose-etcd.yaml", "up"]);
        let etcd = compose.container("etcd_server");
        wait_until_healthy(&etcd);
        let started = inspect(&etcd, "{{.State.StartedAt}}");

        let mut up = Up::start(&compose, &["up"]);
        let (leader, _) = elect(&mut up, &SERVERS, in_demo);
        up.wait_for_another(leader, REFRESHED);
        assert_eq!(compose.container("etcd_server"), etcd);
        for server in SERVERS {
            // According to its own health check.
            wait_until_healthy(&compose.container(server));
        }
        assert_eq!(inspect(&etcd, "{{.State.StartedAt}}"), started);

        // Both files are one project: to the file that names etcd alone, the servers are orphans.
        // Nothing says so, since who follows compose's advice removes them.
        let mut again = compose.command(&["-f", "docker-compose-etcd.yaml", "up", "--detach"]);
        let (status, lines) = Process::spawn_script(&mut again).finish();
        assert!(status.success(), "{lines:#?}");
        for lines in [&lines, &etcd_up.process.texts(), &up.process.texts()] {
            assert!(
                !lines.iter().any(|line| line.contains("orphan")),
                "{lines:#?}"
            );
        }
        let mut removal = compose.command(&["-f", "docker-compose-etcd.yaml", "up", "--detach"]);
        let removal = removal.arg("--remove-orphans");
        let (status, lines) = Process::spawn_script(removal).finish();
        assert!(!status.success(), "{lines:#?}");
        for service in [&["etcd_server"], &SERVERS[..]].concat() {
            let container = compose.container(service);
            assert_eq!(
                inspect(&container, "{{.State.Running}}"),
                "true",
                "{service}"
            );
        }

        compose.run(&["stop"]);
        for mut up in [up, etcd_up] {
            up.process.wait_exit();
        }
        assert_eq!(exit_code(&etcd), "0");
    }
}

#[test]
fn etcd_needs_no_shell_and_is_published_on_this_machine_alone() {
    let binary = binaries().pop().unwrap();
    let compose = Compose::new(&binary);
    compose.run(&["up", "--detach", "etcd_server"]);
    let etcd = compose.container("etcd_server");
    wait_until_healthy(&etcd);
    assert_eq!(
        inspect(&etcd, "{{index .Config.Healthcheck.Test 0}}"),
        "CMD"
    );
    assert_eq!(
        inspect(
            &etcd,
            "{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}"
        ),
        "127.0.0.1 "
    );

    // Upstream's image has no shell. Its stand-in must not have one either: what needs a shell would
    // pass here and fail elsewhere.
    let image = inspect(&etcd, "{{.Config.Image}}");
    let shell = ["run", "--rm", "--entrypoint", "sh", &image, "-c", "true"];
    let mut shell = Process::spawn_script(Command::new("docker").args(shell));
    let (status, lines) = shell.finish();
    assert_eq!(status.code(), Some(127), "{lines:#?}");
}

#[test]
fn the_image_runs_the_daemon_as_nobody_without_a_compose_file() {
    let compose = Compose::new(&binaries()[0]);
    let image = compose.image();
    assert_eq!(inspect(image, "{{.Config.User}}"), "65534:65534");
    let version = docker(&["run", "--rm", image, "--version"]);
    assert_eq!(
        version,
        [format!("leader-election {}", env!("CARGO_PKG_VERSION"))]
    );
}
