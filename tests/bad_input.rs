//! Invalid values on the command line, valid ones at their limits, and hostile names in etcd.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, EVERYTHING, FOLLOWER, LEADER, Line, Stream, command, json, plain};
use support::etcd::Etcd;
use support::{PATIENCE, wait_until};

/// Returns whether a character can change how the text after it is displayed: control characters, and
/// those of the bidirectional algorithm.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
        )
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether a replica has printed only text without harmful characters, in lines of bounded
/// length.
fn is_harmless(replica: &Daemon) -> bool {
    replica.lines().iter().all(|line| {
        let text = std::str::from_utf8(&line.bytes);
        text.is_ok_and(|text| !text.contains(is_harmful) && text.len() < 4096)
    })
}

/// Returns what is wrong with how a command line was refused: the program should end with 2, and print
/// a line on standard error that names the option and may be followed by hints.
fn complaint(what: &str, command: Command, option: &str) -> Option<String> {
    let mut run = Daemon::spawn(what, command);
    wait_until("it is refused, or begins", PATIENCE, || {
        (run.has_ended() || !run.messages().is_empty()).then_some(())
    });
    if !run.messages().is_empty() {
        return Some(format!("{what} is taken"));
    }
    let refused = run.wait_exit().code() == Some(2);
    let lines = run.lines();
    let said: Vec<_> = lines.iter().map(Line::text).collect();
    let is_hint = |line: &String| {
        let line = line.trim_start();
        let starts = [
            "[possible values: ",
            "Usage: leader-election ",
            "leader-election [OPTIONS] <SUBCOMMAND>",
            "tip: ",
            "For more information, try '--help'.",
        ];
        line.is_empty() || starts.iter().any(|start| line.starts_with(start))
    };
    let is_fine = refused
        && lines.iter().all(|line| line.stream == Stream::Err)
        && said
            .first()
            .is_some_and(|said| said.starts_with("error: ") && said.contains(option))
        && said[1..].iter().all(is_hint)
        && is_harmless(&run);
    (!is_fine).then(|| format!("{what}: {said:?}"))
}

/// Values that are not a TTL.
const TTLS: &[&str] = &[
    "",
    "0",
    "0s",
    "-5",
    "-5s",
    "1.5s",
    "2.5",
    "1500ms",
    "1",
    "1s",
    "1h1s",
    "3601",
    "2h",
    "5x",
    "s",
    "five",
    "NaN",
    "inf",
    "99999999999999999999",
    "5 s 5",
    "1e1",
];

/// Values that are not a list of endpoints.
const ENDPOINTS: &[&str] = &[
    "",
    ",",
    "127.0.0.1:2379,",
    ",127.0.0.1:2379",
    "127.0.0.1:2379,,127.0.0.1:2380",
    "127.0.0.1",
    "localhost:",
    ":2379",
    "localhost:0",
    "localhost:65536",
    "localhost:port",
    "localhost:-1",
    "::1:2379",
    "[::1]",
    "[::1:2379",
    "[::g]:2379",
    "a b:2379",
    "a\n:2379",
    "http://",
    "http://localhost",
    "ftp://localhost:2379",
    "unix:///run/etcd:2379",
    "user@localhost:2379",
    "http://user:secret@localhost:2379",
    "http://localhost:2379/path",
    "http://localhost:2379?query",
    "http://http://localhost:2379",
    "localhost:2379:2379",
];

#[test]
fn invalid_values_are_refused_in_one_clear_line_before_anything_is_written() {
    let etcd = Etcd::newest();
    let before = etcd.revision();
    let long = "n".repeat(256);
    let long_in_bytes = "é".repeat(128);
    let texts = [
        "",
        &long,
        &long_in_bytes,
        "a\nb",
        "\u{1b}[31mred",
        "tab\t",
        "\u{7f}",
        "\u{9b}1m",
        " ",
        "\u{3000}\u{a0}",
        " server1",
        "server1 ",
    ];
    let cases = [
        ("--name", "LEADER_ELECTION_NAME", &texts[..]),
        ("--advertise", "LEADER_ELECTION_ADVERTISE", &texts),
        ("--leader-key", "LEADER_ELECTION_LEADER_KEY", &texts),
        ("--etcd-user", "LEADER_ELECTION_ETCD_USER", &texts),
        (
            "--leader-key",
            "LEADER_ELECTION_LEADER_KEY",
            &["x/acting", "/acting", "leader/acting"],
        ),
        ("--ttl", "LEADER_ELECTION_TTL", TTLS),
        ("--etcd", "LEADER_ELECTION_ETCD", ENDPOINTS),
        (
            "--log-format",
            "LEADER_ELECTION_LOG_FORMAT",
            &["", "xml", "JSON\n"],
        ),
        (
            "--log-filter",
            "LEADER_ELECTION_LOG",
            &["", ",", " ", "info=x"],
        ),
    ];
    let at_etcd = || {
        let mut command = command();
        command.env("LEADER_ELECTION_ETCD", etcd.endpoint());
        command
    };
    let mut complaints = Vec::new();
    for (option, variable, values) in cases {
        for value in values {
            let mut command = at_etcd();
            command.arg(format!("{option}={value}"));
            complaints.extend(complaint(&format!("{option}={value:?}"), command, option));

            // An empty variable counts as unset.
            if !value.is_empty() {
                let mut command = at_etcd();
                command.env(variable, value);
                let what = format!("{variable}={value:?}");
                complaints.extend(complaint(&what, command, variable));
            }
        }
        let mut command = at_etcd();
        let mut argument = OsString::from(format!("{option}="));
        argument.push(OsStr::from_bytes(b"\xff\xfe"));
        command.arg(argument);
        // The parser does not always name the option.
        complaints.extend(complaint(&format!("{option} in bytes"), command, ""));
    }
    for unknown in ["--unknown", "-x", "surplus", "--ttl"] {
        let mut command = at_etcd();
        command.arg(unknown);
        complaints.extend(complaint(unknown, command, unknown));
    }
    let mut command = at_etcd();
    command.args(["--ttl", "-5"]);
    complaints.extend(complaint(
        "a TTL that looks like an option",
        command,
        "--ttl",
    ));
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(etcd.revision(), before, "nothing was written");
    assert_eq!(etcd.leases(), [""; 0], "nor any lease granted");
}

