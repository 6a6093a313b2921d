//! The library's users do not build what only the daemon needs.

use std::process::Command;

#[test]
fn without_the_daemon_none_of_its_dependencies_is_built() {
    let names = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            // Procedural macros have dependencies of their own.
            .args([
                "tree",
                "--locked",
                "--offline",
                "-e",
                "normal,no-proc-macro",
            ])
            .args(["--prefix", "none", "--format", "{p}"])
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let tree = String::from_utf8(output.stdout).unwrap();
        let name = |line: &str| line.split(' ').next().unwrap().to_owned();
        tree.lines().map(name).collect::<Vec<_>>()
    };
    let (with, without) = (names(&[]), names(&["--no-default-features"]));
    for name in [
        "anyhow",
        "clap",
        "clap_complete",
        "clap_mangen",
        "humantime",
        "tracing-subscriber",
        "signal-hook",
        "signal-hook-registry",
        "prometheus-client",
    ] {
        let is_it = |it: &String| it == name;
        assert!(with.iter().any(is_it), "{name} is the daemon's");
        assert!(!without.iter().any(is_it), "{name} is not the library's");
    }
}
