//! `--http`: the metrics, and the programs that monitor replicas.

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;
use support::daemon::{Daemon, LEADER, LOST, command};
use support::etcd::Etcd;
use support::http::{Server, get, get_accepting, try_request};
use support::served::{address, pair, served};
use support::{FAIL_OVER, TTL, poll_until};

#[test]
fn the_metrics_count_renewals_failures_and_losses() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next_refreshes(3);
    let metric = |name: &str| -> f64 {
        let response = get(&address, "/metrics");
        let line = response
            .body
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {}", response.body))
            .parse()
            .unwrap()
    };
    assert_eq!(
        metric("leader_election_role{role=\"leader\"}").to_string(),
        "1"
    );
    assert_eq!(
        metric("leader_election_role{role=\"follower\"}").to_string(),
        "0"
    );
    assert!(metric("leader_election_leadership_remaining_seconds") > 0.0);
    assert!(metric("leader_election_renewals_total") >= 3.0);
    assert!(metric("leader_election_renewal_duration_seconds_count") >= 3.0);
    assert!(metric("leader_election_renewal_duration_seconds_sum") < 3.0);
    assert_eq!(metric("leader_election_etcd_up").to_string(), "1");
    assert_eq!(metric("leader_election_transitions_total").to_string(), "1");
    let version = format!(
        "leader_election_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(metric(&version).to_string(), "1");
    let timed_out = "leader_election_etcd_request_failures_total{kind=\"timed_out\"}";
    let not_renewed = "leader_election_leadership_losses_total{reason=\"not_renewed\"}";
    assert_eq!((metric(timed_out) + metric(not_renewed)).to_string(), "0");
    etcd.freeze();
    replica.wait_for_next_start(LOST);
    poll_until("the failures are counted", || {
        (metric(timed_out) >= 1.0 && metric("leader_election_etcd_up") < 1.0).then_some(())
    });
    assert_eq!(metric(not_renewed).to_string(), "1");
    assert_eq!(
        metric("leader_election_leadership_remaining_seconds").to_string(),
        "0"
    );
    etcd.thaw();
}

/// The series of metrics in either format.
fn series(body: &str) -> BTreeSet<&str> {
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect()
}

