//! `--http`: what a replica responds, and that no client delays the election.
mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, REFRESHED, command, json};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::http::{Server, get, get_json, read_code, request, try_request, wait_for_code};
use support::proxy::refusing;
use support::{FAIL_OVER, TTL, free_port, poll_until};

/// The paths whose status code is the answer.
const CONDITIONS: [&str; 4] = ["/leader", "/follower", "/live", "/ready"];

fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Returns a replica that serves HTTP at this address.
fn served(name: &str, endpoints: &str, address: &str) -> Command {
    let mut command = json(name, endpoints);
    command.args(["--http", address]);
    command
}

/// Starts a leader and a follower. Returns them with their addresses.
fn pair(etcd: &Etcd) -> [(Daemon, String); 2] {
    let [(leads, follows), names] = [(address(), address()), (LEADER.into(), FOLLOWER.into())];
    let mut leader = Daemon::spawn("leads", served("leads", &etcd.endpoint(), &leads));
    leader.wait_for_next(&names.0);
    let mut follower = Daemon::spawn("follows", served("follows", &etcd.endpoint(), &follows));
    follower.wait_for_next(&names.1);
    [(leader, leads), (follower, follows)]
}

fn codes(address: &str) -> [u16; 4] {
    CONDITIONS.map(|path| get(address, path).code)
}

#[test]
fn the_conditions_follow_the_roles_through_a_fail_over() {
    on_each_etcd(|etcd| {
        let [(mut leader, leads), (mut follower, follows)] = pair(&etcd);
        assert_eq!(codes(&leads), [200, 503, 200, 200]);
        assert_eq!(codes(&follows), [503, 200, 200, 200]);
        leader.crash();
        follower.wait_for_next(LEADER);
        assert_eq!(codes(&follows), [200, 503, 200, 200]);
        follower.signal(Signal::TERM);
        follower.wait_exit();
        assert!(TcpStream::connect(&follows).is_err());
    });
}

