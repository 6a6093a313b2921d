//! What connecting to etcd takes: slow links, host names with several addresses, passwords, load
//! balancers and firewalls, and an etcd that returns without its data.

use rustix::process::Signal;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::authority::Authority;
use support::checker::terms;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, Line, command, wait_for_next_roles};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::http::{Server, get, wait_for_code};
use support::operator::{at, run};
use support::process::Process;
use support::proxy::{BlackHole, Link, Proxy};
use support::users::{self, as_replica, authentications};
use support::{PATIENCE, free_port, is_long_run, let_pass, poll_until, wait_until};

/// The TTL that a replica has by default.
const DEFAULT_TTL: Duration = Duration::from_secs(5);
/// How a replica begins to warn that anyone may write the keys.
const AUTHENTICATION_OFF: &str = "An etcd user is given, but etcd's authentication is off";

/// Returns a candidate with this TTL, whose lines carry their time.
fn candidate(name: &str, endpoint: &str, ttl: Duration) -> Command {
    let mut command = command();
    command.args(["--name", name, "--etcd", endpoint, "--log-format", "json"]);
    command.args(["--ttl", &format!("{}s", ttl.as_secs())]);
    command
}

/// Closes all connections of a proxy, and lets new ones through as before.
fn cut(proxy: &Proxy, then: Link) {
    let before = proxy.accepted();
    proxy.set(Link::Cut);
    proxy.set(then);
    wait_until("it connects again", PATIENCE, || {
        (proxy.accepted() > before).then_some(())
    });
}

#[test]
fn sixty_replicas_with_a_password_all_take_part_and_newcomers_cost_the_leader_no_term() {
    // Checking a password costs as much as it does by default.
    let mut etcd = Etcd::newest();
    users::add(&etcd);
    users::enable(&mut etcd);
    let spawn = |number: usize| {
        let name = format!("server{number}");
        let command = as_replica(candidate(&name, &etcd.endpoint(), DEFAULT_TTL));
        Daemon::spawn(&name, command)
    };
    let take_part = |replicas: &[Daemon], started: Instant| {
        let is_role = |line: &Line| [LEADER, FOLLOWER].contains(&line.message().as_str());
        let roles = replicas
            .iter()
            .map(|replica| replica.wait_for_any_line("its role", is_role).at);
        let took = roles.max().unwrap() - started;
        let count = replicas.len();
        println!("seen: {count} replicas with a password take part after {took:?}");
        assert!(took < Duration::from_secs(30), "{took:?}");
    };
    let started = Instant::now();
    let mut replicas: Vec<_> = (0..20).map(spawn).collect();
    take_part(&replicas, started);
    let leader = wait_for_next_roles(&mut replicas);
    let started = Instant::now();
    let newcomers: Vec<_> = (20..60).map(spawn).collect();
    take_part(&newcomers, started);
    replicas[leader].skip();
    replicas[leader].wait_for_next_refreshes(2);
    let all: Vec<_> = replicas.iter().chain(&newcomers).collect();
    assert_eq!(terms(&all).len(), 1);
}

#[test]
fn a_token_outlives_its_connection_and_is_replaced_silently_when_it_expires() {
    // It expires after two seconds without use, and a leader uses it every four seconds.
    let options = ["--auth-token-ttl", "2", "--bcrypt-cost", "4"].map(str::to_owned);
    let mut etcd = Etcd::start_with(binaries().last().unwrap(), &options, &[]);
    users::add(&etcd);
    users::enable(&mut etcd);
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    let spawn = |name: &str, ttl| {
        let mut command = as_replica(candidate(name, &proxy.endpoint(), ttl));
        command.args(["--leader-key", "leader"]);
        Daemon::spawn(name, command)
    };
    let mut busy = spawn("busy", Duration::from_secs(2));
    busy.wait_for_next_refreshes(1);
    let before = authentications(&etcd);
    for _ in 0..5 {
        cut(&proxy, Link::Open);
        busy.wait_for_next_refreshes(2);
    }
    assert_eq!(authentications(&etcd), before, "the token was kept");
    assert_eq!(terms(&[&busy]).len(), 1);
    assert_eq!(busy.warnings(), [""; 0]);
    busy.signal(Signal::TERM);
    busy.wait_exit();

    let mut idle = spawn("idle", Duration::from_secs(20));
    idle.wait_for_next_refreshes(1);
    let before = authentications(&etcd);
    idle.wait_for_next_refreshes(2);
    assert!(authentications(&etcd) > before, "the token did not expire");
    assert_eq!(terms(&[&idle]).len(), 1);
    assert_eq!(idle.warnings(), [""; 0]);
}

