//! wait-for-it.sh, the first program of a replica's container.

use rustix::process::Signal;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};
use support::process::Process;
use support::project;
use support::proxy::{BlackHole, refusing};

fn start(args: &[&str]) -> Process {
    Process::spawn_script(Command::new(project("wait-for-it.sh")).args(args))
}

/// Runs the script to its end; returns its exit code and its lines.
fn run(args: &[&str]) -> (i32, Vec<String>) {
    let (status, lines) = start(args).finish();
    (status.code().expect("an exit code"), lines)
}

/// Waits for the script's next line, whatever it is.
fn wait_for_next_line(script: &mut Process) {
    script.wait_for_next_line("a line", |_| true);
}

/// Returns an address that accepts connections.
fn open() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
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
    let id = script.pid().as_raw_nonzero();
    let (status, lines) = script.finish();
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
    script.wait_for_next("ready");
    script.signal(Signal::TERM);
    assert_eq!(script.wait_exit().signal(), Some(15));
}

#[test]
fn host_and_port_can_be_given_in_two_options() {
    let (_listener, address) = open();
    let (host, port) = address.split_once(':').unwrap();
    let (host_is, port_is) = (format!("--host={host}"), format!("--port={port}"));
    let cases: &[&[&str]] = &[
        &["-h", host, "-p", port],
        &["-p", port, "-h", host],
        &[&host_is, &port_is],
        &["--host", host, "--port", port],
        &["-h", host, &port_is],
    ];
    for target in cases {
        let args = [*target, &["--", "echo", "running"]].concat();
        let (code, lines) = run(&args);
        assert_eq!((code, lines.len()), (0, 3), "{args:?}: {lines:#?}");
        assert_eq!(lines[0], waiting(15, &address), "{args:?}");
        assert!(is_available(&lines[1], &address), "{args:?}: {lines:#?}");
        assert_eq!(lines[2], "running", "{args:?}");

        // What precedes and follows them keeps its meaning.
        let args = [&["-q", "-t", "5"][..], target, &["-s", "--", "false"]].concat();
        assert_eq!(run(&args), (1, vec![]), "{args:?}");
    }
}

#[test]
fn long_options_mean_what_the_short_ones_do() {
    let address = refusing();
    let over = format!("wait-for-it.sh: {address} is still not available after 1 seconds");
    for limit in [
        &["--timeout=1"][..],
        &["--timeout", "1"],
        &["--timeout=01"],
        &["-t", "1"],
    ] {
        for strict in ["--strict", "-s"] {
            let args = [limit, &[strict, &address, "--", "echo", "running"]].concat();
            assert_eq!(
                run(&args),
                (
                    1,
                    vec![waiting(1, &address), format!("{over}; not running echo")]
                ),
                "{args:?}"
            );
        }
        let args = [limit, &["--quiet", &address, "--", "echo", "running"]].concat();
        assert_eq!(run(&args), (0, vec!["running".into()]), "{args:?}");
        let args = [limit, &["--quiet", "--strict", &address, "--", "echo"]].concat();
        assert_eq!(run(&args), (1, vec![]), "{args:?}");
    }
}

#[test]
fn it_goes_on_as_soon_as_the_port_answers() {
    for limit in ["-t60", "-t0", "--timeout=60", "--timeout=0"] {
        let address = refusing();
        let limit = match limit.strip_prefix("-t") {
            Some(seconds) => vec!["-t", seconds],
            None => vec![limit],
        };
        let args = [&[address.as_str()], &*limit, &["--", "echo", "running"]].concat();
        let mut script = start(&args);
        wait_for_next_line(&mut script);
        let _listener = TcpListener::bind(&address).unwrap();
        let (status, lines) = script.finish();
        assert!(status.success());
        assert!(is_available(&lines[1], &address), "{lines:#?}");
        assert_eq!(lines[2], "running");
    }
}

#[test]
fn after_the_time_it_says_so_and_runs_the_command_anyway() {
    let address = refusing();
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
fn if_strict_it_does_not_run_the_command_after_the_time() {
    let address = refusing();
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
fn an_address_that_drops_packets_does_not_hold_it_up() {
    let hole = BlackHole::new();
    let address = hole.endpoint();
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
        wait_for_next_line(&mut script);
        let begin = Instant::now();
        script.signal(Signal::TERM);
        // That includes an attempt that it leaves behind, which would hold its output.
        assert_eq!(script.wait_exit().code(), Some(143));
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

    // A machine without IPv6 has no [::1], and a connection to it fails.
    let listener = TcpListener::bind("[::1]:0");
    let port = listener
        .as_ref()
        .map_or(9, |listener| listener.local_addr().unwrap().port());
    let (address, port) = (format!("[::1]:{port}"), port.to_string());
    for target in [
        &[&*address][..],
        &["-h", "::1", "-p", &port],
        &["-h", "[::1]", "-p", &port],
    ] {
        let (code, lines) = run(&[target, &["-t", "1"]].concat());
        assert_eq!(code == 0, listener.is_ok(), "{lines:#?}");
        assert_eq!(lines[0], waiting(1, &address));
        assert_eq!(
            is_available(&lines[1], &address),
            listener.is_ok(),
            "{lines:#?}"
        );
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused_in_one_line() {
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
        &["[a:80]:1"],
        &["a:1", "--timeout="],
        &["a:1", "--timeout"],
        &["a:1", "--quiet=yes"],
        // As with `-h "$HOST"` or `-h $HOST`, where that is empty: no help, whose exit code is 0.
        &["-h", "", "-p", "1"],
        &["-h", "-p", "1"],
        &["-p", "1", "-h"],
        &["-h", "--", "echo"],
        &["-h", "a", "-p"],
        &["-h", "a", "-p", "x"],
        &["-h", "a", "-p", "0"],
        &["-h", "a", "-p", "65536"],
        &["-h", "a"],
        &["-p", "1"],
        &["--host=", "--port=1"],
        &["--host=a", "--port="],
        &["--host=a"],
        &["-h", "a:1", "-p", "1"],
        &["-h", "a", "-p", "1", "b:2"],
        &["-h", "a", "-p", "1", "echo"],
    ];
    for args in cases {
        let (code, lines) = run(args);
        assert_eq!((code, lines.len()), (2, 1), "{args:?}: {lines:#?}");
        assert!(
            lines[0].starts_with("wait-for-it.sh: "),
            "{args:?}: {lines:#?}"
        );
    }
    for option in ["--help", "-h"] {
        let (code, help) = run(&[option]);
        assert_eq!(code, 0);
        assert!(
            help[0].starts_with("Usage: wait-for-it.sh HOST:PORT"),
            "{help:#?}"
        );
    }
}