#[test]
fn without_etcd_a_replica_is_alive_and_not_ready() {
    let mut etcd = Etcd::absent(binaries().last().unwrap());
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    wait_for_code(&address, "/live", 200);
    assert_eq!(codes(&address), [503, 503, 200, 503]);
    let status = get_json(&address, "/status");
    assert_eq!(
        (&status["age"], &status["leader"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        status["leader_unknown_because"],
        "etcd has not answered yet"
    );
    etcd.up();
    replica.wait_for_next(LEADER);
    assert_eq!(codes(&address), [200, 503, 200, 200]);
    etcd.kill();
    wait_for_code(&address, "/ready", 503);
    replica.wait_for_next_start(LOST);
    assert_eq!(codes(&address), [503, 503, 200, 503]);
    etcd.up();
    wait_for_code(&address, "/ready", 200);
}

#[test]
fn a_replica_that_is_cut_off_names_no_leader_once_its_knowledge_is_a_ttl_old() {
    on_each_etcd(|mut etcd| {
        let [(_leader, _), (_follower, follows)] = pair(&etcd);
        let fresh = get_json(&follows, "/status");
        assert_eq!(fresh["leader"]["name"], "leads");
        assert_eq!(fresh["leader_unknown_because"], Value::Null);
        etcd.freeze();
        let stale = poll_until("the leader is unknown", || {
            // Time passes between two requests, so only the first can be checked by the second.
            let follower = get(&follows, "/follower").code;
            let status = get_json(&follows, "/status");
            let is_fresh = !status["leader"].is_null();
            // It is rounded to the millisecond.
            let older = status["age"].as_f64().unwrap() - TTL.as_secs_f64();
            assert!(
                if is_fresh {
                    older <= 0.001
                } else {
                    older >= -0.001
                },
                "{status}"
            );
            assert_eq!(
                status["leader_unknown_because"].is_null(),
                is_fresh,
                "{status}"
            );
            assert!(is_fresh || status["etcd_answers"] == false, "{status}");
            assert!(
                !(is_fresh && status["etcd_answers"] == true) || follower == 200,
                "{status}"
            );
            (!is_fresh).then_some(status)
        });
        let expected = "etcd has not answered for longer than the TTL";
        assert_eq!(stale["leader_unknown_because"], expected);
        assert_eq!(codes(&follows), [503, 503, 200, 503]);
        let metrics = get(&follows, "/metrics").body;
        assert!(
            metrics.contains("\nleader_election_etcd_answers 0\n"),
            "{metrics}"
        );
        etcd.thaw();
        let known = poll_until("a leader is known", || {
            let status = get_json(&follows, "/status");
            (!status["leader"].is_null()).then_some(status)
        });
        assert_eq!(known["leader_unknown_because"], Value::Null);
        assert!(
            known["age"].as_f64().unwrap() < TTL.as_secs_f64(),
            "{known}"
        );

        // Nobody leads, and that is known.
        etcd.put("leader", b"by hand", None);
        poll_until("nobody leads", || {
            let status = get_json(&follows, "/status");
            let is_it = status["leader"].is_null() && status["leader_unknown_because"].is_null();
            is_it.then_some(())
        });
        etcd.kill();
    });
}

#[test]
fn a_leader_without_etcd_is_none_by_its_deadline() {
    on_each_etcd(|etcd| {
        let address = address();
        let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
        replica.wait_for_next(LEADER);
        replica.wait_for_next_refreshes(1);
        etcd.freeze();
        let mut last = Instant::now();
        loop {
            let sent = Instant::now();
            if get(&address, "/leader").code != 200 {
                break;
            }
            last = sent;
        }
        let renewed = replica.last(REFRESHED).at;
        let after = last.saturating_duration_since(renewed);
        assert!(
            after < TTL * 9 / 10,
            "it led {after:?} after its last renewal"
        );
        etcd.thaw();
    });
}

#[test]
fn a_leader_that_was_stopped_for_long_does_not_claim_to_lead() {
    let etcd = Etcd::newest();
    for _ in 0..3 {
        let [(mut leader, leads), (mut follower, _)] = pair(&etcd);
        leader.signal(Signal::STOP);
        // The kernel accepts the connections and keeps the requests.
        let requests = [(); 20].map(|()| {
            let mut stream = TcpStream::connect(&leads).unwrap();
            stream
                .write_all(b"GET /leader HTTP/1.1\r\nHost: test\r\n\r\n")
                .unwrap();
            stream
        });
        follower.wait_for_next(LEADER);
        leader.signal(Signal::CONT);
        for request in requests {
            assert_eq!(read_code(request), Some(503));
        }
        leader.wait_for_next(FOLLOWER);
    }
}

#[test]
fn the_status_has_the_role_the_term_the_leader_and_the_transitions() {
    let etcd = Etcd::newest();
    let (leads, follows) = (address(), address());
    let mut command = served("leads", &etcd.endpoint(), &leads);
    command.args(["--advertise", "http://10.0.0.1:80/\"x\""]);
    let mut leader = Daemon::spawn("leads", command);
    leader.wait_for_next(LEADER);
    let bad = refusing();
    let endpoints = format!("{bad},{}", etcd.endpoint());
    let mut follower = Daemon::spawn("follows", served("follows", &endpoints, &follows));
    follower.wait_for_next(FOLLOWER);

    let status = get_json(&leads, "/status");
    let key = etcd.key("leader").unwrap();
    assert_eq!(status["name"], "leads");
    assert_eq!(status["role"], "leader");
    assert_eq!(status["token"], key.mod_revision);
    assert_eq!(status["lease"], key.lease.clone().unwrap());
    assert_eq!(status["ttl"], 2);
    let remaining = status["remaining"].as_f64().unwrap();
    assert!(remaining > 0.0 && remaining <= 1.8, "{remaining}");
    assert_eq!(status["endpoint"], etcd.endpoint());
    assert_eq!(status["leader"]["name"], "leads");
    assert_eq!(status["leader"]["address"], "http://10.0.0.1:80/\"x\"");
    assert_eq!(status["transitions"][0]["role"], "leader");
    assert_eq!(status["since"], status["transitions"][0]["at"]);

    let status = get_json(&follows, "/status");
    assert_eq!(status["role"], "follower");
    assert_eq!(status["endpoint"], etcd.endpoint());
    assert_eq!(status["leader"]["token"], key.mod_revision);
    assert_eq!(status["leader"]["lease"], key.lease.unwrap());
    assert_eq!(
        (&status["token"], &status["remaining"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(status["transitions"][0]["leader"], "leads");

    etcd.etcdctl(&["del", "leader"]);
    follower.wait_for_next(LEADER);
    leader.wait_for_next(FOLLOWER);
    let status = get_json(&leads, "/status");
    let transitions = status["transitions"].as_array().unwrap();
    let lost = transitions
        .iter()
        .find(|it| it["role"] == "stopping")
        .unwrap();
    assert_eq!(lost["reason"], "the leader key was deleted");
    assert_eq!(status["leader"]["name"], "follows");
    assert_eq!(status["leader"]["address"], Value::Null);
    assert_eq!(transitions.last().unwrap()["leader"], "follows");
}

#[test]
fn a_wrapper_does_not_lead_while_its_command_stops() {
    let etcd = Etcd::newest();
    let address = address();
    let mut command = served("one", &etcd.endpoint(), &address);
    command.args([
        "--",
        "sh",
        "-c",
        "trap 'echo stops; read go; exit' TERM; echo runs; while :; do sleep 0.02; done",
    ]);
    command.stdin(std::process::Stdio::piped());
    let mut replica = Daemon::spawn("one", command);
    replica.wait_for_next("runs");
    assert_eq!(codes(&address), [200, 503, 200, 200]);
    replica.signal(Signal::TERM);
    replica.wait_for_next("stops");
    assert_eq!(codes(&address), [503, 503, 200, 200]);
    assert_eq!(get_json(&address, "/status")["role"], "stopping");
    replica.close_stdin();
    replica.wait_exit();
}

#[test]
fn the_metrics_count_renewals_failures_and_losses() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next_refreshes(3);
    let metric = |name: &str| -> f64 {
        let response = get(&address, "/metrics");
        assert_eq!(
            response.header("content-type"),
            Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        assert!(response.body.ends_with("# EOF\n"));
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
    assert!(metric("leader_election_remaining_seconds") > 0.0);
    assert!(metric("leader_election_renewals_total") >= 3.0);
    assert!(metric("leader_election_renewal_duration_seconds_count") >= 3.0);
    assert!(metric("leader_election_renewal_duration_seconds_sum") < 3.0);
    assert_eq!(metric("leader_election_etcd_answers").to_string(), "1");
    assert_eq!(metric("leader_election_transitions_total").to_string(), "1");
    let version = format!(
        "leader_election_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(metric(&version).to_string(), "1");
    let timed_out = "leader_election_failures_total{kind=\"timed_out\"}";
    let not_renewed = "leader_election_losses_total{reason=\"not_renewed\"}";
    assert_eq!((metric(timed_out) + metric(not_renewed)).to_string(), "0");
    etcd.freeze();
    replica.wait_for_next_start(LOST);
    poll_until("the failures are counted", || {
        (metric(timed_out) >= 1.0 && metric("leader_election_etcd_answers") < 1.0).then_some(())
    });
    assert_eq!(metric(not_renewed).to_string(), "1");
    assert_eq!(metric("leader_election_remaining_seconds").to_string(), "0");
    etcd.thaw();
}

#[test]
fn hostile_names_are_escaped_in_json_and_absent_from_metrics() {
    let etcd = Etcd::newest();
    let hostile = "a\"b\\c{d=\"e\"} 1\u{202e}é";
    let address = address();
    let mut replica = Daemon::spawn(hostile, served(hostile, &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    assert_eq!(get_json(&address, "/status")["name"], hostile);
    assert_eq!(get_json(&address, "/status")["leader"]["name"], hostile);
    assert!(!get(&address, "/metrics").body.contains("b\\c"));
    // Other clients can write worse.
    let worse = b"\x1b[2J\n\xff\"";
    let lease = etcd.grant(Duration::from_mins(1));
    etcd.put("leader", worse, Some(&lease));
    poll_until("it follows", || {
        let status = get_json(&address, "/status");
        (status["transitions"].as_array()?.last()?["leader"] == "\u{1b}[2J\n\u{fffd}\"")
            .then_some(())
    });
    let body = get(&address, "/status").body;
    assert!(
        body.trim_end()
            .chars()
            .all(|character| !character.is_control()),
        "{body:?}"
    );
}

#[test]
fn other_methods_and_paths_and_nonsense_are_refused() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    for path in [
        "/leader",
        "/follower",
        "/live",
        "/ready",
        "/status",
        "/metrics",
    ] {
        let (get, head) = (get(&address, path), request(&address, "HEAD", path));
        assert_eq!((head.code, head.body.as_str()), (get.code, ""), "{path}");
        assert!(head.header("content-length").is_some(), "{head:?}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = request(&address, method, path);
            assert_eq!(refused.code, 405, "{method} {path}");
            assert_eq!(refused.header("allow"), Some("GET, HEAD"), "{refused:?}");
            assert_eq!(refused.body, "only GET and HEAD are allowed\n");
        }
        for response in [&get, &head] {
            assert_eq!(response.header("cache-control"), Some("no-store"));
            assert_eq!(response.header("connection"), Some("close"));
        }
    }
    for path in ["/", "/leader/", "/Leader", "/leaderx", "//leader"] {
        let response = get(&address, path);
        assert_eq!(response.code, 404, "{path}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    assert_eq!(get(&address, "/leader?x=1").code, 200);
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"nonsense\r\n\r\n",
        b"GET /leader HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let code = read_code(stream);
        assert!(code.is_none_or(|code| code >= 400), "{code:?}");
    }
    let mut stream = TcpStream::connect(&address).unwrap();
    let long = "x".repeat(15 << 10);
    stream
        .write_all(format!("GET /leader HTTP/1.1\r\nx: {long}\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(read_code(stream), Some(200));
    let mut huge = b"GET /leader HTTP/1.1\r\nx: ".to_vec();
    huge.resize(1 << 20, b'x');
    let mut stream = TcpStream::connect(&address).unwrap();
    // The server may close the connection before it has received all of it.
    drop(stream.write_all(&huge));
    let code = read_code(stream);
    assert!(code.is_none_or(|code| code == 431), "{code:?}");
    assert_eq!(codes(&address), [200, 503, 200, 200]);
}

#[test]
fn hundreds_of_idle_connections_are_closed_and_delay_nothing() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    let began = Instant::now();
    let idle: Vec<_> = (0..500)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /leader HTTP/1.1\r\nHo").unwrap();
            }
            stream
        })
        .collect();
    replica.wait_for_next_refreshes(5);
    // The server closes the oldest for a new one.
    let sent = Instant::now();
    assert_eq!(get(&address, "/leader").code, 200);
    assert!(sent.elapsed() < TTL, "after {:?}", sent.elapsed());
    for stream in idle {
        assert_ne!(read_code(stream), Some(200));
    }
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    replica.skip();
    replica.wait_for_next_refreshes(1);
    let lines = replica.lines();
    assert!(!lines.iter().any(|line| line.message().starts_with(LOST)));
}

#[test]
fn connections_that_have_ended_cost_a_slow_client_nothing() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"GET /leader HTTP/1.1\r\nHo").unwrap();
    for _ in 0..200 {
        assert_eq!(get(&address, "/live").code, 200);
    }
    slow.write_all(b"st: test\r\n\r\n").unwrap();
    assert_eq!(read_code(slow), Some(200));
}

#[test]
fn an_address_that_is_taken_or_invalid_is_an_error_at_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (command_too, code) in [(false, 1), (true, 125)] {
        let mut command = served("one", &refusing(), &taken);
        if command_too {
            command.args(["--", "true"]);
        }
        let mut replica = Daemon::spawn("one", command);
        assert_eq!(replica.wait_exit().code(), Some(code));
        let error = replica.lines().last().unwrap().message();
        assert!(
            error.contains(&format!("could not listen for HTTP at {taken}")),
            "{error}"
        );
        assert!(error.contains("Address already in use"), "{error}");
    }
    for nonsense in ["8008", "localhost:8008", "127.0.0.1", "127.0.0.1:99999", ""] {
        let mut replica = Daemon::spawn("one", served("one", &refusing(), nonsense));
        assert_eq!(replica.wait_exit().code(), Some(2), "{nonsense}");
    }
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
    assert!(printed.contains("no daemon of this program"), "{printed}");
}

#[test]
fn haproxy_routes_to_the_leader_and_follows_a_fail_over() {
    let etcd = Etcd::newest();
    let [(mut leader, leads), (mut follower, follows)] = pair(&etcd);
    let front = address();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("haproxy.cfg");
    let configuration = format!(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n\
         frontend front\n  bind {front}\n  default_backend replicas\n\
         backend replicas\n  option httpchk GET /leader\n  \
         default-server check inter 100ms fall 1 rise 1\n  server one {leads}\n  server two {follows}\n"
    );
    fs::write(&file, configuration).unwrap();
    let _haproxy = Server::start(Command::new("haproxy").arg("-f").arg(&file));
    let routed_to = |name: &str| {
        poll_until(&format!("it routes to {name}"), || {
            let response = try_request(&front, "GET", "/status").ok()?;
            (response.code == 200 && response.json()["name"] == name).then(Instant::now)
        })
    };
    routed_to("leads");
    let killed = leader.crash();
    let took = routed_to("follows") - killed;
    assert!(took < FAIL_OVER + TTL, "it took {took:?}");
    follower.wait_for_next(LEADER);
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
}