#[test]
fn the_metrics_are_text_unless_a_client_asks_for_open_metrics() {
    let etcd = Etcd::newest();
    let [(mut leader, leads), (_follower, follows)] = pair(&etcd);
    leader.wait_for_next_refreshes(1);
    for address in [&leads, &follows] {
        let text = get(address, "/metrics");
        let accepting = |accept| get_accepting(address, "/metrics", accept);
        let telegraf = accepting(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
             encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3",
        );
        for response in [&text, &telegraf] {
            let content_type = response.header("content-type");
            assert_eq!(
                content_type,
                Some("text/plain; version=0.0.4; charset=utf-8")
            );
            let checked = check_by_promtool(&response.body);
            // It also prints what it advises against.
            assert_eq!(checked, (Some(0), String::new()), "{}", response.body);
        }
        let open = accepting("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
        assert_eq!(
            open.header("content-type"),
            Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
        assert_eq!(series(&open.body), series(&text.body));
    }
}

/// Returns the exit code of `promtool check metrics` and what it printed.
fn check_by_promtool(metrics: &str) -> (Option<i32>, String) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

#[test]
fn prometheus_scrapes_the_leader_and_accepts_the_rules() {
    let etcd = Etcd::newest();
    let [(_leader, leads), (_follower, follows)] = pair(&etcd);
    let (folder, api) = (tempfile::tempdir().unwrap(), address());
    let rules = format!("{}/examples/alerts.yaml", env!("CARGO_MANIFEST_DIR"));
    let file = folder.path().join("prometheus.yml");
    let configuration = format!(
        "rule_files: [{rules}]\nscrape_configs:\n  - job_name: replicas\n    scrape_interval: 200ms\n    \
         scrape_timeout: 200ms\n    static_configs: [{{targets: ['{leads}', '{follows}']}}]\n"
    );
    fs::write(&file, configuration).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules", &rules])
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let _prometheus = Server::start(
        Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={api}")),
    );
    let query = "/api/v1/query?query=leader_election_role%7Brole%3D%22leader%22%7D";
    poll_until("it knows the leader", || {
        let response = try_request(&api, "GET", query).ok()?;
        let response = (response.code == 200).then(|| response.json())?;
        let result = response["data"]["result"].as_array()?.clone();
        let value = |address: &str| {
            let of = |it: &&Value| it["metric"]["instance"] == address;
            result.iter().find(of).map(|it| it["value"][1].clone())
        };
        (value(&leads)? == "1" && value(&follows)? == "0").then_some(())
    });
    // Only OpenMetrics has this type.
    let metadata = try_request(
        &api,
        "GET",
        "/api/v1/targets/metadata?metric=leader_election_build",
    );
    let metadata = metadata.unwrap().json();
    assert_eq!(metadata["data"][0]["type"], "info", "{metadata}");
}

#[test]
fn haproxy_routes_to_the_leader_and_follows_a_fail_over() {
    let etcd = Etcd::newest();
    let [(mut leader, leads), (mut follower, follows)] = pair(&etcd);
    // Both health checks are common in configurations.
    let fronts = [("GET", address()), ("OPTIONS", address())];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("haproxy.cfg");
    let defaults = "defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n  \
                    default-server check inter 100ms fall 1 rise 1\n";
    let [by_get, by_options] = fronts.each_ref().map(|(method, front)| {
        format!(
            "listen {method}\n  bind {front}\n  option httpchk {method} /leader\n  \
             server one {leads}\n  server two {follows}\n"
        )
    });
    let configuration = [defaults, &by_get, &by_options].concat();
    fs::write(&file, configuration).unwrap();
    let _haproxy = Server::start(Command::new("haproxy").arg("-f").arg(&file));
    // Before its first check, HAProxy takes both for healthy and routes to each in turn.
    let routed_to = |name: &str| {
        poll_until(&format!("all of it routes to {name}"), || {
            let is_routed = |front: &String| {
                let response = try_request(front, "GET", "/status");
                response.is_ok_and(|it| it.code == 200 && it.json()["name"] == name)
            };
            let is_always_routed = |(_, front): &(_, String)| (0..10).all(|_| is_routed(front));
            fronts.iter().all(is_always_routed).then(Instant::now)
        })
    };
    routed_to("leads");
    let killed = leader.crash();
    let took = routed_to("follows") - killed;
    assert!(took < FAIL_OVER + TTL, "it took {took:?}");
    follower.wait_for_next(LEADER);
}

#[test]
fn the_health_command_checks_whether_a_daemon_is_alive() {
    let etcd = Etcd::newest();
    let address = address();
    let health = |by_variable: bool, address: &str| {
        let mut command = command();
        command.arg("health");
        if by_variable {
            command.env("LEADER_ELECTION_HTTP", address);
        } else {
            command.arg(address);
        }
        let output = command.output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(printed).unwrap())
    };
    let (code, printed) = health(false, &address);
    assert_eq!(code, Some(1));
    assert!(
        printed.contains("could not ask the daemon at") && printed.contains("refused"),
        "{printed}"
    );
    let everywhere = address.replace("127.0.0.1", "0.0.0.0");
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &everywhere));
    replica.wait_for_next(LEADER);
    for address in [&address, &everywhere] {
        for by_variable in [false, true] {
            assert_eq!(
                health(by_variable, address),
                (Some(0), "alive\n".to_owned())
            );
        }
    }
    replica.signal(Signal::STOP);
    assert_eq!(health(false, &address).0, Some(1));
    replica.signal(Signal::CONT);
    // It ignores variables that it does not need.
    let mut command = command();
    command.args(["health", &address]);
    for (variable, value) in [
        ("LEADER_ELECTION_ETCD", "nonsense"),
        ("LEADER_ELECTION_ETCD_CERT", "/nowhere"),
        ("LEADER_ELECTION_ETCD_PASSWORD", "nonsense"),
        ("LEADER_ELECTION_TTL", "nonsense"),
    ] {
        command.env(variable, value);
    }
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    let (code, printed) = health(false, &etcd.endpoint());
    assert_eq!(code, Some(1));
    assert!(
        printed.contains("is not a daemon of this program"),
        "{printed}"
    );
}