/// Starts an etcd with TLS and users, and a proxy in front of it that takes so long for a round
/// trip.
fn slow_and_secure(round_trip: Duration) -> (Etcd, Authority, Proxy, Link) {
    let authority = Authority::new();
    let binary = binaries().pop().unwrap();
    let mut etcd = authority.etcd(&binary, &["127.0.0.1"], false, false);
    users::add(&etcd);
    users::enable(&mut etcd);
    let link = Link::Delayed(round_trip / 2);
    let proxy = Proxy::start(&etcd.endpoint(), link);
    (etcd, authority, proxy, link)
}

fn slow_replica(name: &str, authority: &Authority, proxy: &Proxy) -> Daemon {
    let endpoint = format!("https://{}", proxy.endpoint());
    let mut command = as_replica(candidate(name, &endpoint, DEFAULT_TTL));
    command.args(["--etcd-cacert", &authority.certificate()]);
    Daemon::spawn(name, command)
}

#[test]
fn over_slow_links_with_tls_and_a_user_a_closed_connection_costs_no_term() {
    let run = |round_trip, cuts| {
        let (_etcd, authority, proxy, link) = slow_and_secure(Duration::from_millis(round_trip));
        let mut leader = slow_replica("leader", &authority, &proxy);
        leader.wait_for_next_refreshes(2);
        for _ in 0..cuts {
            cut(&proxy, link);
            leader.wait_for_next_refreshes(3);
        }
        assert_eq!(terms(&[&leader]).len(), 1, "{round_trip} ms");
    };
    thread::scope(|scope| {
        for (round_trip, cuts) in [(250, 3), (300, 3), (400, 0)] {
            scope.spawn(move || run(round_trip, cuts));
        }
    });
}

#[test]
fn over_a_link_that_is_too_slow_for_the_ttl_nobody_leads_and_the_log_says_why() {
    let (_etcd, authority, proxy, _) = slow_and_secure(Duration::from_millis(1300));
    let mut replica = slow_replica("slow", &authority, &proxy);
    let why =
        "which is what the TTL or the fail-over limit allows; a slower link needs a longer one";
    let said = replica.wait_for_next_line(why, Line::is_warning);
    let text = said.text();
    assert!(
        text.contains("within 1000 ms") && text.contains(why),
        "{text}"
    );
    let_pass(DEFAULT_TTL);
    assert_eq!(replica.count(LEADER), 0);
}

/// Returns the program and the arguments of a command, run where host names mean what this file
/// says.
fn with_hosts(command: &Command, hosts: &Path) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--map-root-user", "sh", "-c"]);
    inside.arg(r#"mount --bind "$0" /etc/hosts && exec "$@""#);
    inside.arg(hosts).arg(command.get_program());
    inside.args(command.get_args());
    inside
}

#[test]
fn a_host_name_whose_first_addresses_drop_packets_is_reached_at_its_next() {
    let etcd = Etcd::newest();
    let port = free_port();
    let good = Proxy::start_at(&format!("127.0.0.2:{port}"), &etcd.endpoint(), Link::Open);
    let _holes = [
        BlackHole::at(&format!("127.0.0.1:{port}")),
        BlackHole::at(&format!("127.0.0.3:{port}")),
    ];
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    fs::write(
        &hosts,
        "127.0.0.1 etcd.test\n127.0.0.3 etcd.test\n127.0.0.2 etcd.test\n",
    )
    .unwrap();
    let candidate = candidate("server1", &format!("etcd.test:{port}"), DEFAULT_TTL);
    let mut replica = Daemon::spawn("server1", with_hosts(&candidate, &hosts));
    let started = Instant::now();
    let took = replica.wait_for_next(LEADER).at - started;
    println!("seen: a name with two dead addresses: it leads after {took:?}");
    assert!(took < DEFAULT_TTL, "{took:?}");
    cut(&good, Link::Open);
    replica.wait_for_next_refreshes(3);
    assert_eq!(terms(&[&replica]).len(), 1);
}

