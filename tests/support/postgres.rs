//! A real database of a test's own.

use super::{PATIENCE, free_port};
use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The user nobody: it does not run as root.
const NOBODY: u32 = 65_534;

/// A database server with its data in a temporary folder.
pub struct Postgres {
    folder: TempDir,
    port: u16,
    process: Child,
}

/// Where its programs are: where Debian has them, else on PATH.
fn folder_of_programs() -> PathBuf {
    let debians = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debians = debians.flatten().map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    debians
        .chain(env::split_paths(&path))
        .find(|folder| folder.join("initdb").is_file())
        .expect("these tests need PostgreSQL: run tests/run.sh, which installs what is missing")
}

impl Postgres {
    /// Starts one; returns once it answers.
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
            let mut log = File::options();
            let log = log.create(true).append(true);
            let log = log.open(folder.path().join("log")).expect("a log");
            command.current_dir("/").stdin(Stdio::null());
            command
                .stdout(log.try_clone().expect("a second handle"))
                .stderr(log);
            command
        };
        let created = program("initdb")
            .args([
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .status()
            .expect("initdb starts");
        let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(created.success(), "initdb: {}", log());
        let process = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-h", "127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
            .spawn()
            .expect("postgres starts");
        let postgres = Self {
            folder,
            port,
            process,
        };
        let end = Instant::now() + PATIENCE;
        while !postgres.psql("SELECT 1").status.success() {
            assert!(
                Instant::now() < end,
                "PostgreSQL does not answer:\n{}",
                postgres.log()
            );
            // Nobody tells when it answers, so this one looks again.
            thread::sleep(Duration::from_millis(50));
        }
        postgres
    }

    /// How to reach it.
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
            .args([
                "--set=ON_ERROR_STOP=1",
                "--single-transaction",
                "-c",
                sql,
                &self.url(),
            ])
            .output()
            .expect("psql starts")
    }

    /// The rows that a query finds.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let output = self.psql(sql);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        let rows = String::from_utf8(output.stdout).expect("text");
        rows.lines().map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its own processes end when they notice.
        drop(self.process.kill());
        drop(self.process.wait());
        if thread::panicking() {
            eprintln!("--- what PostgreSQL said\n{}", self.log());
        }
    }
}
