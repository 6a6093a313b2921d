//! Users, roles and passwords of a real etcd: who is let in, who is not, and what is logged.

use rcgen::KeyPair;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::daemon::{Daemon, EVERYTHING, FOLLOWER, LEADER, LOST, Line, REFRESHED, plain};
use support::etcd::{Etcd, binaries};
use support::operator::{self, at};
use support::proxy::{Link, Proxy};
use support::{TTL, let_pass, poll_until, users};
use tempfile::TempDir;

fn newest() -> PathBuf {
    binaries().pop().unwrap()
}

/// Starts an etcd with users. `replica` may read and write the two keys, and nothing else.
fn with_users(binary: &Path, options: &[String]) -> Etcd {
    // Checking a password takes long on purpose, and these tests have no time for that.
    let cheap = ["--bcrypt-cost", "4"].map(str::to_owned);
    let mut etcd = Etcd::start_with(binary, &[&cheap, options].concat(), &[]);
    users::add(&etcd);
    users::enable(&mut etcd);
    etcd
}

/// Returns a candidate whose password is in a file.
fn as_user(name: &str, etcd: &Etcd, folder: &TempDir, password: &str) -> Command {
    as_user_at(name, &etcd.endpoint(), folder, password)
}

fn as_user_at(name: &str, endpoint: &str, folder: &TempDir, password: &str) -> Command {
    let file = password_file(folder, format!("{password}\n").as_bytes());
    let mut command = plain(name, endpoint);
    command.args(["--etcd-user", "replica", "--etcd-password-file"]);
    command.arg(file);
    command
}

fn password_file(folder: &TempDir, contents: &[u8]) -> PathBuf {
    let file = folder.path().join("password");
    fs::write(&file, contents).unwrap();
    file
}

#[test]
fn a_role_for_the_two_keys_alone_suffices() {
    for binary in binaries() {
        let etcd = with_users(&binary, &[]);
        let folder = tempfile::tempdir().unwrap();
        let mut first = Daemon::spawn("first", as_user("first", &etcd, &folder, "sesame"));
        first.wait_for_next(LEADER);
        let mut command = plain("second", &etcd.endpoint());
        command.args(["--etcd-user", "replica"]);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
        let mut second = Daemon::spawn("second", command);
        second.wait_for_next(FOLLOWER);
        // Its watches work with these permissions as well; its next read would come later.
        first.signal(rustix::process::Signal::TERM);
        first.wait_exit();
        second.wait_for_next("new election");
        second.wait_for_next(LEADER);
        second.wait_for_next(REFRESHED);
        // What needs other keys is left out, which is no reason for a warning.
        for replica in [&first, &second] {
            let mut said = replica.messages();
            said.retain(|message| message.starts_with("etcd permits only 'leader' and "));
            assert_eq!(said.len(), 1, "{:?}", replica.messages());
            assert_eq!(replica.warnings(), [""; 0]);
        }
        // A user with a role for other keys.
        for arguments in [
            &["role", "add", "other"][..],
            &[
                "role",
                "grant-permission",
                "other",
                "--prefix=true",
                "readwrite",
                "leader-2",
            ],
            &["user", "add", "neighbour:sesame"],
            &["user", "grant-role", "neighbour", "other"],
        ] {
            etcd.etcdctl(arguments);
        }
        let mut command = plain("neighbour", &etcd.endpoint());
        command.args(["--etcd-user", "neighbour"]);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
        let mut neighbour = Daemon::spawn("neighbour", command);
        let said = neighbour.wait_for_next_start("WARN etcd at");
        assert!(said.text().contains("permission denied"), "{}", said.text());
        second.skip();
        second.wait_for_next_refreshes(2);
    }
}

