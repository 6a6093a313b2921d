//! The demo in containers: a docker-compose project of a test's own.

use super::daemon::REFRESHED;
use super::process::{Process, run};
use super::{PATIENCE, free_port, lock, poll_every, project, unique_name};
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// The first build compiles everything, and pulls what can be pulled.
const BUILD_PATIENCE: Duration = Duration::from_mins(30);

/// Each look runs docker, which costs much of a core.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Returns the docker-composes to test with: those that `TEST_COMPOSES` names, or else PATH's.
pub fn binaries() -> Vec<PathBuf> {
    let list = env::var_os("TEST_COMPOSES").filter(|list| !list.is_empty());
    let list = list.unwrap_or_else(|| "docker-compose".into());
    env::split_paths(&list).collect()
}

/// Returns docker-compose as users run it: in the project's folder, and with nothing set in the
/// environment that changes what it does.
pub fn as_users_run(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.current_dir(project(""));
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        let is_port = name.starts_with("SERVER") && name.ends_with("_PORT");
        if is_port
            || name.starts_with("COMPOSE_")
            || ["DEMO_IMAGE", "ETCD_PORT", "RELEASE"].contains(&&*name)
        {
            command.env_remove(variable);
        }
    }
    command
}

/// A project with a name, a port and an image of its own. Dropping it removes its containers,
/// network and image.
pub struct Compose {
    binary: PathBuf,
    /// The compose file, where it is not the usual one.
    file: Option<&'static str>,
    project: String,
    port: u16,
    /// The ports of the three replicas' pages.
    pages: [u16; 3],
    /// The daemon's image.
    daemon: String,
    /// The image that this project builds.
    image: String,
}

impl Compose {
    /// Builds the demo's image.
    pub fn new(binary: &Path) -> Self {
        Self::with_own_daemon(binary, None)
    }

    /// Builds the demo's image for the example of a job that runs once.
    pub fn once(binary: &Path) -> Self {
        Self::with_own_daemon(binary, Some("examples/docker-compose-once.yaml"))
    }

    fn with_own_daemon(binary: &Path, file: Option<&'static str>) -> Self {
        let project = unique_name("leader_election_test");
        let compose = Self {
            binary: binary.to_owned(),
            file,
            port: free_port(),
            pages: [(); 3].map(|()| free_port()),
            daemon: project.clone(),
            image: project.clone(),
            project,
        };
        compose.build();
        compose
    }

    /// Builds the image of the cron example upon the demo's. Its project has another name than the
    /// demo's, as it has for users.
    pub fn cron(demo: &Self) -> Self {
        let compose = Self {
            binary: demo.binary.clone(),
            file: Some("examples/docker-compose-cron.yaml"),
            port: free_port(),
            pages: [(); 3].map(|()| free_port()),
            daemon: demo.daemon.clone(),
            image: format!("{}_cron", demo.daemon),
            project: unique_name("leader_election_test_example"),
        };
        compose.build();
        compose
    }

    fn build(&self) {
        // One after the other, so that the second build finds the layers of the first.
        static BUILD: Mutex<()> = Mutex::new(());
        let turn = lock(&BUILD);
        run(&mut self.command(&["build"]), BUILD_PATIENCE);
        drop(turn);
    }

    /// Returns docker-compose with these arguments, for this project.
    pub fn command(&self, args: &[&str]) -> Command {
        let file = self.file.map(|file| ["-f", file]);
        let mut command = as_users_run(&self.binary);
        command
            .args(["--ansi", "never"])
            .args(file.iter().flatten())
            .args(args)
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("DEMO_IMAGE", &self.daemon)
            .env("ETCD_PORT", self.port.to_string());
        for (server, page) in (1..).zip(self.pages) {
            command.env(format!("SERVER{server}_PORT"), page.to_string());
        }
        command
    }

    /// Runs docker-compose to its end.
    pub fn run(&self, args: &[&str]) -> Vec<String> {
        run(&mut self.command(args), PATIENCE)
    }

    /// Returns the address of etcd on this machine.
    pub fn etcd(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the addresses of the three replicas' pages on this machine.
    pub fn pages(&self) -> [String; 3] {
        self.pages.map(|port| format!("127.0.0.1:{port}"))
    }

    /// Returns the name of the image that it has built.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Returns the ids of what the project has of this kind: containers, networks, volumes.
    pub fn things(&self, list: &[&str]) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        docker(&[list, &["--quiet", "--filter", &filter]].concat())
    }

    /// Waits for a service's container; returns its id. While the engine makes a container, it
    /// lists it but cannot inspect it yet.
    pub fn container(&self, service: &str) -> String {
        let service = format!("label=com.docker.compose.service={service}");
        poll_docker("a container", || {
            let listed = self.things(&["ps", "--all", "--filter", &service]).pop()?;
            let inspect = &["inspect", &listed];
            let mut inspect = Process::spawn_script(Command::new("docker").args(inspect));
            inspect.wait_exit().success().then_some(listed)
        })
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let down = self.command(&["down", "--volumes", "--timeout", "5"]);
        let mut image = Command::new("docker");
        image.args(["image", "rm", &self.image]);
        for mut command in [down, image] {
            let command = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            // After a failed test, a second panic would hide what the first one says.
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

/// Returns one value of what docker knows of a container or image.
pub fn inspect(id: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, id]).join("\n")
}

/// Asks docker until there is something to return.
pub fn poll_docker<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    poll_every(LOOK_INTERVAL, what, look)
}

/// `docker-compose up` in a terminal.
pub struct Up {
    /// docker-compose itself.
    pub process: Process,
    /// How many messages of each service have been returned.
    seen: BTreeMap<String, usize>,
}

impl Up {
    /// Starts docker-compose with these arguments.
    pub fn start(compose: &Compose, args: &[&str]) -> Self {
        Self {
            process: Process::spawn_script(&mut compose.command(args)),
            seen: BTreeMap::new(),
        }
    }

    /// Waits for the service's next message that is one of `last`; returns its messages up to that
    /// one, from the last one on that this has returned. They are compose's lines without the
    /// prefix, and without the leader's refreshes, whose number varies.
    pub fn wait_for_next(&mut self, service: &str, last: &[&str]) -> Vec<String> {
        let seen = self.seen.entry(service.to_owned()).or_default();
        let what = format!("{service} says one of {last:?}");
        let new = self.process.wait_until_lines(&what, |lines| {
            let messages = lines.iter().filter_map(|line| message(line, service));
            let mut new: Vec<_> = messages
                .filter(|message| message != REFRESHED)
                .skip(*seen)
                .collect();
            let end = new
                .iter()
                .position(|message| last.contains(&message.as_str()))?;
            new.truncate(end + 1);
            Some(new)
        });
        *seen += new.len();
        new
    }

    /// Waits until the service says this once more, from now on.
    pub fn wait_for_another(&self, service: &str, what: &str) {
        let count = |lines: &[String]| {
            let said = |line: &&String| message(line, service).as_deref() == Some(what);
            lines.iter().filter(said).count()
        };
        let before = count(&self.process.texts());
        let another = format!("{service} says another {what:?}");
        self.process
            .wait_until_lines(&another, |lines| (count(lines) > before).then_some(()));
    }
}

/// Returns the message in a line of a service, whose prefix is `server1_1  | ` or `server1-1  | `.
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
