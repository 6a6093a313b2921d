//! Containers of a minimal Debian.

use super::process::Process;
use super::project;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// It downloads package lists and packages.
const INSTALL_PATIENCE: Duration = Duration::from_mins(5);

/// Returns the image that the Dockerfile takes from this repository.
pub fn image(repository: &str) -> String {
    let text = fs::read_to_string(project("Dockerfile")).unwrap();
    let mut images = text.lines().filter_map(|line| {
        let image = line.strip_prefix("FROM ")?;
        image.split(' ').next()
    });
    let start = format!("{repository}:");
    images
        .find(|image| image.starts_with(&start))
        .unwrap()
        .to_owned()
}

/// Runs a script in a container that has the project's files; returns its exit code and its lines.
/// The container ends by itself, even if the test does not wait for it.
pub fn run(image: &str, options: &[&str], script: &str) -> (i32, Vec<String>) {
    let files = format!("{}:/project:ro", project("").display());
    // Docker passes on two streams, whose lines have no order between them.
    let script = format!("exec 2>&1\n{script}");
    let mut docker = Command::new("docker");
    docker
        .args(["run", "--rm", "--volume", &files])
        .args(options)
        .args([image, "timeout", "270", "bash", "-c", &script]);
    let (status, lines) = Process::spawn_script(&mut docker).finish_within(INSTALL_PATIENCE);
    (status.code().expect("an exit code"), lines)
}
