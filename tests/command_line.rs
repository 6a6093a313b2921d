//! The command line of the subcommands, and the texts generated from its definition.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use support::daemon::{Daemon, LEADER, REFRESHED, command, plain};
use support::etcd::Etcd;
use support::operator::{at, run};

/// The variables of the options that only candidates have.
const OF_CANDIDATES: [&str; 16] = [
    "NAME",
    "TTL",
    "FAIL_OVER",
    "ADVERTISE",
    "LOG_FORMAT",
    "LOG",
    "GRACE",
    "STOP_TIMEOUT",
    "HTTP",
    "PRIORITY",
    "PRIORITY_DELAY",
    "HEALTH_COMMAND",
    "HEALTH_INTERVAL",
    "HEALTH_TIMEOUT",
    "HEALTH_RISE",
    "HEALTH_FALL",
];

/// The variables of the options that say which election is meant and how to reach its etcd.
const OF_ELECTIONS: [&str; 8] = [
    "ETCD",
    "ETCD_CACERT",
    "ETCD_CERT",
    "ETCD_KEY",
    "ETCD_USER",
    "ETCD_PASSWORD",
    "ETCD_PASSWORD_FILE",
    "LEADER_KEY",
];

/// Values for these variables, most of them invalid.
const VALUES: [&[u8]; 4] = [b"", b"\x1b\xffnonsense=", b"nonsense/acting", b"5s"];

fn set(command: &mut Command, variables: &[&str], value: &[u8]) {
    for variable in variables {
        let variable = format!("LEADER_ELECTION_{variable}");
        command.env(variable, OsStr::from_bytes(value));
    }
}

#[test]
fn options_of_candidates_are_refused_with_a_subcommand() {
    for subcommand in [
        "status",
        "observe",
        "step-down",
        "challenge",
        "done",
        "health",
        "man",
    ] {
        for (option, value) in [
            ("--name", "server1"),
            ("--ttl", "5s"),
            ("--fail-over", "1s"),
            ("--advertise", "here"),
            ("--log-format", "json"),
            ("--log-filter", "info"),
            ("--grace", "300ms"),
            ("--stop-timeout", "1s"),
            ("--http", "127.0.0.1:1"),
            ("--priority", "1"),
            ("--health-command", "true"),
        ] {
            for arguments in [[option, value, subcommand], [subcommand, option, value]] {
                if arguments[..2] == ["observe", "--http"] {
                    // That is an option of its own.
                    continue;
                }
                let run = run(at("127.0.0.1:1", &arguments));
                assert_eq!(run.code, 2, "{arguments:?}: {:?} {:?}", run.out, run.err);
                assert!(run.err[0].contains(option), "{arguments:?}: {:?}", run.err);
                assert!(run.out.is_empty(), "{arguments:?}: {:?}", run.out);
            }
        }
        if subcommand == "observe" {
            continue;
        }
        let run = run(at("127.0.0.1:1", &[subcommand, "--", "true"]));
        assert_eq!(run.code, 2, "{subcommand}: {:?}", run.err);
        let expected = format!("'-- COMMAND' cannot be used with '{subcommand}'");
        assert!(run.err[0].contains(&expected), "{:?}", run.err);
    }
}

#[test]
fn options_of_observe_that_do_not_fit_are_refused_with_an_explanation() {
    for (arguments, expected) in [
        (
            &["observe", "--json", "--", "true"][..],
            "'--json' cannot be used with '-- COMMAND': COMMAND gets the JSON object on its standard",
        ),
        (
            &["observe", "--timeout", "5s"],
            "--timeout is about a COMMAND, and there is none",
        ),
        (&["observe", "--"], "there is no COMMAND after --"),
        (
            &["observe", "--timeout", "5s", "--"],
            "there is no COMMAND after --",
        ),
        (&["observe", "true"], "unexpected argument 'true' found"),
        (&["observe", "--timeout", "0", "--", "true"], "--timeout"),
    ] {
        let run = run(at("127.0.0.1:1", arguments));
        assert_eq!(run.code, 2, "{arguments:?}: {:?} {:?}", run.out, run.err);
        assert!(
            run.err[0].contains(expected),
            "{arguments:?}: {:?}",
            run.err
        );
        assert!(run.out.is_empty(), "{arguments:?}: {:?}", run.out);
    }
    let help = printed(&["observe", "--help"]);
    let usage = "Usage: leader-election observe [OPTIONS] [-- COMMAND [ARG]...]";
    assert!(help.lines().any(|line| line == usage), "{help}");
    assert!(help.contains("LEADER_ELECTION_STATE"), "{help}");
}