#[test]
fn the_help_does_not_print_the_values_of_variables() {
    let mut command = command();
    command
        .arg("--help")
        .env("LEADER_ELECTION_ETCD", "http://user:sesame@localhost:2379");
    let mut help = Daemon::spawn("help", command);
    assert_eq!(help.wait_exit().code(), Some(0));
    let printed = help.messages().join("\n");
    assert!(printed.contains("LEADER_ELECTION_ETCD"), "{printed}");
    assert!(!printed.contains("sesame"), "{printed}");
}

#[test]
fn a_password_in_an_endpoint_is_not_printed() {
    let endpoint = "http://user:secret@localhost:2379";
    // The second time, the option is forgotten.
    for argument in [&format!("--etcd={endpoint}"), endpoint] {
        let mut command = command();
        command.arg(argument);
        let mut run = Daemon::spawn("with a password", command);
        assert_eq!(run.wait_exit().code(), Some(2));
        let lines: Vec<_> = run.lines().iter().map(Line::text).collect();
        assert!(lines[0].contains("…@localhost:2379"), "{lines:#?}");
        assert!(!lines.concat().contains("secret"), "{lines:#?}");
    }
}

#[test]
fn an_unknown_option_is_printed_harmlessly() {
    for subcommand in [&[][..], &["status"], &["health"], &["completions"]] {
        let mut command = command();
        command
            .args(subcommand)
            .arg("--a\nI am the leader.\u{202e}");
        let what = format!("an unknown option of {subcommand:?}");
        let complaint = complaint(&what, command, r"--a\nI am the leader.\u{202e}");
        assert_eq!(complaint, None);
    }
}

#[test]
fn ttls_from_two_seconds_to_an_hour_are_granted_as_given() {
    let etcd = Etcd::newest();
    for (given, seconds) in [
        ("2", 2),
        ("2s", 2),
        ("5", 5),
        ("5s", 5),
        ("60", 60),
        ("1m", 60),
        ("1m 5s", 65),
        ("1h", 3600),
    ] {
        let mut command = command();
        command.args([
            "--name",
            "server1",
            "--etcd",
            &etcd.endpoint(),
            "--ttl",
            given,
        ]);
        command.args(["--leader-key", given, "--log-format", "json"]);
        let mut leader = Daemon::spawn(given, command);
        let lease = leader.wait_for_next(LEADER).field("lease").unwrap();
        let answer = etcd.etcdctl(&["lease", "timetolive", &lease]);
        assert!(
            answer.contains(&format!("granted with TTL({seconds}s)")),
            "{given}: {answer}"
        );
        assert!(leader.warnings().is_empty(), "{:?}", leader.warnings());
    }
}

#[test]
fn endpoints_of_every_kind_are_accepted_and_printed_as_given() {
    for given in [
        "etcd_server:2378",
        "[::1]:2379",
        "http://[::1]:2379",
        "http://etcd_server:2378",
        "http://127.0.0.1:2379/",
        "a-b.example.com:1",
        "127.0.0.1:65535",
        "127.0.0.1:1,etcd_server:2378,[::1]:3",
    ] {
        let mut run = Daemon::spawn(given, plain("server1", given));
        run.wait_for_next(&format!("Connecting to etcd at '{given}'"));
        run.signal(rustix::process::Signal::TERM);
        assert_eq!(run.wait_exit().code(), Some(0));
    }
}

