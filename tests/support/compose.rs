//! The demo in containers: a docker-compose project of a test's own.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use crate::process::{PATIENCE, Process, project, run};
use std::collections::BTreeMap;
use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The first build compiles everything, and pulls what can be pulled.
const BUILD_PATIENCE: Duration = Duration::from_mins(30);

/// The docker-composes at hand: those that `TEST_COMPOSES` names, else PATH's.
pub fn binaries() -> Vec<PathBuf> {
    let list = env::var_os("TEST_COMPOSES").filter(|list| !list.is_empty());
    let list = list.unwrap_or_else(|| "docker-compose".into());
    env::split_paths(&list).collect()
}

/// A project of its own name and port. Its containers, network and image go with it.
pub struct Compose {
    binary: PathBuf,
    project: String,
    port: u16,
}

impl Compose {
    /// A project whose image is built.
    pub fn new(binary: &Path) -> Self {
        // One after the other, so that the second build finds the layers of the first.
        static BUILD: Mutex<()> = Mutex::new(());
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let compose = Self {
            binary: binary.to_owned(),
            project: format!("leader_election_test_{}_{number}", std::process::id()),
            port: free_port(number),
        };
        let turn = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
        run(&mut compose.command(&["build"]), BUILD_PATIENCE);
        drop(turn);
        compose
    }

    /// docker-compose with these arguments, for this project.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .current_dir(project(""))
            .args(["--ansi", "never"])
            .args(args);
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with("COMPOSE_") {
                command.env_remove(variable);
            }
        }
        command
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("ETCD_PORT", self.port.to_string());
        command
    }

    /// Runs docker-compose to its end.
    pub fn run(&self, args: &[&str]) -> Vec<String> {
        run(&mut self.command(args), PATIENCE)
    }

    /// Where etcd answers on this machine.
    pub fn etcd(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The name of the project, which is its image's as well.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// What the project has of this kind: containers, networks, volumes.
    pub fn things(&self, list: &[&str]) -> Vec<String> {
        docker(
            &[
                list,
                &[
                    "--quiet",
                    "--filter",
                    &format!("label=com.docker.compose.project={}", self.project),
                ],
            ]
            .concat(),
        )
    }

    /// The id of a service's container, once the engine knows it: while it makes a container, it
    /// lists what it cannot inspect yet.
    pub fn container(&self, service: &str) -> String {
        let service = format!("label=com.docker.compose.service={service}");
        wait_until("a container", || {
            let listed = self.things(&["ps", "--all", "--filter", &service]).pop()?;
            let known = Process::start(Command::new("docker").args(["inspect", &listed]))
                .wait_end(PATIENCE)
                .0;
            known.success().then_some(listed)
        })
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        // Perhaps after a failed test: a second panic would hide what the first one says.
        let down = self.command(&["down", "--volumes", "--remove-orphans", "--timeout", "5"]);
        let mut image = Command::new("docker");
        // The second one is there where something was built upon the first.
        image.args([
            "image",
            "rm",
            &format!("{}_cron", self.project),
            &self.project,
        ]);
        for mut command in [down, image] {
            let command = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if let Ok(mut child) = command.spawn() {
                let end = Instant::now() + PATIENCE;
                while child.try_wait().is_ok_and(|status| status.is_none()) {
                    if Instant::now() > end {
                        let _ = child.kill();
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

/// Runs docker to its end.
pub fn docker(args: &[&str]) -> Vec<String> {
    run(Command::new("docker").args(args), PATIENCE)
}

/// One value of what docker knows of a container or image.
pub fn inspect(id: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, id]).join("\n")
}

/// Asks docker, which has no event for it, until there is something to return.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// `docker-compose up` in a terminal.
pub struct Up {
    pub process: Process,
    /// How many lines each service had said when it was last asked for news.
    seen: BTreeMap<String, usize>,
}

impl Up {
    pub fn start(compose: &Compose, args: &[&str]) -> Self {
        Self {
            process: Process::start(&mut compose.command(args)),
            seen: BTreeMap::new(),
        }
    }

    /// The messages of a service since they were last asked for, up to one that is in `last`. They are compose's
    /// lines without the prefix, and without the leader's refreshes, whose number varies.
    pub fn news(&mut self, service: &str, last: &[&str]) -> Vec<String> {
        let seen = self.seen.entry(service.to_owned()).or_default();
        let news =
            self.process
                .wait_until_lines(&format!("{service} says one of {last:?}"), |lines| {
                    let messages = lines.iter().filter_map(|line| message(line, service));
                    let mut news: Vec<_> = messages
                        .filter(|message| *message != REFRESHED)
                        .skip(*seen)
                        .collect();
                    let end = news
                        .iter()
                        .position(|message| last.contains(&message.as_str()))?;
                    news.truncate(end + 1);
                    Some(news)
                });
        *seen += news.len();
        news
    }

    /// Waits until the service has said this once more.
    pub fn wait_for_another(&self, service: &str, what: &str) {
        let count = |lines: &[String]| {
            let said = |line: &&String| message(line, service).as_deref() == Some(what);
            lines.iter().filter(said).count()
        };
        let before = count(&self.process.lines());
        self.process
            .wait_until_lines(&format!("{service} says another {what:?}"), |lines| {
                (count(lines) > before).then_some(())
            });
    }
}

/// What a leader says once a renewal was answered.
pub const REFRESHED: &str = "Refreshing lease; still the leader.";

/// The message in a line of a service, whose prefix is `server1_1  | ` or `server1-1  | `.
fn message(line: &str, service: &str) -> Option<String> {
    let (prefix, message) = line.split_once("| ")?;
    // Compose v2 clears the line first, on a terminal or not.
    let prefix = prefix.trim_start_matches("\x1b[2K").trim_end();
    let ours = prefix
        .strip_suffix("_1")
        .or_else(|| prefix.strip_suffix("-1"))
        == Some(service);
    ours.then(|| message.trim_end_matches('\r').to_owned())
}

/// A port for the project's etcd that stays free until the engine takes it: not one that Linux gives to outgoing
/// connections, nor one that another project of these tests is given.
fn free_port(number: u16) -> u16 {
    let process = u16::try_from(std::process::id() % 1_000).unwrap();
    let first = 20_000 + process * 10 + number * 100;
    (first..32_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
