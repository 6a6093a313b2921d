//! The scripts on a machine that has only just been installed: in a container of a minimal Debian.

use std::path::PathBuf;
use support::debian::{image, run};
use support::etcd::binaries;

/// Makes this container's system look like another one than Debian.
const NOT_DEBIAN: &str = "sed -i 's/^ID=.*/ID=other/' /etc/os-release";

#[test]
fn packages_are_installed_on_debian_and_named_where_they_cannot_be() {
    let script = format!(
        "setpriv --reuid=65534 --clear-groups /project/tests/install.sh debootstrap; echo \"exit code $?\"
        /project/tests/install.sh debootstrap && ls /usr/sbin/debootstrap
        {NOT_DEBIAN}
        /project/tests/install.sh debootstrap"
    );
    let (code, mut lines) = run(&image("debian"), &[], &script);
    // What apt-get remarks, such as that there is no terminal.
    lines.retain(|line| !line.starts_with("debconf: ") && !line.starts_with("W: "));
    assert_eq!(code, 1, "{lines:#?}");
    assert_eq!(
        lines,
        [
            "tests/install.sh: there is no sudo. Run this as root, or install these yourself: apt-get install debootstrap",
            "exit code 1",
            "tests/install.sh: installing debootstrap",
            "/usr/sbin/debootstrap",
            "tests/install.sh: this machine is not Debian. Please install what these Debian packages contain: debootstrap",
        ]
    );
}

/// Returns where a program is on the PATH.
fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    let place = places.find(|place| place.is_file());
    place
        .unwrap_or_else(|| panic!("no {program} on the PATH"))
        .canonicalize()
        .unwrap()
}

#[test]
fn the_script_for_stand_ins_installs_debootstrap() {
    // It talks to this machine's engine, where it makes nothing: there is no such Debian.
    let client = format!("{}:/usr/bin/docker:ro", on_path("docker").display());
    let options = [
        "--volume",
        &client,
        "--volume",
        "/var/run/docker.sock:/var/run/docker.sock",
    ];
    let script = "mkdir copy && cd copy && cp -r /project/tests . && cp /project/docker-compose-etcd.yaml . &&
        sed 's/^FROM debian:.*/FROM debian:no-such-suite-slim/' /project/Dockerfile >Dockerfile &&
        tests/stand-ins.sh";
    let (code, lines) = run(&image("debian"), &options, script);
    assert_eq!(code, 1, "{lines:#?}");
    let place = |start: &str| {
        let place = lines.iter().position(|line| line.starts_with(start));
        place.unwrap_or_else(|| panic!("no {start:?} in {lines:#?}"))
    };
    let stages = [
        "tests/stand-ins.sh: debian:no-such-suite-slim cannot be pulled",
        "tests/install.sh: installing debootstrap",
        "tests/stand-ins.sh: debootstrap failed to make debian:no-such-suite-slim",
    ];
    assert!(stages.map(place).is_sorted(), "{lines:#?}");
}

#[test]
fn the_demo_without_containers_installs_what_the_build_needs_or_says_what_that_is() {
    let etcd = format!("{}:/opt/etcd:ro", binaries().pop().unwrap().display());
    // Without access to the crates, the build ends where it would begin to take minutes.
    let options = [
        "--volume",
        &etcd,
        "--env",
        "CARGO_NET_OFFLINE=true",
        "--env",
        "CARGO_TARGET_DIR=/tmp/target",
    ];
    let script = format!(
        "cp -L /etc/os-release /tmp/debian
        {NOT_DEBIAN}
        /project/examples/demo.sh; echo \"exit code $?\"
        export ETCD=/opt/etcd
        /project/examples/demo.sh; echo \"exit code $?\"
        cp /tmp/debian /etc/os-release
        /project/examples/demo.sh; echo \"exit code $?\"
        protoc --version && ls /usr/include/google/protobuf/empty.proto"
    );
    let (code, lines) = run(&image("rust"), &options, &script);
    assert_eq!(code, 0, "{lines:#?}");
    let text = lines.join("\n");
    let expected = [
        "tests/fetch.sh: fetches from Debian's mirrors with apt, which needs a Debian machine",
        "demo.sh: there is no etcd on the PATH, and none could be fetched",
        "exit code 1",
        "tests/install.sh: this machine is not Debian. Please install what these Debian packages contain: \
         protobuf-compiler libprotobuf-dev",
        "demo.sh: this machine lacks what the build needs",
        "exit code 1",
        "tests/install.sh: installing protobuf-compiler libprotobuf-dev",
        "demo.sh: the build failed (cargo's message is above)",
        "exit code 1",
        "libprotoc ",
        "/usr/include/google/protobuf/empty.proto",
    ];
    let mut rest = text.as_str();
    for line in expected {
        let place = rest.find(line);
        let place = place.unwrap_or_else(|| panic!("no {line:?} in its place in {text}"));
        rest = &rest[place + line.len()..];
    }
}