#[test]
fn a_wrong_password_is_logged_once_and_correcting_it_needs_no_restart() {
    let etcd = with_users(&newest(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::spawn("a", as_user("a", &etcd, &folder, "wrong"));
    let said = daemon.wait_for_next_start("WARN etcd at").text();
    assert!(
        said.contains("cannot be talked to") && said.contains("invalid user ID or password"),
        "{said}"
    );
    let_pass(TTL);
    assert_eq!(daemon.warnings().len(), 1, "{:?}", daemon.warnings());
    fs::write(folder.path().join("password"), "sesame").unwrap();
    daemon.wait_for_next(LEADER);
}

#[test]
fn a_password_file_may_be_saved_in_any_way_and_what_is_odd_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    // Tokens that expire make it read the file again and again.
    let etcd = with_users(&newest(), &jwt(&folder));
    for (contents, oddity) in [
        (&b"sesame\r\n"[..], None),
        (b"sesame\r", None),
        (b"sesame\n\n \n", None),
        (b"\xef\xbb\xbfsesame\r\n", Some("byte order mark")),
        (
            b"sesame\r\nanother\r\n",
            Some("only its first line is read"),
        ),
    ] {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let command = as_user_at("a", &proxy.endpoint(), &folder, "");
        let file = password_file(&folder, contents);
        let mut daemon = Daemon::spawn("a", command);
        daemon.wait_for_next(LEADER);
        poll_until("it has read the file again", || {
            (proxy.accepted() > 2).then_some(())
        });
        daemon.wait_for_next_refreshes(1);
        let warnings = daemon.warnings();
        assert_is_warned(&warnings, "WARN ", &file, oddity);
        daemon.signal(rustix::process::Signal::TERM);
        assert_eq!(daemon.wait_exit().code(), Some(0));

        let mut command = at(&etcd.endpoint(), &["status", "--etcd-user", "replica"]);
        command.arg("--etcd-password-file").arg(&file);
        let status = operator::run(command);
        // The second line says that this user may not read the candidates.
        assert_eq!((status.code, &*status.out[0]), (3, "Nobody leads."));
        assert_is_warned(&status.err, "warning: ", &file, oddity);
    }
}

/// Checks that there is one warning about a password file if something is odd, and none otherwise.
fn assert_is_warned(lines: &[String], prefix: &str, file: &Path, oddity: Option<&str>) {
    let Some(oddity) = oddity else {
        assert!(lines.is_empty(), "{lines:?}");
        return;
    };
    let [line] = lines else {
        panic!("{lines:?}");
    };
    let start = format!("{prefix}Check the password file {}: ", file.display());
    assert!(line.starts_with(&start) && line.contains(oddity), "{line}");
    assert!(
        !line.contains("sesame") && !line.contains("another"),
        "{line}"
    );
}

#[test]
fn white_space_around_a_password_counts_and_is_named_when_etcd_refuses_it() {
    let etcd = with_users(&newest(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let in_file = as_user("a", &etcd, &folder, "sesame ");
    let mut in_variable = plain("a", &etcd.endpoint());
    in_variable.args(["--etcd-user", "replica"]);
    // As a secret has that was made with `echo`.
    in_variable.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame\n");
    for command in [in_file, in_variable] {
        let mut daemon = Daemon::spawn("a", command);
        let said = daemon.wait_for_next_start("WARN Check the password").text();
        assert!(said.contains("begins or ends with white space"), "{said}");
        let said = daemon.wait_for_next_start("WARN etcd at").text();
        assert!(
            said.contains("invalid user ID or password; as to the password: ")
                && said.contains("begins or ends with white space"),
            "{said}"
        );
        assert!(daemon.texts().iter().all(|line| !line.contains("sesame")));
    }
    etcd.etcdctl(&["user", "add", "spacious:sesame "]);
    etcd.etcdctl(&["user", "grant-role", "spacious", "election"]);
    let mut command = plain("a", &etcd.endpoint());
    command.args(["--etcd-user", "spacious", "--etcd-password-file"]);
    command.arg(password_file(&folder, b"sesame \n"));
    let mut daemon = Daemon::spawn("a", command);
    daemon.wait_for_next(LEADER);
    assert_eq!(daemon.warnings().len(), 1, "{:?}", daemon.warnings());
}

#[test]
fn a_password_file_without_a_password_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (contents, reason) in [
        (&b""[..], "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"\n", "its first line is blank"),
        (b"\r\nsesame\r\n", "its first line is blank"),
        (b"\xff\xfes\0e\0s\0", "UTF-16"),
        (b"s\0e\0s\0", "UTF-16"),
        (b"sesam\xe9\n", "no UTF-8"),
    ] {
        let file = password_file(&folder, contents);
        for subcommand in [&[][..], &["status"]] {
            let mut command = support::daemon::command();
            command
                .args(subcommand)
                .args(["--etcd", "127.0.0.1:1", "--etcd-user", "replica"]);
            command.arg("--etcd-password-file").arg(&file);
            let run = operator::run(command);
            assert_eq!(run.code, 1, "{contents:?}: {:?}", run.err);
            let expected = format!("reading the password file {}: ", file.display());
            let [line] = &*run.err else {
                panic!("{contents:?}: {:?}", run.err);
            };
            assert!(line.contains(&expected) && line.contains(reason), "{line}");
            assert!(!line.contains("sesam"), "{line}");
        }
    }
}

#[test]
fn a_revoked_role_ends_the_term_and_granting_it_again_needs_no_restart() {
    let etcd = with_users(&newest(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::spawn("a", as_user("a", &etcd, &folder, "sesame"));
    daemon.wait_for_next(LEADER);
    etcd.etcdctl(&["user", "revoke-role", "replica", "election"]);
    daemon.wait_for_next_start(LOST);
    let warnings = daemon.warnings();
    // There is none about its token, which is older than the change.
    let refusals = warnings.iter().filter(|line| line.contains("refuses"));
    let refusals: Vec<_> = refusals.collect();
    assert!(
        refusals.len() == 1 && refusals[0].contains("permission denied"),
        "{warnings:?}"
    );
    etcd.etcdctl(&["user", "grant-role", "replica", "election"]);
    daemon.wait_for_next(LEADER);
}

#[test]
fn a_changed_password_ends_the_term_and_is_logged_once_as_the_reason() {
    let jwt_folder = tempfile::tempdir().unwrap();
    let etcd = with_users(&newest(), &jwt(&jwt_folder));
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::spawn("a", as_user("a", &etcd, &folder, "sesame"));
    daemon.wait_for_next(LEADER);
    etcd.etcdctl_bytes(
        &["user", "passwd", "replica", "--interactive=false"],
        b"other\n",
    );
    // Its token is valid until it expires.
    daemon.wait_for_next_start(LOST);
    let warnings = daemon.warnings();
    let about_it = warnings
        .iter()
        .filter(|line| line.contains("invalid user ID or password"));
    assert_eq!(about_it.count(), 1, "{warnings:?}");
    // There is none about its token, which is older than the change.
    let token = warnings.iter().find(|line| line.contains("auth store"));
    assert_eq!(token, None);
    fs::write(folder.path().join("password"), "other").unwrap();
    daemon.wait_for_next(LEADER);
}

/// Returns options for tokens that are valid for two seconds.
fn jwt(folder: &TempDir) -> [String; 2] {
    let key = folder.path().join("jwt.key");
    fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let jwt = format!("jwt,priv-key={},sign-method=ES256,ttl=2s", key.display());
    ["--auth-token".to_owned(), jwt]
}

#[test]
fn tokens_that_expire_within_seconds_cost_no_term_and_no_log_line() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = with_users(&newest(), &jwt(&folder));
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    let command = as_user_at("a", &proxy.endpoint(), &folder, "sesame");
    let mut daemon = Daemon::spawn("a", command);
    daemon.wait_for_next(LEADER);
    daemon.wait_for_next_refreshes(25);
    assert!(proxy.accepted() > 3, "a new token needs a new connection");
    let said = daemon.lines();
    let other = said
        .iter()
        .filter(|line| line.is_warning() || line.text().starts_with(LOST));
    assert_eq!(other.count(), 0, "{:?}", daemon.warnings());
}

#[test]
fn a_password_does_not_reach_a_command_but_the_guard_of_a_dead_daemon_can_revoke_its_lease() {
    let etcd = with_users(&newest(), &[]);
    let replica = |name: &str, script: &str| {
        let mut command = plain(name, &etcd.endpoint());
        command.args(["--etcd-user", "replica", "--", "sh", "-c", script]);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
        command.env("NOTIFY_SOCKET", "@nobody listens here");
        Daemon::spawn(name, command)
    };
    let mut first = replica("first", "env; echo runs; exec sleep 60");
    first.wait_for_next("runs");
    let environment = first.lines();
    let environment: Vec<_> = environment.iter().map(Line::text).collect();
    let has = |part: &str| environment.iter().any(|line| line.contains(part));
    assert!(has("LEADER_ELECTION_TOKEN=") && has("PATH="));
    assert!(!has("sesame") && !has("NOTIFY_SOCKET="), "{environment:?}");

    let mut second = replica("second", "exec sleep 60");
    second.wait_for_next(FOLLOWER);
    let killed = first.crash();
    let took = second.wait_for_next(LEADER).at - killed;
    assert!(took < TTL, "its lease was not revoked: it took {took:?}");
}

#[test]
fn a_password_appears_nowhere() {
    let etcd = with_users(&newest(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut command = as_user("a", &etcd, &folder, "sesame");
    command.args(["--log-filter", EVERYTHING, "--log-format", "json"]);
    let mut daemon = Daemon::spawn("a", command);
    daemon.wait_for_next(LEADER);
    daemon.wait_for_next(REFRESHED);
    let is_trace = |line: &Line| line.field("level").as_deref() == Some("TRACE");
    assert!(daemon.lines().iter().any(is_trace), "there is no trace");
    let leaked: Vec<_> = daemon
        .lines()
        .iter()
        .map(Line::text)
        .filter(|line| line.contains("sesame"))
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

/// Runs the binary to its end; returns its exit code and all that it prints.
fn run(arguments: &[&str], password: Option<&str>) -> (i32, String) {
    let mut command = support::daemon::command();
    command.args(arguments);
    command.envs(password.map(|password| ("LEADER_ELECTION_ETCD_PASSWORD", password)));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[test]
fn options_that_contradict_each_other_are_refused_and_passwords_are_not_printed() {
    for (arguments, password, expected) in [
        (
            &["--etcd-user", "replica:sesame"][..],
            None,
            "--etcd-password-file",
        ),
        (&["--etcd-user", "replica"], None, "needs a password"),
        (&["--etcd-user", ""], None, "is empty"),
        (&[], Some("sesame"), "no --etcd-user"),
        (
            &["--etcd", "https://127.0.0.1:1,http://127.0.0.1:2"],
            None,
            "give https:// or host:port",
        ),
        (
            &["--etcd-user", "replica", "--etcd-password-file", "file"],
            Some("sesame"),
            "give the password once",
        ),
        (&["--etcd-password-file", "file"], None, "--etcd-user"),
        (
            &["--etcd-password", "sesame"],
            None,
            "unexpected argument '--etcd-password'",
        ),
        (&["--etcd-cert", "a.pem"], None, "--etcd-key"),
        (&["--etcd-key", "a.key"], None, "--etcd-cert"),
        (
            &["--etcd", "http://127.0.0.1:1", "--etcd-cacert", "ca.pem"],
            None,
            "give https:// or host:port",
        ),
    ] {
        let (code, said) = run(arguments, password);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("sesame"), "{arguments:?}: {said}");
    }
    for (arguments, expected) in [
        (
            &["--etcd-cacert", "/nowhere/\u{1b}[31m"][..],
            "No such file",
        ),
        (
            &["--etcd-cacert", "/dev/null"],
            "/dev/null holds no certificate",
        ),
        (
            &[
                "--etcd-user",
                "replica",
                "--etcd-password-file",
                "/nowhere/password",
            ],
            "No such file",
        ),
        (
            &[
                "--etcd-user",
                "replica",
                "--etcd-password-file",
                "/dev/null",
            ],
            "no regular file",
        ),
    ] {
        let (code, said) = run(arguments, None);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains('\u{1b}'), "{arguments:?}: {said:?}");
    }
    let (code, help) = run(&["--help"], Some("sesame"));
    assert!(code == 0 && help.contains("--etcd-password-file") && !help.contains("sesame"));
}
