//! `examples/haproxy.sh` lets a real `HAProxy` follow the leader.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use support::daemon::{Daemon, LEADER, json, wait_for_next_roles};
use support::etcd::Etcd;
use support::http::try_request;
use support::operator::at;
use support::served::address;
use support::{poll_until, project};
use tempfile::TempDir;

/// Serves this text over HTTP until the tests end; returns where.
fn serve(text: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The other side may give up the connection.
            let _ = respond(&stream, &text);
        }
    });
    address
}

fn respond(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

/// What an `HAProxy` of the example listens at and writes. It is ended with the test.
struct Proxy {
    front: String,
    folder: TempDir,
}

impl Proxy {
    fn new() -> Self {
        Self {
            front: address(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("haproxy.cfg")
    }

    /// Returns the process of the `HAProxy`, if there is one.
    fn process(&self) -> Option<Pid> {
        let id = fs::read_to_string(self.folder.path().join("haproxy.cfg.pid")).ok()?;
        let id = id.trim();
        let name = fs::read_to_string(Path::new("/proc").join(id).join("comm")).ok()?;
        (name == "haproxy\n").then(|| Pid::from_raw(id.parse().unwrap()).unwrap())
    }

    /// Waits until a request gets this status code, and this body where there is a leader.
    fn wait_for_response(&self, code: u16, body: Option<&str>) {
        poll_until(&format!("the response is {code} {body:?}"), || {
            let response = try_request(&self.front, "GET", "/").ok()?;
            let is_it = response.code == code && body.is_none_or(|body| response.body == body);
            is_it.then_some(())
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(process) = self.process() {
            let _ = kill_process(process, Signal::TERM);
        }
    }
}

#[test]
fn an_haproxy_sends_requests_to_the_leader_before_and_after_a_fail_over_and_to_nobody_without_one()
{
    let etcd = Etcd::newest();
    let proxy = Proxy::new();
    let mut command = at(&etcd.endpoint(), &["observe", "--"]);
    command.arg(project("examples/haproxy.sh"));
    command.arg(proxy.file()).arg(&proxy.front);
    let mut observer = Daemon::spawn("observer", command);
    proxy.wait_for_response(503, None);

    let spawn = |number: usize| {
        let name = format!("server{number}");
        let mut command = json(&name, &etcd.endpoint());
        let address = serve(name.clone());
        // Both forms that the example takes.
        let scheme = if number == 1 { "http://" } else { "" };
        command.args(["--advertise", &format!("{scheme}{address}")]);
        Daemon::spawn(&name, command)
    };
    let mut replicas: Vec<_> = (1..=3).map(spawn).collect();
    let leader = wait_for_next_roles(&mut replicas);
    proxy.wait_for_response(200, Some(&replicas[leader].name));
    replicas.remove(leader).crash();

    let leader = wait_for_next_roles(&mut replicas);
    proxy.wait_for_response(200, Some(&replicas[leader].name));
    let mut stopped = replicas.remove(leader);
    stopped.signal(Signal::TERM);
    stopped.wait_exit();

    let mut last = replicas.remove(0);
    last.wait_for_next(LEADER);
    proxy.wait_for_response(200, Some(&last.name));
    // The proxy works on while nothing observes, and another observer continues with it.
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
    let texts = observer.texts();
    assert!(texts.is_empty(), "{texts:?}");
    proxy.wait_for_response(200, Some(&last.name));
    let mut command = at(&etcd.endpoint(), &["observe", "--"]);
    command.arg(project("examples/haproxy.sh"));
    command.arg(proxy.file()).arg(&proxy.front);
    let mut observer = Daemon::spawn("observer", command);
    last.signal(Signal::TERM);
    last.wait_exit();
    proxy.wait_for_response(503, None);
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
}

#[test]
fn an_address_that_haproxy_cannot_use_or_that_is_hostile_sends_requests_to_nobody() {
    let proxy = Proxy::new();
    let run = |state: &str, address: &str| {
        let mut command = Command::new(project("examples/haproxy.sh"));
        command.arg(proxy.file()).arg(&proxy.front);
        command.env("LEADER_ELECTION_STATE", state);
        command.env("LEADER_ELECTION_ADDRESS", address);
        let output = command.output().unwrap();
        let text = fs::read_to_string(proxy.file()).unwrap();
        let servers = text
            .lines()
            .filter_map(|line| line.strip_prefix("    server "));
        let servers: Vec<_> = servers.map(str::to_owned).collect();
        assert!(proxy.process().is_some());
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), servers, said.is_empty())
    };
    for address in ["127.0.0.1:80", "[::1]:80", "localhost:80"] {
        let expected = vec![format!("leader {address}")];
        assert_eq!(run("led", address), (true, expected, true), "{address}");
    }
    assert_eq!(run("vacant", ""), (true, Vec::new(), true));
    for address in [
        "",
        "127.0.0.1",
        "https://x:443",
        "x:1\n    server y y:1",
        "$(id):1",
    ] {
        assert_eq!(run("led", "127.0.0.1:80").1.len(), 1);
        assert_eq!(run("led", address), (true, Vec::new(), false), "{address}");
    }
    // It may become usable, so that it is tried again.
    for address in ["no-such-host.invalid:80", "127.0.0.1:99999"] {
        assert_eq!(run("led", "127.0.0.1:80").1.len(), 1);
        assert_eq!(run("led", address), (false, Vec::new(), false), "{address}");
    }
}
