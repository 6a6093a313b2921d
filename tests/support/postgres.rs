//! A real database of a test's own.

use super::process::{Process, run};
use super::{PATIENCE, free_port, poll_every, wait_at_most};
use rustix::process::Signal;
use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The user nobody: `PostgreSQL` refuses to run as root.
const NOBODY: u32 = 65_534;

/// A database server with its data in a temporary folder.
pub struct Postgres {
    port: u16,
    process: Process,
    // Dropped after the process that uses it.
    _folder: TempDir,
}

/// Returns where its programs are: where Debian has them, or else on PATH.
fn folder_of_programs() -> PathBuf {
    let debians = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debians = debians.flatten().map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    debians
        .chain(env::split_paths(&path))
        .find(|folder| folder.join("initdb").is_file())
        .expect("this test needs PostgreSQL: run tests/run.sh, which installs what is missing")
}

impl Postgres {
    /// Starts a server; waits until it answers.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("a folder");
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own");
            chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let program = |name: &str| {
            let mut command = Command::new(folder_of_programs().join(name));
            if is_root {
                command.uid(NOBODY).gid(NOBODY);
            }
            command.current_dir("/").stdin(Stdio::null());
            command
        };
        let mut initdb = program("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync"]);
        run(initdb.arg("--pgdata").arg(&data), PATIENCE);
        let mut server = program("postgres");
        server.arg("-D").arg(&data);
        server.args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        server.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
        let postgres = Self {
            port,
            process: Process::spawn("postgres", server),
            _folder: folder,
        };
        poll_every(Duration::from_millis(50), "PostgreSQL answers", || {
            assert!(!postgres.process.has_ended(), "PostgreSQL ended");
            postgres.psql("SELECT 1").status.success().then_some(())
        });
        postgres
    }

    /// Returns how to reach it.
    pub fn url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// Runs SQL through psql, in one transaction that ends with its first error.
    pub fn psql(&self, sql: &str) -> Output {
        Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--single-transaction"])
            .args(["-c", sql, &self.url()])
            .output()
            .expect("psql starts")
    }

    /// Returns the rows that a query finds.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let output = self.psql(sql);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        let rows = String::from_utf8(output.stdout).expect("text");
        rows.lines().map(str::to_owned).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown. A killed server would leave shared memory behind.
        self.process.signal(Signal::QUIT);
        wait_at_most(PATIENCE, || self.process.has_ended().then_some(()));
    }
}