#[test]
fn variables_do_no_harm_to_a_subcommand_that_needs_no_etcd() {
    for value in VALUES {
        for arguments in [
            &["man"][..],
            &["completions", "bash"],
            &["health", "127.0.0.1:1"],
        ] {
            let mut command = command();
            command.args(arguments);
            set(&mut command, &OF_CANDIDATES, value);
            set(&mut command, &OF_ELECTIONS, value);
            let run = run(command);
            let expected = i32::from(arguments[0] == "health");
            assert_eq!(run.code, expected, "{arguments:?}: {:?}", run.err);
        }
    }
}

#[test]
fn a_variable_that_is_used_is_validated() {
    for (variable, arguments) in [
        ("ETCD", &["status"][..]),
        ("LEADER_KEY", &["step-down"]),
        ("HTTP", &["health"]),
        ("TTL", &[]),
    ] {
        let mut command = command();
        command.args(arguments);
        set(&mut command, &[variable], b"nonsense/acting");
        let run = run(command);
        assert_eq!(run.code, 2, "{variable}: {:?}", run.err);
        let expected = format!("invalid value 'nonsense/acting' for 'LEADER_ELECTION_{variable}'");
        assert!(run.err[0].contains(&expected), "{variable}: {:?}", run.err);
    }
}

#[test]
fn the_usage_line_distinguishes_the_program_to_run_from_a_subcommand() {
    let mut help = command();
    help.arg("--help");
    let mut error = command();
    error.arg("--unknown");
    for lines in [run(help).out, run(error).err] {
        let usage = [
            "Usage: leader-election [OPTIONS] [-- COMMAND [ARG]...]",
            "       leader-election [OPTIONS] <SUBCOMMAND>",
        ];
        assert!(lines.windows(2).any(|pair| pair == usage), "{lines:#?}");
    }
}

#[test]
fn a_program_without_the_separator_before_it_is_refused_with_a_tip() {
    for arguments in [
        &["worker"][..],
        &["--ttl", "2s", "worker", "--queue", "mail"],
        &["worker", "--", "mail"],
    ] {
        let run = run(at("127.0.0.1:1", arguments));
        assert_eq!(run.code, 2, "{arguments:?}: {:?}", run.err);
        assert_eq!(run.err[0], "error: unrecognized subcommand 'worker'");
        let tip = "  tip: to run a program while this replica leads, put -- before it: \
                   leader-election … -- worker";
        assert!(run.err.iter().any(|line| line == tip), "{:#?}", run.err);
    }
    let run = run(at("127.0.0.1:1", &["statu"]));
    assert_eq!(run.code, 2, "{:?}", run.err);
    let tip = "  tip: a similar subcommand exists: 'status'";
    assert!(run.err.iter().any(|line| line == tip), "{:#?}", run.err);
}

#[test]
fn invalid_timeouts_are_refused() {
    for value in ["", "0", "0s", "-1", "x", "25h", "99999999999999999999"] {
        for command_name in ["status", "step-down", "challenge", "done"] {
            let run = run(at(
                "127.0.0.1:1",
                &[command_name, &format!("--timeout={value}")],
            ));
            assert_eq!(run.code, 2, "{command_name} {value:?}: {:?}", run.err);
            assert!(run.err[0].contains("--timeout"), "{:?}", run.err);
        }
    }
}

