//! TLS, users and roles of a real etcd: which connections work, which do not, and what is logged.
mod support;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, Line, REFRESHED, plain};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::proxy::{Link, Proxy};
use support::{PATIENCE, TTL, let_pass, wait_until};
use tempfile::TempDir;

/// A certificate authority with a folder for what it signs.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each authority has a name of its own.
        let name = folder.path().to_str().unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn certificate(&self) -> String {
        self.file("ca.pem")
    }

    /// Signs a certificate for these hosts, for clients and servers; returns its file and its key's.
    fn sign(&self, name: &str, hosts: &[&str], expired: bool) -> (String, String) {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (
            self.file(&format!("{name}.pem")),
            self.file(&format!("{name}.key")),
        );
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// Starts an etcd that serves TLS and, if it `verifies`, asks its clients for certificates.
    fn etcd(&self, binary: &Path, hosts: &[&str], expired: bool, verifies: bool) -> Etcd {
        let (certificate, key) = self.sign("server", hosts, expired);
        let mut options = vec![
            "--cert-file".to_owned(),
            certificate,
            "--key-file".to_owned(),
            key,
        ];
        if verifies {
            options.push("--client-cert-auth".to_owned());
            options.extend(["--trusted-ca-file".to_owned(), self.certificate()]);
        }
        let (certificate, key) = self.sign("etcdctl", &["etcdctl"], false);
        let etcdctl = [
            "--insecure-skip-tls-verify=true".to_owned(),
            format!("--cacert={}", self.certificate()),
            format!("--cert={certificate}"),
            format!("--key={key}"),
        ];
        Etcd::start_with(binary, &options, &etcdctl)
    }
}

fn newest() -> PathBuf {
    binaries().pop().unwrap()
}

/// Returns a candidate that uses TLS.
fn secure(name: &str, etcd: &Etcd, authority: &Authority) -> Command {
    let mut command = plain(name, &format!("https://{}", etcd.endpoint()));
    command.args(["--etcd-cacert", &authority.certificate()]);
    command
}

#[test]
fn replicas_elect_over_tls_with_certificates_of_their_own() {
    for binary in binaries() {
        let authority = Authority::new();
        let etcd = authority.etcd(&binary, &["127.0.0.1"], false, true);
        let (certificate, key) = authority.sign("replica", &["replica"], false);
        let candidate = |name| {
            let mut command = secure(name, &etcd, &authority);
            command.args(["--etcd-cert", &certificate, "--etcd-key", &key]);
            Daemon::spawn(name, command)
        };
        let mut first = candidate("first");
        first.wait_for_next(LEADER);
        // Without a scheme, the certificates decide that it uses TLS.
        let mut command = plain("second", &etcd.endpoint());
        command.args(["--etcd-cacert", &authority.certificate()]);
        command.args(["--etcd-cert", &certificate, "--etcd-key", &key]);
        let mut second = Daemon::spawn("second", command);
        second.wait_for_next(FOLLOWER);
        first.crash();
        second.wait_for_next(LEADER);
        assert_eq!(etcd.key("leader").unwrap().value, b"second");

        // A replica without a certificate is refused, and logs why.
        let mut stranger = Daemon::spawn("stranger", secure("stranger", &etcd, &authority));
        let said = stranger.wait_for_next_start("WARN etcd at").text();
        assert!(
            said.contains("if it asks for a certificate, give one"),
            "{said}"
        );
        assert!(!stranger.leads());
    }
}

#[test]
fn a_connection_error_is_logged_in_one_sentence_and_nobody_leads() {
    let stranger = Authority::new();
    let etcd = |hosts: &[&str], expired| {
        let authority = Authority::new();
        (authority.etcd(&newest(), hosts, expired, false), authority)
    };
    let (good, authority) = etcd(&["127.0.0.1"], false);
    let (expired, of_expired) = etcd(&["127.0.0.1"], true);
    let (elsewhere, of_elsewhere) = etcd(&["elsewhere.example"], false);
    let plain_text = Etcd::newest();
    let cases = [
        (secure("a", &good, &stranger), "UnknownIssuer"),
        (secure("a", &expired, &of_expired), "certificate expired"),
        (
            secure("a", &elsewhere, &of_elsewhere),
            "certificate not valid for name",
        ),
        (secure("a", &plain_text, &authority), "does it speak TLS?"),
        (
            plain("a", &format!("http://{}", good.endpoint())),
            "if it speaks TLS, give it as https://",
        ),
    ];
    for (command, cause) in cases {
        let mut daemon = Daemon::spawn(cause, command);
        let said = daemon.wait_for_next_start("WARN etcd at");
        assert!(said.text().contains(cause), "{cause}: {}", said.text());
        let_pass(TTL / 2);
        assert!(!daemon.leads(), "{cause}");
        assert_eq!(
            daemon.warnings().len(),
            1,
            "logged once: {:?}",
            daemon.warnings()
        );
    }
    assert_eq!(plain_text.key("leader"), None);
}