#[test]
fn an_http_url_and_names_around_the_address_reach_the_same_election() {
    let etcd = Etcd::newest();
    let port = etcd.endpoint().rsplit_once(':').unwrap().1.to_owned();
    let mut leader = Daemon::spawn("leader", plain("leader", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    for given in [
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/"),
        format!("localhost:{port}"),
    ] {
        Daemon::spawn(&given, plain("follower", &given)).wait_for_next(FOLLOWER);
    }
}

#[test]
fn names_and_keys_may_be_as_long_as_255_bytes() {
    let etcd = Etcd::newest();
    let longest = "n".repeat(255);
    let mut command = json(&longest, &etcd.endpoint());
    command.args(["--leader-key", &longest]);
    Daemon::spawn("the longest", command).wait_for_next(LEADER);
    assert_eq!(etcd.key(&longest).unwrap().value, longest.as_bytes());
}

#[test]
fn an_option_overrides_its_variable() {
    let etcd = Etcd::newest();
    let mut command = command();
    command
        .env("LEADER_ELECTION_NAME", "variable")
        .env("LEADER_ELECTION_ETCD", etcd.endpoint());
    command
        .env("LEADER_ELECTION_LEADER_KEY", "from/a variable")
        .env("LEADER_ELECTION_TTL", "7");
    command.args(["--name", "option"]);
    let mut leader = Daemon::spawn("by variables", command);
    leader.wait_for_next("Starting the server 'option'");
    leader.wait_for_next(LEADER);
    let key = etcd.key("from/a variable").unwrap();
    assert_eq!(key.value, b"option");
    let answer = etcd.etcdctl(&["lease", "timetolive", &key.lease.unwrap()]);
    assert!(answer.contains("granted with TTL(7s)"), "{answer}");
}

#[test]
fn a_name_and_a_key_may_have_spaces_inside() {
    let etcd = Etcd::newest();
    let mut command = plain("server 1", &etcd.endpoint());
    command.args(["--leader-key", "a key", "--advertise", "room 101"]);
    Daemon::spawn("with spaces", command).wait_for_next(LEADER);
    assert_eq!(etcd.key("a key").unwrap().value, b"server 1");
}

#[test]
fn the_host_name_is_the_default_name() {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let etcd = Etcd::newest();
    let mut command = command();
    command.args(["--etcd", &etcd.endpoint()]);
    let mut leader = Daemon::spawn("without a name", command);
    leader.wait_for_next(&format!("Starting the server '{}'", host.trim_end()));
    leader.wait_for_next(LEADER);
    assert_eq!(
        etcd.key("leader").unwrap().value,
        host.trim_end().as_bytes()
    );
}

#[test]
fn a_hostile_leader_name_never_reaches_the_log_raw() {
    let etcd = Etcd::newest();
    let megabyte = vec![b'A'; 1_000_000];
    let wide = "\u{202e}".repeat(300_000);
    let names: [&[u8]; 11] = [
        b"\x1b[2J\x1b]0;owned\x07\x1b[31mred",
        b"server9\nI am the leader.\nRefreshing lease; still the leader.",
        b"server9\r\nWARN forged\r",
        "\u{9b}31m \u{85} \u{2028} \u{2029}".as_bytes(),
        "\u{202e}\u{2066}\u{200f}\u{61c}gnp.exe\u{202c}".as_bytes(),
        b"\xff\xfe\xc3\x28\xed\xa0\x80",
        br#"","level":"ERROR","message":"I am the leader.","x":""#,
        b"\0\x01\x7f\x08\x08\x08",
        b"",
        &megabyte,
        wide.as_bytes(),
    ];
    for (number, name) in names.into_iter().enumerate() {
        let lease = etcd.grant(Duration::from_mins(10));
        let key = format!("key{number}");
        etcd.put(&key, name, Some(&lease));
        etcd.put(&format!("{key}/acting"), name, Some(&lease));
        for format in ["plain", "text", "json"] {
            let mut command = plain("server1", &etcd.endpoint());
            command.args([
                "--leader-key",
                &key,
                "--log-format",
                format,
                "--log-filter",
                EVERYTHING,
            ]);
            let mut follower = Daemon::spawn(&format!("{key} {format}"), command);
            let line =
                follower.wait_for_next_line("it follows", |line| line.text().contains(FOLLOWER));
            follower.signal(rustix::process::Signal::TERM);
            assert_eq!(follower.wait_exit().code(), Some(0));
            assert!(is_harmless(&follower), "{:?}", follower.lines());
            for line in follower.lines() {
                let text = line.text();
                assert!(
                    !text.starts_with(LEADER) && !text.starts_with("WARN forged"),
                    "{text}"
                );
                if format == "json" && line.stream == Stream::Out {
                    let object = line.json().unwrap_or_else(|| panic!("JSON: {text}"));
                    assert_ne!(object["message"], LEADER);
                    assert_eq!(object.get("x"), None, "{text}");
                }
            }
            if format == "json" {
                assert!(line.field("leader").is_some(), "{}", line.text());
            }
        }
        etcd.etcdctl(&["lease", "revoke", &lease]);
    }
}