#[test]
fn the_completions_and_the_man_page_name_every_command_and_option() {
    let commands = [
        "status",
        "observe",
        "step-down",
        "challenge",
        "done",
        "health",
        "completions",
        "man",
    ];
    let options = [
        "--name",
        "--etcd",
        "--etcd-cacert",
        "--etcd-cert",
        "--etcd-key",
        "--etcd-user",
        "--etcd-password-file",
        "--leader-key",
        "--advertise",
        "--ttl",
        "--fail-over",
        "--grace",
        "--stop-timeout",
        "--http",
        "--priority",
        "--priority-delay",
        "--health-command",
        "--health-interval",
        "--health-timeout",
        "--health-rise",
        "--health-fall",
        "--log-format",
        "--log-filter",
        "--if-leader",
        "--to",
        "--to-seat",
        "--forget",
        "--force",
        "--timeout",
        "--json",
    ];
    for arguments in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["man"],
    ] {
        let mut command = command();
        command.args(arguments);
        let run = run(command);
        assert_eq!(run.code, 0, "{:?}", run.err);
        let text = run.out.join("\n").replace("\\-", "-");
        for word in commands.iter().chain(&options) {
            let word = if arguments[1..] == ["fish"] {
                word.trim_start_matches("--")
            } else {
                word
            };
            let is_there = text.contains(word) || text.contains(&word.to_uppercase());
            assert!(is_there, "{arguments:?}: {word}");
        }
    }
    // bash, which is always installed, completes an option.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions.bash");
    let mut command = command();
    let out = File::create(&script).unwrap();
    assert!(
        command
            .args(["completions", "bash"])
            .stdout(out)
            .status()
            .unwrap()
            .success()
    );
    let ask = "source \"$1\"; COMP_WORDS=(leader-election step-down --if); COMP_CWORD=2; \
               _leader_election leader-election --if step-down; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", ask, "bash"])
        .arg(&script)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said.trim(),
        "--if-leader",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = fs::read_to_string(&script).unwrap();
    assert!(!text.contains('\u{1b}'));
}

/// Returns the words of a text that may begin an option or a variable.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    text.split(move |character| !is_part(character))
}

/// Returns what the binary prints on standard output with these arguments.
fn printed(arguments: &[&str]) -> String {
    let mut command = command();
    command.args(arguments);
    let run = run(command);
    assert_eq!(run.code, 0, "{arguments:?}: {:?}", run.err);
    run.out.join("\n")
}

/// Returns the help texts of the program and of all its subcommands.
fn help_texts() -> String {
    let help = printed(&["--help"]);
    let (_, subcommands) = help.split_once("Subcommands:\n").unwrap();
    let (subcommands, _) = subcommands.split_once("\n\n").unwrap();
    // Further lines of a description are indented more.
    let names = subcommands.lines().filter_map(|line| {
        let line = line.strip_prefix("  ")?;
        line.split(' ').next().filter(|name| !name.is_empty())
    });
    let names: Vec<_> = names.filter(|name| *name != "help").collect();
    assert!(
        names.contains(&"status") && names.contains(&"man"),
        "{names:?}"
    );
    let texts = names.iter().map(|name| printed(&[name, "--help"]));
    texts.fold(help.clone(), |all, text| all + &text)
}

#[test]
fn the_short_help_fits_on_a_screen_and_the_long_help_has_every_option() {
    let short = printed(&["-h"]);
    let lines: Vec<_> = short.lines().collect();
    assert!(lines.len() <= 50, "{} lines: {short}", lines.len());
    let widest = lines.iter().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?}: {short}");
    assert!(!short.contains("[env:"), "{short}");
    assert!(lines.last().unwrap().contains("--help"), "{short}");
    let long = printed(&["--help"]);
    let headings = ["Election:", "etcd:", "COMMAND:", "Health:", "HTTP and log:"];
    for text in [&short, &long] {
        let found = text.lines().filter(|line| headings.contains(line));
        assert_eq!(found.collect::<Vec<_>>(), headings, "{text}");
    }
    let (long, _) = long.split_once("Examples:").unwrap();
    let [shown, documented] = [&short, long].map(|text| -> BTreeSet<&str> {
        let names = text
            .lines()
            .filter_map(|line| line.get(6..)?.split(' ').next());
        names.filter(|name| name.starts_with("--")).collect()
    });
    for option in ["--name", "--etcd", "--leader-key", "--ttl", "--http"] {
        assert!(shown.contains(option), "{option}: {short}");
    }
    assert!(shown.is_subset(&documented), "{shown:?} {documented:?}");
    // The first list in this script is that of the program without a subcommand.
    let script = printed(&["completions", "bash"]);
    let (_, all) = script.split_once(" opts=\"-h ").unwrap();
    let (all, _) = all.split_once('"').unwrap();
    let all = all.split(' ').filter(|word| word.starts_with("--"));
    assert_eq!(documented, all.collect());
}

