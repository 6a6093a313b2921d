//! `GET /presence`: what is served to whom, how many connections there may be, and which addresses of leaders are used.

use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, after};
use support::etcd::Etcd;
use support::http::{get, get_json, read_code, request};
use support::proxy::{BlackHole, refusing};
use support::served::{self, address};
use support::watched::{check_followed_on, check_led_on, limited, served};
use support::{PATIENCE, changed, let_pass, poll_until, wait_until};

/// Long enough that a busy machine costs no term.
const LIMIT: Duration = Duration::from_secs(2);

/// A follower's connection, played by the test.
struct Follower(BufReader<TcpStream>);

impl Follower {
    /// Connects and asks.
    fn new(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET /presence HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// Reads the next line of the connection; nothing at its end. A body in chunks has some more lines.
    fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.pop().map(|_| line.trim_end().to_owned())
    }

    /// Reads the status code.
    fn code(&mut self) -> u16 {
        let line = self.next_line().expect("a response");
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Reads until this line.
    fn wait_for(&mut self, expected: &str) {
        while let Some(line) = self.next_line() {
            if line == expected {
                return;
            }
        }
        panic!("it ends before {expected:?}");
    }

    /// Reads to the end, which must come in order.
    fn wait_for_goodbye(&mut self) {
        self.wait_for("goodbye");
        // What follows is the end of a body in chunks.
        let rest: Vec<_> = std::iter::from_fn(|| self.next_line()).collect();
        assert_eq!(rest, ["", "0", ""]);
    }
}

/// Starts a leader whose presence is served at this address, with this limit on its file descriptors.
fn leader(etcd: &Etcd, http: &str, descriptors: usize) -> Daemon {
    let command = served("leads", &etcd.endpoint(), LIMIT, http, http);
    let limit = format!("ulimit -n {descriptors}");
    let mut leader = Daemon::spawn("leads", after(&limit, &command));
    leader.wait_for_next(LEADER);
    leader
}

#[test]
fn a_leader_with_a_limit_serves_its_presence_for_as_long_as_it_leads() {
    let etcd = Etcd::newest();
    let http = address();
    let mut leader = leader(&etcd, &http, 1024);
    let mut follower = Follower::new(&http);
    assert_eq!(follower.code(), 200);
    let token = get_json(&http, "/status")["token"].as_i64().unwrap();
    follower.wait_for(&format!("token {token}"));
    let begun = Instant::now();
    let mut signs = 0;
    // Longer than other connections last.
    while begun.elapsed() < Duration::from_secs(7) {
        follower.wait_for("alive");
        signs += 1;
    }
    // Four in a limit, and fewer on a busy machine.
    assert!((7..=16).contains(&signs), "{signs}");
    assert_eq!(request(&http, "HEAD", "/presence").code, 200);
    let options = request(&http, "OPTIONS", "/presence");
    assert_eq!(options.code, 200);
    assert_eq!(options.header("allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(request(&http, "POST", "/presence").code, 405);

    let other = address();
    let other_replica = served("follows", &etcd.endpoint(), LIMIT, &other, &other);
    let mut other_replica = Daemon::spawn("follows", other_replica);
    other_replica.wait_for_next(FOLLOWER);
    let refused = get(&other, "/presence");
    assert_eq!(refused.code, 503);
    assert_eq!(refused.body, "not the leader\n");
    assert_eq!(request(&other, "HEAD", "/presence").code, 503);

    leader.signal(Signal::TERM);
    follower.wait_for_goodbye();
    assert_eq!(leader.wait_exit().code(), Some(0));
}

#[test]
fn a_leader_without_a_limit_has_no_presence() {
    let etcd = Etcd::newest();
    let http = address();
    let mut leader = Daemon::spawn("one", served::served("one", &etcd.endpoint(), &http));
    leader.wait_for_next(LEADER);
    let refused = get(&http, "/presence");
    assert_eq!(refused.code, 503);
    let sentence = "the term has no fail-over limit, so there is nothing to watch\n";
    assert_eq!(refused.body, sentence);
}

#[test]
fn followers_have_connections_of_their_own_up_to_a_quarter_of_the_file_descriptors_or_1024() {
    let etcd = Etcd::newest();
    for (descriptors, most) in [(256, 64), (6000, 1024)] {
        let http = address();
        let mut leader = leader(&etcd, &http, descriptors);
        let mut followers: Vec<_> = (0..most)
            .map(|_| {
                let mut follower = Follower::new(&http);
                assert_eq!(follower.code(), 200);
                follower
            })
            .collect();
        let surplus = get(&http, "/presence");
        assert_eq!(surplus.code, 503);
        assert_eq!(surplus.body, "too many followers are connected already\n");
        assert_eq!(get(&http, "/live").code, 200);
        // Others that connect cost a follower nothing.
        let idle: Vec<_> = (0..300)
            .map(|_| TcpStream::connect(&http).unwrap())
            .collect();
        assert_eq!(get(&http, "/live").code, 200);
        for stream in idle {
            assert_eq!(read_code(stream), None);
        }
        for follower in &mut followers {
            follower.wait_for("alive");
        }
        // A place is free once a follower has gone.
        drop(followers.pop());
        let mut next = poll_until("there is a place", || {
            let mut next = Follower::new(&http);
            (next.code() == 200).then_some(next)
        });
        check_led_on(&leader);
        leader.signal(Signal::TERM);
        next.wait_for_goodbye();
        for follower in &mut followers {
            follower.wait_for_goodbye();
        }
        assert_eq!(leader.wait_exit().code(), Some(0));
        assert!(leader.warnings().is_empty(), "{:?}", leader.warnings());
    }
}

/// A server that is not a leader.
struct Server {
    address: String,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Serves each connection in this way, until the tests end.
    fn start(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                changed();
                thread::spawn(move || serve(stream));
            }
        });
        Self { address, accepted }
    }

