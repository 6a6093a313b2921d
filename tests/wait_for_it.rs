//! wait-for-it.sh, which starts a replica's container.
#[path = "support/process.rs"]
mod process;

use process::{PATIENCE, Process, project};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

fn start(args: &[&str]) -> Process {
    Process::start(Command::new(project("wait-for-it.sh")).args(args))
}

/// Runs the script to its end and returns its exit code and what was printed.
fn run(args: &[&str]) -> (i32, Vec<String>) {
    let (status, lines) = start(args).wait_end(PATIENCE);
    (status.code().expect("an exit code"), lines)
}

/// An address where somebody listens.
fn open() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// An address where nobody listens: a loopback address of its own, which no other program picks.
fn closed() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let host = format!("127.0.7.{}:0", NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind(host).unwrap();
    listener.local_addr().unwrap().to_string()
}

fn waiting(seconds: u32, address: &str) -> String {
    format!("wait-for-it.sh: waiting {seconds} seconds for {address}")
}

fn is_available(line: &str, address: &str) -> bool {
    line.strip_prefix(&format!("wait-for-it.sh: {address} is available after "))
        .and_then(|rest| rest.strip_suffix(" seconds"))
        .is_some_and(|seconds| seconds.parse::<u32>().is_ok())
}

#[test]
fn it_waits_and_then_becomes_the_command() {
    let (_listener, address) = open();
    let mut script = start(&[
        &address,
        "--",
        "bash",
        "-c",
        "echo $$ \"$@\"",
        "bash",
        "a b",
        "-q",
    ]);
    let id = script.id();
    let (status, lines) = script.wait_end(PATIENCE);
    assert!(status.success());
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[0], waiting(15, &address));
    assert!(is_available(&lines[1], &address), "{lines:#?}");
    assert_eq!(lines[2], format!("{id} a b -q"));
}

#[test]
fn the_exit_code_and_the_signals_are_the_commands_own() {
    let (_listener, address) = open();
    assert_eq!(
        run(&[&address, "-q", "--", "bash", "-c", "exit 7"]),
        (7, vec![])
    );

    let mut script = start(&[&address, "--", "bash", "-c", "echo ready; exec sleep 600"]);
    script.wait_until_lines("the command", |lines| {
        lines.iter().find(|line| *line == "ready").map(drop)
    });
    script.signal(Signal::TERM);
    assert_eq!(script.wait_end(PATIENCE).0.signal(), Some(15));
}

#[test]
fn it_goes_on_as_soon_as_the_port_answers() {
    for limit in ["60", "0"] {
        let address = closed();
        let mut script = start(&[&address, "-t", limit, "--", "echo", "running"]);
        script.wait_until_lines("its first line", |lines| lines.first().map(drop));
        let _listener = TcpListener::bind(&address).unwrap();
        let (status, lines) = script.wait_end(PATIENCE);
        assert!(status.success());
        assert!(is_available(&lines[1], &address), "{lines:#?}");
        assert_eq!(lines[2], "running");
    }
}

#[test]
fn when_the_time_is_over_it_says_so_and_runs_the_command_anyway() {
    let address = closed();
    let over = format!("wait-for-it.sh: {address} is still not available after 1 seconds");
    assert_eq!(
        run(&[&address, "-t", "1", "--", "echo", "running"]),
        (
            0,
            vec![
                waiting(1, &address),
                format!("{over}; running echo anyway"),
                "running".into()
            ]
        )
    );
    assert_eq!(
        run(&["-t", "1", "-q", &address, "--", "echo", "running"]),
        (0, vec!["running".into()])
    );
    assert_eq!(
        run(&[&address, "-t", "1"]),
        (1, vec![waiting(1, &address), over])
    );
}

#[test]
fn when_strict_it_does_not_run_the_command_after_the_time() {
    let address = closed();
    assert_eq!(
        run(&[&address, "-s", "-t", "1", "--", "echo", "running"]),
        (
            1,
            vec![
                waiting(1, &address),
                format!(
                    "wait-for-it.sh: {address} is still not available after 1 seconds; not running echo"
                ),
            ]
        )
    );
}

#[test]
fn an_address_that_swallows_packets_does_not_hold_it_up() {
    // Linux drops what comes to a listener whose queue is full.
    let (listener, address) = open();
    let target: SocketAddr = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&target, Duration::from_millis(500)) {
        queue.push(stream);
        assert!(queue.len() < 10_000, "the queue does not fill");
    }

    let begin = Instant::now();
    assert_eq!(run(&[&address, "-t", "1", "-s"]).0, 1);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );

    // Often, since it is the first milliseconds of an attempt that matter.
    for _ in 0..50 {
        let mut script = start(&[&address, "-t", "0"]);
        script.wait_until_lines("its first line", |lines| lines.first().map(drop));
        let begin = Instant::now();
        script.signal(Signal::TERM);
        // That includes an attempt that it leaves behind, which would hold its output.
        assert_eq!(script.wait_end(PATIENCE).0.code(), Some(143));
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "{:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn it_takes_names_and_ipv6_addresses() {
    let (listener, _) = open();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    assert!(is_available(&run(&[&address]).1[1], &address));

    // A machine without IPv6 has no [::1]; then nobody answers there.
    let listener = TcpListener::bind("[::1]:0");
    let port = listener
        .as_ref()
        .map_or(9, |listener| listener.local_addr().unwrap().port());
    let address = format!("[::1]:{port}");
    let (code, lines) = run(&[&address, "-t", "1"]);
    assert_eq!(code == 0, listener.is_ok(), "{lines:#?}");
    assert_eq!(lines[0], waiting(1, &address));
    assert_eq!(
        is_available(&lines[1], &address),
        listener.is_ok(),
        "{lines:#?}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let cases: &[&[&str]] = &[
        &[],
        &["--", "echo"],
        &["host"],
        &["host:"],
        &[":2379"],
        &["host:0"],
        &["host:65536"],
        &["host:x"],
        &["http://host:2379"],
        &["::1:2379"],
        &["a:1", "b:2"],
        &["a:1", "echo"],
        &["a:1", "-t"],
        &["a:1", "-t", "-1"],
        &["a:1", "-t", "1.5"],
        &["a:1", "-x"],
    ];
    for args in cases {
        let (code, lines) = run(args);
        assert_eq!((code, lines.len()), (2, 1), "{args:?}: {lines:#?}");
        assert!(
            lines[0].starts_with("wait-for-it.sh: "),
            "{args:?}: {lines:#?}"
        );
    }
    let (code, help) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(
        help[0].starts_with("Usage: wait-for-it.sh HOST:PORT"),
        "{help:#?}"
    );
}
