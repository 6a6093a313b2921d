//! `--http`: which requests and connections the server accepts, and that none delays the election.
mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::TTL;
use support::daemon::{Daemon, LEADER, LOST};
use support::etcd::Etcd;
use support::http::{get, read_code, request};
use support::proxy::refusing;
use support::served::{address, codes, served};

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