#[test]
fn the_completions_and_the_man_page_name_no_option_that_the_help_does_not() {
    let help = help_texts();
    let options = |text: &str| -> BTreeSet<String> {
        let options = words(text).filter_map(|word| word.strip_prefix("--"));
        let options = options.filter(|name| !name.is_empty());
        options.map(str::to_owned).collect()
    };
    let known = options(&help);
    assert!(known.contains("leader-key"), "{known:?}");
    let mut command = command();
    command.args(["completions", "no-shell"]);
    let refused = run(command).err.join("\n");
    let (_, shells) = refused.split_once("[possible values: ").unwrap();
    let (shells, _) = shells.split_once(']').unwrap();
    let shells: Vec<_> = shells.split(", ").collect();
    assert!(shells.contains(&"bash"), "{shells:?}");
    for arguments in shells
        .iter()
        .map(|shell| vec!["completions", *shell])
        .chain([vec!["man"]])
    {
        let text = printed(&arguments).replace("\\-", "-");
        let mut named = options(&text);
        if arguments.contains(&"fish") {
            let lines = text.lines().filter(|line| line.starts_with("complete "));
            let options = lines.filter_map(|line| line.split_once(" -l ")?.1.split(' ').next());
            named = options.map(str::to_owned).collect();
        }
        assert!(named.contains("leader-key"), "{arguments:?}: {named:?}");
        let hidden: Vec<_> = named.difference(&known).collect();
        assert!(hidden.is_empty(), "{arguments:?}: {hidden:?}");
        assert!(!words(&text).any(|word| word == "release"), "{arguments:?}");
    }
}

/// What needs a server or takes long, and is no part of `tests/run.sh unit`.
mod gate_only {
    use super::*;

    #[test]
    fn options_of_an_election_are_accepted_before_and_after_a_subcommand() {
        let etcd = Etcd::newest();
        let endpoint = etcd.endpoint();
        let mut leader = plain("server1", &endpoint);
        leader.args(["--leader-key", "other/key"]);
        Daemon::spawn("leader", leader).wait_for_next(LEADER);
        let mut elsewhere = Daemon::spawn("elsewhere", {
            let mut command = plain("server2", &endpoint);
            command.args(["--leader-key", "other/key"]);
            command
        });
        elsewhere.wait_for_next(LEADER);
        for arguments in [
            &["--etcd", &endpoint, "--leader-key", "other/key", "status"][..],
            &["status", "--etcd", &endpoint, "--leader-key", "other/key"],
            &["--etcd", &endpoint, "status", "--leader-key", "other/key"],
            // The one after the subcommand overrides the one before it.
            &[
                "--leader-key",
                "x",
                "--etcd",
                "127.0.0.1:1",
                "status",
                "--etcd",
                &endpoint,
                "--leader-key",
                "other/key",
            ],
        ] {
            let mut command = command();
            command.args(arguments);
            let run = run(command);
            assert_eq!(run.code, 0, "{arguments:?}: {:?}", run.err);
            assert_eq!(run.out[0], "leader   server2");
        }
        let mut command = command();
        command.arg("status").env("LEADER_ELECTION_ETCD", &endpoint);
        command.env("LEADER_ELECTION_LEADER_KEY", "other/key");
        assert_eq!(run(command).code, 0);
        // The two options of a pair may stand on different sides; one of them alone is refused.
        let mut command = at(
            &endpoint,
            &[
                "--etcd-cert",
                "/nowhere/cert",
                "status",
                "--etcd-key",
                "/nowhere/key",
            ],
        );
        command.env_remove("SSL_CERT_FILE");
        let pair = run(command);
        assert_eq!(pair.code, 1, "{:?}", pair.err);
        assert!(pair.err[0].contains("/nowhere/cert"), "{:?}", pair.err);
        assert_eq!(
            run(at(&endpoint, &["status", "--etcd-key", "/nowhere/key"])).code,
            2
        );
    }

