//! Reports to a service manager: systemd's protocol, on a real socket.

use rustix::process::Signal;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, json};
use support::etcd::{Etcd, binaries};
use support::proxy::refusing;
use support::{PATIENCE, TTL};

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// Receives the next report, if one comes in time.
    fn next(&self, timeout: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(timeout)).unwrap();
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    fn expect(&self, expected: &str) {
        assert_eq!(self.next(PATIENCE).as_deref(), Some(expected));
    }
}

fn managed(name: &str, endpoint: &str, address: &str) -> Command {
    let mut command = json(name, endpoint);
    command.env("NOTIFY_SOCKET", address);
    command
}

#[test]
fn it_reports_that_it_is_ready_then_its_role_and_that_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut etcd = Etcd::absent(binaries().last().unwrap());
    let command = managed("server1", &etcd.endpoint(), path.to_str().unwrap());
    let mut leader = Daemon::spawn("server1", command);
    leader.wait_for_next_line("an outage", support::daemon::Line::is_warning);
    assert_eq!(
        manager.next(TTL / 2),
        None,
        "it is not ready before etcd runs"
    );
    etcd.up();
    manager.expect("READY=1");
    manager.expect("STATUS=The leader.");

    let name = format!("leader-election-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let other_manager = Manager(UnixDatagram::bind_addr(&address).unwrap());
    let command = managed("server2", &etcd.endpoint(), &format!("@{name}"));
    let mut follower = Daemon::spawn("server2", command);
    follower.wait_for_next(FOLLOWER);
    other_manager.expect("READY=1");
    other_manager.expect("STATUS=A follower of 'server1'.");

    leader.signal(Signal::TERM);
    manager.expect("STOPPING=1");
    assert_eq!(leader.wait_exit().code(), Some(0));
    follower.wait_for_next(LEADER);
    other_manager.expect("STATUS=A follower; nobody leads.");
    other_manager.expect("STATUS=The leader.");
}

#[test]
fn a_replica_whose_job_is_done_is_ready_before_it_ends() {
    let etcd = Etcd::newest();
    etcd.put("leader/done/x", b"{}", None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut command = managed("server1", &etcd.endpoint(), path.to_str().unwrap());
    command.args(["--once", "x", "--", "true"]);
    let mut replica = Daemon::spawn("server1", command);
    manager.expect("READY=1");
    manager.expect("STOPPING=1");
    assert_eq!(replica.wait_exit().code(), Some(0));
}

#[test]
fn a_manager_that_is_absent_or_does_not_read_does_not_delay_the_election() {
    let etcd = Etcd::newest();
    for address in ["/nowhere/notify", "vsock:2:1", "@nobody"] {
        let mut command = managed("server1", &etcd.endpoint(), address);
        command.args(["--leader-key", address]);
        let mut leader = Daemon::spawn(address, command);
        leader.wait_for_next_refreshes(1);
        let warnings = leader.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("NOTIFY_SOCKET"), "{warnings:?}");
    }
    // A manager whose queue is full from the start.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"X=1", &path).is_ok() {}
    let command = managed("server1", &etcd.endpoint(), path.to_str().unwrap());
    let mut leader = Daemon::spawn("server1", command);
    leader.wait_for_next_refreshes(2);
    assert!(leader.warnings().is_empty(), "{:?}", leader.warnings());
    drop(manager);
}

#[test]
fn a_watchdog_hears_of_a_replica_that_works_whether_etcd_does_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let timeout = Duration::from_millis(1500);
    let start = |process: Option<&str>| {
        // Nothing answers there.
        let mut command = managed("server1", &refusing(), path.to_str().unwrap());
        command.env("WATCHDOG_USEC", timeout.as_micros().to_string());
        command.envs(process.map(|process| ("WATCHDOG_PID", process)));
        Daemon::spawn("server1", command)
    };
    let mut replica = start(None);
    for _ in 0..5 {
        assert_eq!(manager.next(timeout).as_deref(), Some("WATCHDOG=1"));
    }
    replica.signal(Signal::TERM);
    assert_eq!(replica.wait_exit().code(), Some(0));
    while manager.next(Duration::from_millis(1)).is_some() {}

    // The watchdog of another process.
    let mut replica = start(Some("1"));
    assert_eq!(manager.next(2 * timeout), None);
    replica.signal(Signal::TERM);
    manager.expect("STOPPING=1");
    assert_eq!(replica.wait_exit().code(), Some(0));
}

#[test]
fn a_command_gets_nothing_that_the_manager_gave_to_its_daemon() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let _manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut command = managed("server1", &etcd.endpoint(), path.to_str().unwrap());
    for variable in [
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "JOURNAL_STREAM",
    ] {
        command.env(variable, "1");
    }
    command.env("INVOCATION_ID", "7").args(["--", "env"]);
    let mut replica = Daemon::spawn("server1", command);
    assert_eq!(replica.wait_exit().code(), Some(0));
    let lines = replica.texts();
    assert!(lines.contains(&"INVOCATION_ID=7".to_owned()), "{lines:?}");
    for start in ["NOTIFY_", "WATCHDOG_", "LISTEN_", "JOURNAL_"] {
        let passed = lines.iter().find(|line| line.starts_with(start));
        assert_eq!(passed, None);
    }
}

#[test]
fn the_example_unit_waits_until_it_is_ready_and_sets_variables_that_exist() {
    let unit = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/leader-election.service"
    ))
    .unwrap();
    for line in [
        "Type=notify",
        "ExecStart=/usr/local/bin/leader-election",
        "TimeoutStartSec=infinity",
        "Restart=always",
        "WatchdogSec=30",
        "EnvironmentFile=-/etc/default/leader-election",
        "#LoadCredential=etcd-password:/etc/leader-election.password",
        "#Environment=LEADER_ELECTION_ETCD_PASSWORD_FILE=%d/etcd-password",
    ] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    let mut help = support::daemon::command();
    let help = help.arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let variable = "LEADER_ELECTION_ETCD=";
    assert!(unit.contains(variable) && help.contains(variable.trim_end_matches('=')));
}
