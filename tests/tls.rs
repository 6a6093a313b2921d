//! TLS to a real etcd: which connections work, which do not, and what is logged.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::authority::Authority;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, REFRESHED, plain};
use support::etcd::{Etcd, binaries};
use support::{TTL, let_pass};

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
