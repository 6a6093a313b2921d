//! Crash fail-over in containers: the example upon the demo, with its leader killed.

use serde_json::Value;
use std::time::{Duration, SystemTime};
use support::PATIENCE;
use support::compose::{Compose, binaries, docker, inspect, poll_docker};
use support::daemon::LEADER;
use support::operator::{observe, status, wait_for_next_name};
use support::process::run;

const SERVERS: [&str; 3] = ["server1", "server2", "server3"];

/// The files, as its comment names them.
const FILES: [&str; 4] = [
    "-f",
    "docker-compose.yaml",
    "-f",
    "examples/docker-compose-quick.yaml",
];

/// A challenge takes 1.1 s, 1.1 of the limit. Before that, a lease that is not renewed is noticed within 1.9 s: two fifths
/// of the limit, the second to which etcd rounds, and the half of the limit between two looks.
const FAIL_OVER: Duration = Duration::from_secs(3);

/// Reads a time to the nanosecond, as docker prints it.
fn time(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn when_the_leader_is_killed_the_next_one_leads_within_seconds_of_a_ttl_of_ten() {
    let compose = Compose::new(&binaries().pop().unwrap());
    let etcd = compose.etcd();
    run(
        &mut compose.command(&[&FILES[..], &["up", "--detach"]].concat()),
        PATIENCE,
    );
    let containers = SERVERS.map(|server| (server, compose.container(server)));
    let shown = poll_docker("three candidates, one of which leads", || {
        let (code, shown) = status(&etcd);
        let listed = shown["candidates"].as_array().map(Vec::len);
        (code == 0 && listed == Some(SERVERS.len())).then_some(shown)
    });
    let name = shown["leader"]["name"].as_str().unwrap();
    assert_eq!(shown["leader"]["fail_over"], 1.0, "{shown}");
    assert_eq!(shown["leader"]["address"], format!("http://{name}:8008"));
    assert_eq!(shown["ttl"]["granted"], 10, "{shown}");

    let mut observer = observe("observer", &etcd);
    wait_for_next_name(&mut observer, name);
    let (_, killed) = containers.iter().find(|(other, _)| *other == name).unwrap();
    docker(&["kill", killed]);
    let next = observer.wait_for_next_line("another leader", |line| {
        let next: Value = serde_json::from_str(&line.text()).unwrap();
        let next = &next["leader"]["name"];
        next.is_string() && *next != name
    });
    let next: Value = serde_json::from_str(&next.text()).unwrap();
    assert_eq!(next["leader"]["took_over"], true, "{next}");
    let leads = time(next["time"].as_str().unwrap());
    let died = time(&inspect(killed, "{{.State.FinishedAt}}"));
    let took = leads.duration_since(died).unwrap();
    println!("the next one led after {took:?}");
    assert!(took < FAIL_OVER, "{took:?}: {next}");

    let is_next = |(server, _): &&(&str, String)| next["leader"]["name"] == *server;
    let (_, heir) = containers.iter().find(is_next).unwrap();
    poll_docker("it acts", || {
        let lines = docker(&["logs", heir]);
        lines.iter().any(|line| line == LEADER).then_some(())
    });
}