    /// Responds with this text and closes the connection.
    fn responding(text: &'static str) -> Self {
        Self::start(move |mut stream| {
            // The other side may have gone.
            let _ = stream.write_all(text.as_bytes());
        })
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Returns the command in an election of its own.
fn in_election(mut command: Command, key: &str) -> Command {
    command.args(["--leader-key", key]);
    command
}

/// Starts a leader that advertises this address, and a follower, in an election of their own.
fn pair(etcd: &Etcd, key: &str, address: &str) -> [Daemon; 2] {
    let endpoint = etcd.endpoint();
    let mut leads = in_election(limited("leads", &endpoint, LIMIT), key);
    leads.args(["--advertise", address]);
    let mut leader = Daemon::spawn("leads", leads);
    leader.wait_for_next(LEADER);
    let follows = in_election(limited("follows", &endpoint, LIMIT), key);
    let mut follower = Daemon::spawn("follows", follows);
    follower.wait_for_next(FOLLOWER);
    [leader, follower]
}

#[test]
fn an_address_that_is_not_the_url_of_an_http_server_is_not_used() {
    let etcd = Etcd::newest();
    let server = Server::responding("");
    let at = &server.address;
    let addresses = [
        format!("https://{at}"),
        at.clone(),
        format!("http://{at}/app"),
        format!("http://{at}?a=b"),
        format!("http://user@{at}"),
        "http://127.0.0.1".to_owned(),
        "http://127.0.0.1:99999".to_owned(),
        "nonsense".to_owned(),
    ];
    let numbered = addresses.iter().enumerate();
    let pairs: Vec<_> = numbered
        .map(|(number, it)| {
            (
                format!("key{number}"),
                pair(&etcd, &format!("key{number}"), it),
            )
        })
        .collect();
    // It would connect within a limit.
    let_pass(LIMIT * 2);
    assert_eq!(server.accepted(), 0);
    for (key, [leader, follower]) in &pairs {
        check_led_on(leader);
        check_followed_on(follower);
        let lines = follower.texts();
        let about_it = |line: &String| line.contains("watched");
        assert!(!lines.iter().any(about_it), "{lines:?}");
        assert_eq!(etcd.count_challenges(key), 0);
    }
}

#[test]
fn a_server_that_is_not_the_leader_costs_no_term_and_is_asked_less_and_less() {
    let etcd = Etcd::newest();
    let ok = "HTTP/1.1 200 OK\r\n\r\n";
    let servers = [
        ("text", Server::responding("nonsense\n")),
        ("closes", Server::responding("")),
        (
            "not-found",
            Server::responding("HTTP/1.1 404 Not Found\r\n\r\n"),
        ),
        (
            "refuses",
            Server::responding("HTTP/1.1 503 Busy\r\n\r\nnot the leader\n"),
        ),
        (
            "no-token",
            Server::responding("HTTP/1.1 200 OK\r\n\r\n<!doctype html>\n"),
        ),
        (
            "other-token",
            Server::responding("HTTP/1.1 200 OK\r\n\r\ntoken 1\nalive\n"),
        ),
        (
            "silent",
            Server::start(|stream| {
                let_pass(PATIENCE);
                drop(stream);
            }),
        ),
        (
            "endless-head",
            Server::start(|mut stream| {
                let mut is_open = stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok();
                while is_open {
                    is_open = stream.write_all(b"x: y\r\n").is_ok();
                }
            }),
        ),
        (
            "endless-line",
            Server::start(move |mut stream| {
                let mut is_open = stream.write_all(ok.as_bytes()).is_ok();
                while is_open {
                    is_open = stream.write_all(&[b'x'; 4096]).is_ok();
                }
            }),
        ),
    ];
    let pairs: Vec<_> = servers
        .iter()
        .map(|(key, server)| {
            let url = format!("http://{}/", server.address);
            (key, server, pair(&etcd, key, &url))
        })
        .collect();
    for (key, server, [leader, follower]) in pairs {
        let what = format!("it is asked for the third time: {key}");
        wait_until(&what, PATIENCE, || (server.accepted() >= 3).then_some(()));
        check_led_on(&leader);
        check_followed_on(&follower);
        assert_eq!(etcd.count_challenges(key), 0, "{key}");
        let used = follower.cpu_time();
        assert!(used < Duration::from_secs(2), "{key}: {used:?}");
    }
}

#[test]
fn an_address_that_cannot_be_reached_raises_no_suspicion() {
    let etcd = Etcd::newest();
    let black_hole = BlackHole::new();
    let unreachable = [
        ("silent", black_hole.endpoint(), "the connection failed"),
        (
            "unknown",
            "name..invalid:80".into(),
            "its name cannot be resolved",
        ),
    ];
    for (key, address, reason) in unreachable {
        let [leader, mut follower] = pair(&etcd, key, &format!("http://{address}"));
        for _ in 0..2 {
            follower.wait_for_next_line(reason, |line| line.message().contains(reason));
        }
        check_led_on(&leader);
        check_followed_on(&follower);
        assert_eq!(etcd.count_challenges(key), 0, "{key}");
    }
}

#[test]
fn an_address_that_refuses_connections_is_suspected_less_and_less() {
    let etcd = Etcd::newest();
    let url = format!("http://{}", refusing());
    let [leader, mut follower] = pair(&etcd, "refusing", &url);
    let begun = Instant::now();
    for _ in 0..3 {
        follower.wait_for_next_line("it is refused", |line| {
            line.message().contains("the connection is refused")
        });
    }
    // After half a limit at most, 1 and 2 limits.
    let took = begun.elapsed();
    assert!(took > LIMIT * 3, "{took:?}");
    let_pass(LIMIT);
    check_led_on(&leader);
    check_followed_on(&follower);
    let challenges = etcd.count_challenges("refusing");
    assert!((1..=3).contains(&challenges), "{challenges}");
}