    #[test]
    fn variables_of_candidates_do_no_harm_to_a_subcommand() {
        let etcd = Etcd::newest();
        for value in VALUES {
            let mut command = at(&etcd.endpoint(), &["status"]);
            set(&mut command, &OF_CANDIDATES, value);
            let run = run(command);
            let expected = (3, vec!["Nobody leads.".to_owned()]);
            assert_eq!((run.code, run.out), expected, "{:?}", run.err);
        }
    }

    /// Sets all variables that the help texts name, and those of other programs that this one reads, to
    /// nothing.
    fn empty_all_variables(command: &mut Command) {
        let help = help_texts();
        let variables = words(&help).filter(|word| word.starts_with("LEADER_ELECTION_"));
        let variables: BTreeSet<_> = variables.chain(["RUST_LOG", "NOTIFY_SOCKET"]).collect();
        for variable in OF_CANDIDATES.iter().chain(&OF_ELECTIONS) {
            let variable = format!("LEADER_ELECTION_{variable}");
            assert!(variables.contains(&*variable), "{variable}: {variables:?}");
        }
        command.envs(variables.into_iter().map(|variable| (variable, "")));
    }

    #[test]
    fn with_all_variables_empty_a_daemon_starts_as_with_none() {
        let etcd = Etcd::newest();
        let lines = [true, false].map(|are_empty| {
            let mut command = command();
            command.args(["--etcd", &etcd.endpoint()]);
            if are_empty {
                empty_all_variables(&mut command);
            }
            let mut daemon = Daemon::spawn("daemon", command);
            daemon.wait_for_next(LEADER);
            let key = etcd.key("leader").unwrap();
            let lease = etcd.etcdctl(&["lease", "timetolive", &key.lease.unwrap()]);
            assert!(lease.contains("granted with TTL(5s)"), "{lease}");
            daemon.signal(rustix::process::Signal::TERM);
            assert_eq!(daemon.wait_exit().code(), Some(0));
            let mut lines = daemon.texts();
            lines.retain(|line| line != REFRESHED);
            (key.value, lines)
        });
        assert_eq!(lines[0], lines[1]);
    }

    #[test]
    fn with_all_variables_empty_a_subcommand_does_as_with_none() {
        let etcd = Etcd::newest();
        let endpoint = etcd.endpoint();
        for arguments in [
            &["status", "--etcd", &endpoint][..],
            &["step-down", "--etcd", &endpoint],
            &["health"],
            &["completions", "zsh"],
            &["man"],
        ] {
            let [empty, none] = [true, false].map(|are_empty| {
                let mut command = command();
                command.args(arguments);
                if are_empty {
                    empty_all_variables(&mut command);
                }
                let run = run(command);
                (run.code, run.out, run.err)
            });
            assert_ne!(none.0, 2, "{arguments:?}: {none:?}");
            assert_eq!(empty, none, "{arguments:?}");
        }
        // At the default endpoint, where an etcd may or may not answer.
        let mut command = command();
        command.args(["status", "--timeout", "100ms"]);
        empty_all_variables(&mut command);
        assert_ne!(run(command).code, 2);
        let mut command = at(&endpoint, &["observe"]);
        empty_all_variables(&mut command);
        let mut observer = Daemon::spawn("observer", command);
        observer.wait_for_next_line("nobody leads", |line| line.text().contains("Nobody leads"));
    }

    #[test]
    fn an_option_after_the_subcommand_overrides_its_variable() {
        let etcd = Etcd::newest();
        let mut command = command();
        command.args(["status", "--leader-key", "leader"]);
        command.args(["--etcd", &etcd.endpoint()]);
        set(&mut command, &["ETCD", "LEADER_KEY"], b"nonsense/acting");
        let run = run(command);
        assert_eq!(run.out, ["Nobody leads."], "{:?}", run.err);
    }
}
