//! The demo in containers, as a user runs it.
#[path = "support/compose.rs"]
mod compose;
#[path = "support/process.rs"]
mod process;

use compose::{Compose, REFRESHED, Up, binaries, docker, inspect, wait_until};
use process::{PATIENCE, Process};
use rustix::process::Signal;
use std::process::Command;

const LEADER: &str = "I am the leader.";
const FOLLOWER: &str = "I am a follower.";
const ROLES: &[&str] = &[LEADER, FOLLOWER];
const SERVERS: [&str; 3] = ["server1", "server2", "server3"];

/// What a replica says from its start until it has a role.
fn start_of(name: &str, etcd: &str, role: &str) -> Vec<String> {
    vec![
        format!("Starting the server '{name}'"),
        format!("Connecting to etcd at '{etcd}'"),
        "New leader election happening.".to_owned(),
        role.to_owned(),
    ]
}

/// What a follower says when the leader's key goes, until it has a role again.
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

/// Waits until the servers have a role, having said what `expected` says of it, and returns the leader and the others.
fn elect<'a>(
    up: &mut Up,
    servers: &[&'a str],
    expected: impl Fn(&str, &str) -> Vec<String>,
) -> (&'a str, Vec<&'a str>) {
    let mut leaders = Vec::new();
    let mut followers = Vec::new();
    for &server in servers {
        let news = up.news(server, ROLES);
        let role = news.last().unwrap();
        if role == LEADER {
            leaders.push(server);
        } else {
            followers.push(server);
        }
        assert!(
            timeless(&news) == expected(server, role),
            "{server} said {news:#?} in\n{}",
            transcript(up)
        );
    }
    assert_eq!(leaders.len(), 1, "{}", transcript(up));
    (leaders[0], followers)
}

fn transcript(up: &Up) -> String {
    up.process.lines().join("\n")
}

fn wait_until_healthy(container: &str) {
    // There is no word on its health before its start.
    let health = "{{with .State.Health}}{{.Status}}{{end}}";
    wait_until("a healthy container", || {
        (inspect(container, health) == "healthy").then_some(())
    });
}

fn exit_code(container: &str) -> String {
    wait_until("its end", || {
        (inspect(container, "{{.State.Running}}") == "false").then_some(())
    });
    inspect(container, "{{.State.ExitCode}}")
}

/// What a replica's container says from its start until it has a role.
fn in_demo(name: &str, role: &str) -> Vec<String> {
    let mut lines = vec![
        "wait-for-it.sh: waiting 15 seconds for etcd_server:2378".to_owned(),
        format!("{AVAILABLE}0 seconds"),
    ];
    lines.extend(start_of(name, "etcd_server:2378", role));
    lines
}

const AVAILABLE: &str = "wait-for-it.sh: etcd_server:2378 is available after ";

/// The lines, as if there had been nothing to wait for.
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
fn the_leader_killed_a_follower_leads_and_the_killed_one_comes_back() {
    for binary in binaries() {
        let compose = Compose::new(&binary);
        let mut up = Up::start(&compose, &["up", "--build"]);

        let (first, others) = elect(&mut up, &SERVERS, in_demo);
        up.wait_for_another(first, REFRESHED);

        // A replica on the machine itself joins, and leaves.
        let etcd = compose.etcd();
        let mut fourth = Process::start(
            Command::new(env!("CARGO_BIN_EXE_leader-election"))
                .args(["--name", "server4", "--etcd", &etcd]),
        );
        fourth.wait_until_lines("a role", |lines| {
            lines.iter().find(|line| *line == FOLLOWER).map(drop)
        });
        fourth.signal(Signal::TERM);
        let (status, lines) = fourth.wait_end(PATIENCE);
        assert!(status.success());
        let mut expected = start_of("server4", &etcd, FOLLOWER);
        expected.push("Revoking lease; no longer a candidate.".to_owned());
        assert_eq!(lines, expected);

        compose.run(&["kill", "-s", "SIGKILL", first]);
        let (second, others) = elect(&mut up, &others, |_, role| change_to(role));
        up.wait_for_another(second, REFRESHED);
        let killed = compose.container(first);
        assert_eq!(exit_code(&killed), "137");

        let stopped = compose.container(second);
        docker(&["stop", &stopped]);
        let stop = "Revoking lease; no longer the leader.";
        assert_eq!(up.news(second, &[stop]), [stop]);
        assert_eq!(exit_code(&stopped), "0");
        let (third, _) = elect(&mut up, &others, |_, role| change_to(role));
        up.wait_for_another(third, REFRESHED);

        docker(&["start", &killed]);
        let log = Process::start(Command::new("docker").args(["logs", "--follow", &killed]));
        log.wait_until_lines("its second start, to a follower", |lines| {
            let start = lines.iter().rposition(|line| line.contains(": waiting "))?;
            (timeless(&lines[start..]) == in_demo(first, FOLLOWER)).then_some(())
        });
        drop(log);

        // Not by Ctrl-C: compose 2.26 at times takes one for two, and kills what it should stop.
        compose.run(&["stop"]);
        up.process.wait_end(PATIENCE);
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
            // By its own word.
            wait_until_healthy(&compose.container(server));
        }
        assert_eq!(inspect(&etcd, "{{.State.StartedAt}}"), started);

        compose.run(&["stop"]);
        for mut up in [up, etcd_up] {
            up.process.wait_end(PATIENCE);
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

    // Upstream's image has no shell. Nor must its stand-in, or a shell could slip in here and fail elsewhere.
    let image = inspect(&etcd, "{{.Config.Image}}");
    let mut shell = Process::start(Command::new("docker").args([
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        &image,
        "-c",
        "true",
    ]));
    let (status, lines) = shell.wait_end(PATIENCE);
    assert_eq!(status.code(), Some(127), "{lines:#?}");
}

#[test]
fn the_image_runs_the_daemon_as_nobody_without_a_compose_file() {
    let compose = Compose::new(&binaries()[0]);
    let image = compose.project();
    assert_eq!(inspect(image, "{{.Config.User}}"), "65534:65534");
    let version = docker(&["run", "--rm", image, "--version"]);
    assert_eq!(
        version,
        [format!("leader-election {}", env!("CARGO_PKG_VERSION"))]
    );
}
