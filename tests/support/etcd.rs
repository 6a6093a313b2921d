//! An etcd of a test's own.

use super::{PATIENCE, free_port, poll_until};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use tempfile::TempDir;

/// Returns the etcd binaries to test against, the newest last: those that `TEST_ETCDS` names, or
/// else PATH's.
///
/// # Panics
/// When there is none.
pub fn binaries() -> Vec<PathBuf> {
    let binaries = match env::var_os("TEST_ETCDS").filter(|list| !list.is_empty()) {
        Some(list) => env::split_paths(&list).collect(),
        None => env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join("etcd"))
            .find(|path| path.is_file())
            .into_iter()
            .collect::<Vec<_>>(),
    };
    assert!(
        !binaries.is_empty(),
        "this test needs an etcd, and there is none on PATH: run tests/run.sh, which fetches what \
         is missing, or set TEST_ETCDS to the paths of etcd binaries, separated by colons"
    );
    for binary in &binaries {
        for tool in [binary, &binary.with_file_name("etcdctl")] {
            assert!(
                tool.is_file(),
                "there is no {}: run tests/run.sh",
                tool.display()
            );
        }
    }
    binaries
}

/// Runs a test against each version of etcd at the same time; a failure names the binary.
///
/// # Panics
/// When the test fails against one.
pub fn on_each_etcd(test: impl Fn(Etcd) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        let runs = binaries().into_iter().map(|binary| {
            let name = binary.display().to_string();
            let run = thread::Builder::new()
                .name(name.clone())
                .spawn_scoped(scope, move || test(Etcd::start(&binary)))
                .expect("a thread");
            (name, run)
        });
        let runs: Vec<_> = runs.collect();
        let failed: Vec<_> = runs
            .into_iter()
            .filter_map(|(name, run)| run.join().is_err().then_some(name))
            .collect();
        assert!(failed.is_empty(), "failed on {}", failed.join(" and "));
    });
}

/// Where an etcd without peers listens for peers: at a port that Linux picks.
const NO_PEERS: &str = "http://127.0.0.1:0";

/// An etcd on a port of its own, with its data in a temporary folder.
pub struct Etcd {
    pub(super) binary: PathBuf,
    port: u16,
    folder: TempDir,
    process: Option<Child>,
    /// Options beyond those that every etcd gets.
    options: Vec<String>,
    /// Options for etcdctl, such as certificates or a user.
    pub(super) etcdctl_options: Vec<String>,
    /// The port of its health page, if that is not the client port.
    health_port: Option<u16>,
    /// Its name in its cluster.
    name: String,
    /// The URL at which it listens for peers, the one at which they find it, and all members' names
    /// and URLs.
    peering: [String; 3],
}

impl Etcd {
    /// Returns an etcd that does not run yet, though its address is known.
    pub fn absent(binary: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            binary: binary.to_owned(),
            port: free_port(),
            folder,
            process: None,
            options: Vec::new(),
            etcdctl_options: Vec::new(),
            health_port: None,
            name: "default".to_owned(),
            peering: [NO_PEERS, NO_PEERS, &format!("default={NO_PEERS}")].map(str::to_owned),
        }
    }

    /// Returns a member of a cluster that does not run yet.
    pub fn member(binary: &Path, name: &str, peering: [String; 3]) -> Self {
        let mut etcd = Self::absent(binary);
        name.clone_into(&mut etcd.name);
        etcd.peering = peering;
        etcd
    }

    /// Starts an etcd with more options, and more for etcdctl; waits until it answers. It serves
    /// TLS if the options name a certificate.
    pub fn start_with(binary: &Path, options: &[String], etcdctl_options: &[String]) -> Self {
        let mut etcd = Self::absent(binary);
        etcd.options = options.to_vec();
        etcd.etcdctl_options = etcdctl_options.to_vec();
        if options.iter().any(|option| option == "--cert-file") {
            etcd.health_port = Some(free_port());
        }
        etcd.up();
        etcd
    }

    /// Replaces the options for etcdctl.
    pub fn set_etcdctl_options(&mut self, options: &[&str]) {
        self.etcdctl_options = options.iter().map(ToString::to_string).collect();
    }

    /// Starts an etcd; waits until it answers.
    pub fn start(binary: &Path) -> Self {
        Self::start_with(binary, &[], &[])
    }

    /// Starts the newest etcd; waits until it answers.
    pub fn newest() -> Self {
        Self::start(binaries().last().expect("never empty"))
    }

    /// Returns its client address.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it at its address with the data that it had; waits until it answers.
    pub fn up(&mut self) {
        self.launch();
        self.wait_up();
    }

    /// Starts it and does not wait.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "etcd already runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a log file");
        let scheme = if self.health_port.is_some() {
            "https"
        } else {
            "http"
        };
        let client = format!("{scheme}://{}", self.endpoint());
        let health = self
            .health_port
            .map(|port| format!("http://127.0.0.1:{port}"));
        let [listen, advertise, cluster] = &self.peering;
        let mut command = Command::new(&self.binary);
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with("ETCD") {
                command.env_remove(variable);
            }
        }
        let process = command
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.data())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                listen,
                "--initial-advertise-peer-urls",
                advertise,
                "--initial-cluster",
                cluster,
            ])
            .args(health.iter().flat_map(|url| ["--listen-metrics-urls", url]))
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.process = Some(process);
    }

    /// Waits until it answers.
    pub fn wait_up(&mut self) {
        poll_until("etcd responds", || {
            let process = self.process.as_mut().expect("etcd runs");
            let ended = process.try_wait().expect("our child");
            assert!(ended.is_none(), "etcd ended: {ended:?}");
            self.is_healthy().then_some(())
        });
    }

    /// Whether its health page says that it serves requests. The page accepts a request as soon as
    /// the port is open, and responds once it can.
    pub fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let port = self.health_port.unwrap_or(self.port);
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    /// Kills it, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our child");
            process.wait().expect("our child");
        }
    }

    /// Stops it gracefully, as an upgrade does.
    pub fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).expect("our child");
        let mut process = self.process.take().expect("etcd runs");
        process.wait().expect("our child");
    }

    /// Kills it and deletes its data.
    pub fn kill_and_forget(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).expect("etcd's data");
    }

    /// Makes a copy of its data; restarts it for that.
    pub fn back_up(&mut self) {
        self.kill();
        copy(&self.data(), self.file("backup").as_ref());
        self.up();
    }

    /// Restarts it with the copy instead of its data.
    pub fn restore(&mut self) {
        self.kill_and_forget();
        copy(self.file("backup").as_ref(), &self.data());
        self.up();
    }

    /// Returns the folder of its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns the path of a file beside its data.
    pub fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.into_os_string().into_string().expect("text")
    }

    /// Suspends it: its connections stay open and are silent.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("our child");
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        rustix::io::retry_on_intr(|| waitid(WaitId::Pid(self.pid()), stopped)).expect("it stops");
    }

    /// Resumes it.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("our child");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.process.as_ref().expect("etcd runs"))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("etcd.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("an older copy");
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!(
                "--- the end of {}'s log\n{}",
                self.binary.display(),
                self.log_tail()
            );
        }
    }
}
