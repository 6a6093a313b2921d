//! The command line of the commands, and what follows from its definition.
mod support;

use std::fs::{self, File};
use std::process::Command;
use support::daemon::{Daemon, LEADER, command, plain};
use support::etcd::Etcd;
use support::operator::{at, run};

#[test]
fn time_outs_that_make_no_sense_are_refused() {
    for value in ["", "0", "0s", "-1", "x", "25h", "99999999999999999999"] {
        for command_name in ["status", "step-down"] {
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
        "--grace",
        "--stop-timeout",
        "--http",
        "--log-format",
        "--log",
        "--if-leader",
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
    // bash at least is always at hand: it completes what was begun.
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

/// What needs a server or takes long, and is no part of `tests/run.sh unit`.
mod gate_only {
    use super::*;

    #[test]
    fn options_that_say_how_to_reach_etcd_stand_on_either_side_of_a_command() {
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
            // The nearer one counts.
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
        // Halves of a pair on both sides are a pair; one half alone is refused on either.
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
    fn options_of_candidates_are_refused_beside_a_command_and_their_variables_do_no_harm() {
        let etcd = Etcd::newest();
        for command_name in ["status", "observe", "step-down", "man"] {
            for (option, value) in [
                ("--name", "server1"),
                ("--ttl", "5s"),
                ("--advertise", "here"),
                ("--log-format", "json"),
                ("--log", "info"),
                ("--grace", "300ms"),
                ("--stop-timeout", "1s"),
                ("--http", "127.0.0.1:1"),
            ] {
                for arguments in [[option, value, command_name], [command_name, option, value]] {
                    let run = run(at(&etcd.endpoint(), &arguments));
                    assert_eq!(run.code, 2, "{arguments:?}: {:?} {:?}", run.out, run.err);
                    assert!(run.err[0].contains(option), "{arguments:?}: {:?}", run.err);
                    assert!(run.out.is_empty(), "{arguments:?}: {:?}", run.out);
                }
            }
        }
        let variables = [
            "NAME",
            "TTL",
            "ADVERTISE",
            "LOG_FORMAT",
            "LOG",
            "GRACE",
            "STOP_TIMEOUT",
            "HTTP",
        ];
        for value in ["\u{1b}nonsense=", "5s"] {
            let mut command = at(&etcd.endpoint(), &["status"]);
            for variable in variables {
                command.env(format!("LEADER_ELECTION_{variable}"), value);
            }
            let run = run(command);
            assert_eq!(
                (run.code, run.out),
                (3, vec!["Nobody leads.".to_owned()]),
                "{:?}",
                run.err
            );
        }
    }
}