#[test]
fn a_user_whom_etcd_does_not_ask_for_leads_and_one_warning_says_so() {
    on_each_etcd(|mut etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let command = candidate("leader", &proxy.endpoint(), DEFAULT_TTL);
        let mut leader = Daemon::spawn("leader", as_replica(command));
        leader.wait_for_next_refreshes(1);
        cut(&proxy, Link::Open);
        leader.wait_for_next_refreshes(2);
        let warned_once = |leader: &Daemon| {
            let warnings = leader.warnings();
            let is_it = |warning: &String| warning.starts_with(AUTHENTICATION_OFF);
            assert!(matches!(&warnings[..], [one] if is_it(one)), "{warnings:?}");
            assert_eq!(terms(&[leader]).len(), 1);
        };
        warned_once(&leader);

        users::add(&etcd);
        // Its lease holds its seat, and a lease is renewed only for who may write all that it holds.
        users::permit_all_keys_of_the_election(&etcd);
        let before = authentications(&etcd);
        users::enable(&mut etcd);
        leader.skip();
        leader.wait_for_next_refreshes(3);
        // etcdctl needs none for itself.
        assert!(authentications(&etcd) > before);
        warned_once(&leader);

        users::disable(&mut etcd);
        cut(&proxy, Link::Open);
        leader.wait_for_next_refreshes(3);
        warned_once(&leader);
    });
}

#[test]
fn commands_with_a_user_whom_etcd_does_not_ask_for_warn_once_and_work() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut leader =
            Daemon::spawn("leader", candidate("leader", &etcd.endpoint(), DEFAULT_TTL));
        leader.wait_for_next(LEADER);
        let as_user = |arguments: &[&str]| as_replica(at(&proxy.endpoint(), arguments));
        let warnings = |lines: &[String]| {
            let is_it = |line: &&String| line.contains(AUTHENTICATION_OFF);
            lines.iter().filter(is_it).count()
        };
        let mut observer = Process::spawn("observe", as_user(&["observe"]));
        observer.wait_for_any_line("the leader", |line| line.text().contains("leader"));
        for command in ["status", "step-down"] {
            let run = run(as_user(&[command]));
            assert_eq!(run.code, 0, "{command}: {:?}", run.err);
            assert!(
                run.err.len() == 1 && warnings(&run.err) == 1,
                "{command}: {:?}",
                run.err
            );
        }
        leader.wait_for_next(LEADER);
        cut(&proxy, Link::Open);
        observer.skip();
        leader.signal(Signal::TERM);
        observer.wait_for_next_line("the end", |line| line.text().contains("leads"));
        assert_eq!(warnings(&observer.texts()), 1);
    });
}

/// A leader behind a load balancer that closes what was idle for so long.
fn behind_a_load_balancer(idle: Duration, ttl: Duration, time: Duration) {
    let etcd = Etcd::newest();
    let [front, http] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("haproxy.cfg");
    let (idle, endpoint) = (idle.as_millis(), etcd.endpoint());
    let configuration = format!(
        "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client {idle}ms\n  \
         timeout server {idle}ms\nlisten etcd\n  bind {front}\n  server one {endpoint}\n"
    );
    fs::write(&file, configuration).unwrap();
    let _haproxy = Server::start(Command::new("haproxy").arg("-f").arg(&file));
    poll_until("it listens", || TcpStream::connect(&front).ok());
    let mut command = candidate("leader", &front, ttl);
    command.args(["--http", &http]);
    let mut leader = Daemon::spawn("leader", command);
    leader.wait_for_next(LEADER);
    wait_for_code(&http, "/ready", 200);
    let observer = Process::spawn("observe", at(&front, &["observe"]));
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert_eq!(get(&http, "/ready").code, 200);
        let_pass(Duration::from_millis(20));
    }
    assert_eq!(leader.warnings(), [""; 0]);
    assert_eq!(terms(&[&leader]).len(), 1);
    // All that there is to see is that it leads, and who takes part.
    let texts = observer.texts();
    let others = texts.iter().filter(|text| !text.contains("candidate"));
    assert_eq!(others.count(), 1, "{texts:?}");
}

