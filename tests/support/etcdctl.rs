//! What operators do to an etcd with `etcdctl`.

use super::etcd::Etcd;
use super::poll_until;
use std::env;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A key as etcd shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its value.
    pub value: Vec<u8>,
    /// Its lease in etcdctl's hexadecimal.
    pub lease: Option<String>,
    /// The revision that last changed it.
    pub mod_revision: u64,
}

/// The options of a server whose database one large value fills.
pub const LITTLE_ROOM: [&str; 2] = ["--quota-backend-bytes", "1048576"];

impl Etcd {
    /// Runs `etcdctl`; returns what it prints.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        String::from_utf8(self.etcdctl_bytes(args, b"")).expect("text")
    }

    /// Does the same with standard input, and with output that need not be text.
    pub fn etcdctl_bytes(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let answer = self.try_etcdctl(args, input);
        answer.unwrap_or_else(|error| panic!("etcdctl {args:?} failed: {error}"))
    }

    /// Does the same for what may be refused.
    ///
    /// # Errors
    /// When it is refused, with etcdctl's reason.
    pub fn try_etcdctl(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        let mut command = Command::new(self.binary.with_file_name("etcdctl"));
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with("ETCDCTL") {
                command.env_remove(variable);
            }
        }
        let mut etcdctl = command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint()])
            .args(&self.etcdctl_options)
            .args(["--dial-timeout", "20s", "--command-timeout", "20s"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        // It reads all of its input before it answers.
        etcdctl
            .stdin
            .take()
            .expect("piped")
            .write_all(input)
            .expect("etcdctl reads");
        let output = etcdctl.wait_with_output().expect("our child");
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Fills the database by one request, so that this takes no longer than a request may. The server must have been
    /// started with [`LITTLE_ROOM`].
    pub fn fill(&self) {
        let megabyte = vec![b'x'; 1 << 20];
        let refusal = self.try_etcdctl(&["put", "filler"], &megabyte);
        let refusal = refusal.expect_err("the database does not take a megabyte");
        assert!(refusal.contains("space exceeded"), "{refusal}");
    }

    /// Returns the key, if it exists.
    pub fn key(&self, key: &str) -> Option<Key> {
        let fields = self.etcdctl(&["get", key, "-w", "fields"]);
        let lease: u64 = field(&fields, "Lease")?.parse().expect("a number");
        let mod_revision = field(&fields, "ModRevision")?.parse().expect("a number");
        let revision = format!("--rev={}", field(&fields, "Revision")?);
        let read = ["get", key, "--print-value-only", &revision];
        let mut value = self.etcdctl_bytes(&read, b"");
        assert_eq!(
            value.pop(),
            Some(b'\n'),
            "etcdctl ends the value with a new line"
        );
        let lease = (lease != 0).then(|| format!("{lease:016x}"));
        Some(Key {
            value,
            lease,
            mod_revision,
        })
    }

    /// Returns the revision of the last change to any key.
    pub fn revision(&self) -> u64 {
        let fields = self.etcdctl(&["get", "leader", "-w", "fields"]);
        field(&fields, "Revision")
            .expect("every response has one")
            .parse()
            .expect("a number")
    }

    /// Grants a lease; returns its id in etcdctl's hexadecimal.
    pub fn grant(&self, ttl: Duration) -> String {
        let answer = self.etcdctl(&["lease", "grant", &ttl.as_secs().to_string()]);
        answer
            .split(' ')
            .nth(1)
            .expect("lease ID granted with …")
            .to_owned()
    }

    /// Waits until a lease lasts for no more than this many seconds, unless it is renewed.
    pub fn wait_until_lease_is_short(&self, lease: &str, seconds: u32) {
        poll_until("the lease is not renewed", || {
            let answer = self.etcdctl(&["lease", "timetolive", lease]);
            let is_short =
                (0..=seconds).any(|left| answer.contains(&format!("remaining({left}s)")));
            is_short.then_some(())
        });
    }

    /// Returns the ids of all leases.
    pub fn leases(&self) -> Vec<String> {
        let list = self.etcdctl(&["lease", "list"]);
        list.lines().skip(1).map(str::to_owned).collect()
    }

    /// Puts a key with any value, bound to a lease or not.
    pub fn put(&self, key: &str, value: &[u8], lease: Option<&str>) {
        let lease = format!("--lease={}", lease.unwrap_or("0"));
        // An empty value can only be an argument, and one with a null byte only standard input.
        let argument: &[&str] = if value.is_empty() { &[""] } else { &[] };
        self.etcdctl_bytes(&[&["put", &lease, key], argument].concat(), value);
    }
}

/// Returns a field of `etcdctl -w fields`: `"Lease" : 4027522140664172294`.
fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    let name = format!("\"{name}\" : ");
    fields.lines().find_map(|line| line.strip_prefix(&name))
}
