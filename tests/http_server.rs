//! `--http`: which requests and connections the server accepts, and that none delays the election.

use rustix::net::sockopt::{set_socket_linger, set_tcp_cork};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::daemon::{Daemon, LEADER, LOST};
use support::etcd::Etcd;
use support::http::{get, read_code, read_response, request, wait_for_code};
use support::proxy::refusing;
use support::served::{address, codes, served};
use support::{TTL, poll_until};

const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// Checks that HEAD and OPTIONS have the status code of GET and no body. Returns the code.
fn check_head_and_options(address: &str, path: &str) -> u16 {
    let [get, head, options] =
        ["GET", "HEAD", "OPTIONS"].map(|method| request(address, method, path));
    for response in [&head, &options] {
        assert_eq!(response.code, get.code, "{path}");
        assert_eq!(response.body, "", "{path}");
    }
    assert!(head.header("content-length").is_some(), "{head:?}");
    assert_eq!(options.header("content-length"), Some("0"), "{options:?}");
    assert_eq!(options.header("allow"), Some(ALLOWED), "{options:?}");
    for response in [&get, &head, &options] {
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("connection"), Some("close"));
    }
    get.code
}

#[test]
fn other_methods_and_paths_and_nonsense_are_refused() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    for path in [
        "/",
        "/leader",
        "/follower",
        "/live",
        "/ready",
        "/status",
        "/metrics",
    ] {
        check_head_and_options(&address, path);
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE"] {
            let refused = request(&address, method, path);
            assert_eq!(refused.code, 405, "{method} {path}");
            assert_eq!(refused.header("allow"), Some(ALLOWED), "{refused:?}");
            assert_eq!(refused.body, "only GET, HEAD and OPTIONS are allowed\n");
        }
    }
    for path in ["//", "/leader/", "/Leader", "/leaderx", "//leader"] {
        assert_eq!(check_head_and_options(&address, path), 404, "{path}");
    }
    assert_eq!(get(&address, "/leader?x=1").code, 200);
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"nonsense\r\n\r\n",
        b"GET /leader HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
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

/// Sends a request and closes the sending half of the connection, as `nc -N` does.
fn half_close_after(request: &str, address: &str, in_the_same_segment: bool) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(!in_the_same_segment).unwrap();
    // Holds the request back until the end of the stream is sent with it.
    set_tcp_cork(&stream, in_the_same_segment).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

#[test]
fn a_client_that_closes_its_sending_half_after_the_request_gets_the_response() {
    let address = address();
    let replica = Daemon::spawn("one", served("one", &refusing(), &address));
    wait_for_code(&address, "/live", 200);
    let host = format!("Host: {address}\r\n");
    let requests = [
        (format!("GET /live HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("HEAD /live HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("OPTIONS /leader HTTP/1.1\r\n{host}\r\n"), 503),
        (
            format!("GET /live HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
            200,
        ),
        ("GET /live HTTP/1.0\r\n\r\n".to_owned(), 200),
        (
            "GET /live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(),
            200,
        ),
        ("HEAD /leader HTTP/1.0\r\n\r\n".to_owned(), 503),
        (format!("GET /metrics HTTP/1.1\r\n{host}\r\n"), 200),
        (
            format!("POST /live HTTP/1.1\r\n{host}Content-Length: 9\r\n\r\nabc"),
            405,
        ),
    ];
    for in_the_same_segment in [true, false] {
        let send = |request: &str| half_close_after(request, &address, in_the_same_segment);
        let check = |(request, code): &(String, u16), stream| {
            let response = read_response(stream);
            let what = format!("{request:?}, in the same segment: {in_the_same_segment}");
            assert!(
                response.contains(&format!(" {code} ")),
                "{what}: {response:?}"
            );
            if request.starts_with("GET /live") {
                assert!(
                    response.ends_with("\r\n\r\nalive\n"),
                    "{what}: {response:?}"
                );
            }
        };
        // The server finds the request and the end of the stream together.
        replica.signal(Signal::STOP);
        let waiting = [(); 10].map(|()| requests.each_ref().map(|(request, _)| send(request)));
        replica.signal(Signal::CONT);
        for streams in waiting {
            for (request, stream) in requests.iter().zip(streams) {
                check(request, stream);
            }
        }
        // It finds them at all distances in time that occur by themselves.
        for request in requests.iter().cycle().take(100 * requests.len()) {
            check(request, send(&request.0));
        }
    }
}

#[test]
fn clients_that_go_away_leave_no_connection_behind() {
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    let sockets = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", replica.pid())).unwrap();
        // What has been closed meanwhile is no link any more.
        let links = descriptors.filter_map(|it| fs::read_link(it.ok()?.path()).ok());
        links
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let before = sockets();
    let whole = "GET /leader HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut half_closed = Vec::new();
    for request in [whole, &whole[..20], ""] {
        for _ in 0..100 {
            let mut reset = TcpStream::connect(&address).unwrap();
            reset.write_all(request.as_bytes()).unwrap();
            // Closing it resets the connection.
            set_socket_linger(&reset, Some(Duration::ZERO)).unwrap();
            drop(reset);
            drop(half_close_after(request, &address, true));
            half_closed.push(half_close_after(request, &address, false));
        }
    }
    poll_until("all connections are closed", || {
        (sockets() <= before).then_some(())
    });
    assert_eq!(codes(&address), [200, 503, 200, 200]);
    drop(half_closed);
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