#[test]
fn a_load_balancer_that_closes_idle_connections_causes_no_outage() {
    behind_a_load_balancer(
        Duration::from_millis(900),
        Duration::from_secs(10),
        Duration::from_secs(12),
    );
    if is_long_run() {
        let minute = Duration::from_mins(1);
        behind_a_load_balancer(Duration::from_secs(5), minute, minute + minute / 5);
    }
}

#[test]
fn a_follower_whose_idle_connection_was_forgotten_still_takes_over_within_seconds() {
    let etcd = Etcd::newest();
    let ttl = Duration::from_mins(1);
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    let mut leader = Daemon::spawn("leader", candidate("leader", &etcd.endpoint(), ttl));
    leader.wait_for_next(LEADER);
    let mut follower = Daemon::spawn("follower", candidate("follower", &proxy.endpoint(), ttl));
    follower.wait_for_next(FOLLOWER);
    // Its try has ended, and the next one comes 20 seconds after it.
    let_pass(Duration::from_secs(1));
    proxy.set(Link::Forget);
    leader.signal(Signal::TERM);
    let stopped = Instant::now();
    let took = follower.wait_for_next(LEADER).at - stopped;
    println!("seen: a forgotten connection: it takes over after {took:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn the_checks_of_an_idle_connection_are_no_more_frequent_than_etcd_allows() {
    on_each_etcd(|etcd| {
        let ttl = Duration::from_mins(1);
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut leader = Daemon::spawn("leader", candidate("leader", &etcd.endpoint(), ttl));
        leader.wait_for_next(LEADER);
        let command = candidate("follower", &proxy.endpoint(), ttl);
        let mut follower = Daemon::spawn("follower", command);
        follower.wait_for_next(FOLLOWER);
        // etcd closes a connection at its third ping that comes too soon.
        let_pass(if is_long_run() { ttl } else { ttl / 2 });
        assert_eq!(proxy.accepted(), 1);
        assert_eq!(follower.warnings(), [""; 0]);
    });
}

/// A leader whose etcd loses its history, by the act, stops as soon as etcd is back.
fn stops_when_history_goes_back(act: impl Fn(&mut Etcd) + Sync) {
    on_each_etcd(|mut etcd| {
        let command = candidate("leader", &etcd.endpoint(), Duration::from_secs(10));
        let mut leader = Daemon::spawn("leader", command);
        leader.wait_for_next_refreshes(1);
        etcd.back_up();
        for number in 0..50 {
            etcd.put("something", number.to_string().as_bytes(), None);
        }
        // So that it knows of the changes that are lost.
        leader.skip();
        leader.wait_for_next_refreshes(2);
        act(&mut etcd);
        let back = Instant::now();
        let lost = leader.wait_for_next_start(LOST);
        let took = lost.at.saturating_duration_since(back);
        println!("seen: history lost: the leader stops after {took:?}");
        let reason = lost.message();
        assert!(reason.contains("etcd went back in its history"), "{reason}");
        // A leader tries every two seconds, and anew within two more if it finds no etcd.
        assert!(took < Duration::from_secs(4), "{took:?}");
        leader.wait_for_next(LEADER);
    });
}

#[test]
fn a_leader_whose_etcd_loses_its_data_stops_at_its_next_try_and_says_why() {
    stops_when_history_goes_back(|etcd| {
        etcd.kill_and_forget();
        etcd.up();
    });
}

#[test]
fn a_leader_whose_etcd_is_restored_from_a_backup_stops_at_its_next_try_and_says_why() {
    stops_when_history_goes_back(Etcd::restore);
}