#[test]
fn authorities_that_are_replaced_on_disk_are_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut etcd = old.etcd(&newest(), &["127.0.0.1"], false, false);
    let mut daemon = Daemon::spawn("a", secure("a", &etcd, &old));
    daemon.wait_for_next(LEADER);
    etcd.kill();
    new.sign("server", &["127.0.0.1"], false);
    for file in ["server.pem", "server.key"] {
        fs::copy(new.file(file), old.file(file)).unwrap();
    }
    etcd.up();
    daemon.wait_for_next_line("the new certificate refused", |line| {
        line.text().contains("cannot be talked to") && line.text().contains("UnknownIssuer")
    });
    fs::copy(new.certificate(), old.certificate()).unwrap();
    daemon.skip();
    daemon.wait_for_next(REFRESHED);
}

#[test]
fn a_clients_certificate_that_is_replaced_on_disk_is_used_without_a_restart() {
    let [servers, old, new] = [(); 3].map(|()| Authority::new());
    let trusted = servers.file("clients.pem");
    fs::copy(old.certificate(), &trusted).unwrap();
    let (certificate, key) = servers.sign("server", &["127.0.0.1"], false);
    let options = [
        "--cert-file",
        &certificate,
        "--key-file",
        &key,
        "--client-cert-auth",
    ];
    let options = [&options[..], &["--trusted-ca-file", &trusted]].concat();
    let options: Vec<_> = options.iter().map(ToString::to_string).collect();
    let mut etcd = Etcd::start_with(&newest(), &options, &[]);
    let (certificate, key) = old.sign("replica", &["replica"], false);
    let mut command = secure("a", &etcd, &servers);
    command.args(["--etcd-cert", &certificate, "--etcd-key", &key]);
    let mut daemon = Daemon::spawn("a", command);
    daemon.wait_for_next(LEADER);
    etcd.kill();
    fs::copy(new.certificate(), &trusted).unwrap();
    etcd.up();
    // Its old certificate is refused, and its term ends.
    daemon.wait_for_next_start(LOST);
    let replaced = new.sign("replica", &["replica"], false);
    fs::copy(replaced.0, certificate).unwrap();
    fs::copy(replaced.1, key).unwrap();
    daemon.wait_for_next(LEADER);
    daemon.wait_for_next(REFRESHED);
}

/// Starts an etcd with users. `replica` may read and write the two keys, and nothing else.
fn with_users(binary: &Path, options: &[String]) -> Etcd {
    // Checking a password takes long on purpose, and these tests have no time for that.
    let cheap = ["--bcrypt-cost", "4"].map(str::to_owned);
    let mut etcd = Etcd::start_with(binary, &[&cheap, options].concat(), &[]);
    for arguments in [
        &["user", "add", "root:of all evil"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "election"],
        &[
            "role",
            "grant-permission",
            "election",
            "readwrite",
            "leader",
        ],
        &[
            "role",
            "grant-permission",
            "election",
            "readwrite",
            "leader/acting",
        ],
        &["user", "add", "replica:sesame"],
        &["user", "grant-role", "replica", "election"],
        &["auth", "enable"],
    ] {
        etcd.etcdctl(arguments);
    }
    etcd.set_etcdctl_options(&["--user", "root:of all evil"]);
    etcd
}

/// Returns a candidate whose password is in a file.
fn as_user(name: &str, etcd: &Etcd, folder: &TempDir, password: &str) -> Command {
    as_user_at(name, &etcd.endpoint(), folder, password)
}

fn as_user_at(name: &str, endpoint: &str, folder: &TempDir, password: &str) -> Command {
    let file = folder.path().join("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    let mut command = plain(name, endpoint);
    command.args(["--etcd-user", "replica", "--etcd-password-file"]);
    command.arg(file);
    command
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
        second.wait_for_next(LEADER);
        second.wait_for_next(REFRESHED);
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
    command.args(["--log", "trace", "--log-format", "json"]);
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

#[test]
fn an_etcd_that_may_answer_stale_is_warned_about_once() {
    on_each_etcd(|etcd| {
        let mut daemon = Daemon::spawn("a", plain("a", &etcd.endpoint()));
        daemon.wait_for_next(LEADER);
        let version = etcd.etcdctl(&["version"]);
        let numbers: Vec<u32> = version
            .lines()
            .find_map(|line| line.strip_prefix("etcdctl version: "))
            .map(|version| {
                version
                    .trim()
                    .split('.')
                    .map(|part| part.parse().unwrap())
                    .collect()
            })
            .unwrap();
        let fixed = [[3, 4, 42], [3, 5, 28], [3, 6, 9]];
        let of_series = fixed.iter().find(|fixed| fixed[..2] == numbers[..2]);
        let outdated = of_series.is_some_and(|fixed| numbers[2] < fixed[2]);
        if outdated {
            wait_until("the warning", PATIENCE, || {
                let warned = daemon.lines().iter().any(Line::warns_of_outdated_etcd);
                warned.then_some(())
            });
        }
        daemon.wait_for_next_refreshes(3);
        let lines = daemon.lines();
        let warned = lines.iter().filter(|line| line.warns_of_outdated_etcd());
        assert_eq!(warned.count(), usize::from(outdated), "{version}");
    });
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
