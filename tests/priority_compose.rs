//! Priority and health in containers: the best healthy replica leads, through kills, restarts and maintenance.

use serde_json::Value;
use std::io::Write;
use std::time::{Duration, SystemTime};
use support::PATIENCE;
use support::compose::{Compose, binaries, docker, poll_docker};
use support::operator::{at, object, run, status};
use support::process::run as run_to_end;
use tempfile::NamedTempFile;

const SERVERS: [&str; 3] = ["server1", "server2", "server3"];

/// A leader lets a better replica wait for so long.
const DELAY: Duration = Duration::from_secs(2);

/// The time for a crash to be noticed (the TTL and a second), for health to change (two runs or three, every
/// half second), or for a container to start; and for a hand-over.
const SLACK: Duration = Duration::from_secs(10);

/// Returns what the demo's compose file lacks.
fn priorities() -> String {
    let services = SERVERS.iter().zip([3, 2, 1]).map(|(server, priority)| {
        format!(
            "  {server}:
    environment:
      LEADER_ELECTION_PRIORITY: \"{priority}\"
      LEADER_ELECTION_PRIORITY_DELAY: {}s
      LEADER_ELECTION_HEALTH_COMMAND: test ! -e /tmp/maintenance
      LEADER_ELECTION_HEALTH_INTERVAL: 500ms
      LEADER_ELECTION_TTL: 3s
",
            DELAY.as_secs()
        )
    });
    format!("services:\n{}", services.collect::<String>())
}

/// Waits until this server leads, which takes the delay and a little more at most.
fn wait_until_leads(etcd: &str, server: &str, since: SystemTime) {
    poll_docker(&format!("{server} leads"), || {
        let (code, shown) = status(etcd);
        let took = since.elapsed().unwrap();
        let leads = code == 0 && shown["leader"]["name"] == server;
        assert!(leads || took < DELAY + SLACK, "after {took:?}: {shown}");
        leads.then_some(())
    });
}

#[test]
fn the_best_healthy_replica_leads_through_kills_restarts_and_maintenance() {
    let compose = Compose::new(&binaries().pop().unwrap());
    let etcd = compose.etcd();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(priorities().as_bytes()).unwrap();
    let overrides = file.path().to_str().unwrap();
    let files = ["-f", "docker-compose.yaml", "-f", overrides];
    let up = [&files[..], &["up", "--detach"]].concat();
    run_to_end(&mut compose.command(&up), PATIENCE);
    let containers = SERVERS.map(|server| compose.container(server));
    let leads = |server: usize| wait_until_leads(&etcd, SERVERS[server], SystemTime::now());
    leads(0);

    docker(&["kill", &containers[0]]);
    leads(1);
    docker(&["start", &containers[0]]);
    leads(0);
    let maintain =
        |server: usize| docker(&["exec", &containers[server], "touch", "/tmp/maintenance"]);
    maintain(0);
    leads(1);
    maintain(1);
    leads(2);
    // One that has lost a term takes a seat again a moment later.
    poll_docker("the others are listed as unhealthy", || {
        let (_, shown) = status(&etcd);
        let candidates = shown["candidates"].as_array().unwrap();
        let is_listed = |server: usize, healthy| {
            let is_it = |candidate: &&Value| candidate["name"] == SERVERS[server];
            let found = candidates.iter().find(is_it);
            found.is_some_and(|candidate| candidate["healthy"] == healthy)
        };
        (is_listed(0, false) && is_listed(1, false) && is_listed(2, true)).then_some(())
    });
    for server in [0, 1] {
        docker(&["exec", &containers[server], "rm", "/tmp/maintenance"]);
    }
    leads(0);

    // Between two of these, there were few more leaders: after the start or the crash, somebody else may win and
    // then yield; and of two that become healthy, the second one may be first.
    let history = run(at(&etcd, &["history", "--json"]));
    let terms: Vec<_> = history.out.iter().map(|line| object(line)).collect();
    let leaders: Vec<_> = terms
        .iter()
        .map(|term| term["name"].as_str().unwrap())
        .collect();
    println!("seen: {leaders:?}");
    assert!((6..=10).contains(&leaders.len()), "{leaders:?}");
    for pair in terms.windows(2) {
        // One that was killed has recorded no end. These times sort as texts.
        if let Some(ended) = pair[0]["until"].as_str() {
            assert!(Some(ended) <= pair[1]["since"].as_str(), "{pair:?}");
        }
    }
}
