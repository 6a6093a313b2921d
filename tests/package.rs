//! The Debian package, which `tests/package.sh` builds.

use std::env;
use std::fs;
use std::io::{Write, stderr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::debian::{image, run};
use support::process;
use support::{PATIENCE, is_long_run, project};

/// The first build installs cargo-deb and compiles everything.
const BUILD_PATIENCE: Duration = Duration::from_mins(30);

/// Runs `tests/package.sh`; returns its lines.
fn package_script(arguments: &[&str], bound: Duration) -> Vec<String> {
    let mut script = Command::new(project("tests/package.sh"));
    // cargo describes this test with them. Some build scripts read them, and would run again.
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            script.env_remove(variable);
        }
    }
    process::run(script.args(arguments), bound)
}

/// Returns the lines of a unit after its header.
fn lines_of_unit(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let (_header, unit) = text.split_once("\n\n").unwrap();
    unit.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn the_units_of_the_package_differ_from_the_example_only_where_they_must() {
    let folder = tempfile::tempdir().unwrap();
    package_script(&["units", folder.path().to_str().unwrap()], PATIENCE);
    let mut expected = lines_of_unit(&project("examples/leader-election.service"));
    let place = |lines: &[String], line: &str| {
        let place = lines.iter().position(|it| it == line);
        place.unwrap_or_else(|| panic!("no {line:?} in {lines:#?}"))
    };

    let start = place(&expected, "ExecStart=/usr/local/bin/leader-election");
    expected[start] = "ExecStart=/usr/bin/leader-election".to_owned();
    let unit = lines_of_unit(&folder.path().join("leader-election.service"));
    assert_eq!(unit, expected);

    let description = place(&expected, "Description=Leader election over etcd");
    expected[description] += " (%i)";
    let options = place(&expected, "EnvironmentFile=-/etc/default/leader-election");
    let of_instance = [
        "EnvironmentFile=/etc/default/leader-election-%i",
        "Environment=LEADER_ELECTION_LEADER_KEY=%i",
    ];
    expected.splice(options + 1..=options, of_instance.map(str::to_owned));
    let template = lines_of_unit(&folder.path().join("leader-election@.service"));
    let without_comments = |lines: Vec<String>| {
        let mut lines = lines;
        lines.retain(|line| !line.starts_with("# "));
        lines
    };
    assert_eq!(without_comments(template), without_comments(expected));
}

#[test]
fn all_options_in_the_default_file_are_commented_and_exist() {
    let mut help = support::daemon::command();
    let help = help.arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let text = fs::read_to_string(project("packaging/leader-election.default")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let mut variables = 0;
    for line in lines {
        let comment = line.strip_prefix('#');
        let comment = comment.unwrap_or_else(|| panic!("{line:?} is no comment"));
        if let Some((variable, _value)) = comment.split_once('=')
            && variable.starts_with("LEADER_ELECTION_")
        {
            assert!(help.contains(&format!("[env: {variable}]")), "{variable}");
            variables += 1;
        }
    }
    assert!(variables >= 5, "{text}");
}

/// What the container's script begins with. It prints a line for each step, and the lines of what the step is about.
const PREPARE: &str = r#"
set -e
quietly() { "$@" >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; }
export DEBIAN_FRONTEND=noninteractive
# Debian's image for Docker leaves out manual pages, and lets no package act upon services.
rm -f /etc/dpkg/dpkg.cfg.d/docker /usr/sbin/policy-rc.d
quietly apt-get -qq update
quietly apt-get -qq install --no-install-recommends --yes man-db bash-completion systemd

# A second version of the package, of the same files.
first=$(echo /package/*.deb)
quietly dpkg-deb --raw-extract "$first" /tmp/next
sed -i 's/^Version: .*/&+next/' /tmp/next/DEBIAN/control
quietly dpkg-deb --build /tmp/next /tmp/next.deb

# No systemd runs here. This one records what it is asked for.
mkdir -p /run/systemd/system
printf '#!/bin/sh\necho "systemctl $*" >>/tmp/systemctl\n' >/usr/bin/systemctl
asked() { cat /tmp/systemctl; rm /tmp/systemctl; }

# The files of the system, apart from the logs and caches of dpkg and apt, and from what lasts until the next boot.
files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /project -o -path /package \
        -o -path /var/cache -o -path /var/log -o -path /var/lib/apt -o -path '/var/lib/dpkg/*-old' \) -prune \
        -o -printf '%y %p\n' | sort >"$1"
}
files /tmp/before
"#;

/// Installs it, uses it, and removes it.
const USE: &str = r#"
echo "= install"
quietly apt-get -qq install --yes "$first"
asked
stat -c '%a %U %n' /usr/bin/leader-election /etc/default/leader-election
leader-election --version
find /etc/systemd -name '*leader-election*'

echo "= man"
man -w leader-election
# This prints errors in the page, such as an unknown macro. The page has characters that are not ASCII.
LC_ALL=C.UTF-8 man --warnings leader-election >/tmp/page
head -n 1 /tmp/page | tr -s ' '
grep -c -- '--fail-over' /tmp/page >/dev/null

echo "= completions"
bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader leader-election; complete -p leader-election'
cmp /usr/share/bash-completion/completions/leader-election <(leader-election completions bash)
cmp /usr/share/zsh/vendor-completions/_leader-election <(leader-election completions zsh)
cmp /usr/share/fish/vendor_completions.d/leader-election.fish <(leader-election completions fish)

echo "= units"
systemd-analyze verify leader-election.service leader-election@mail.service
# It does print something about an unknown setting.
sed 's/^WatchdogSec=/WatchdogMin=/' /usr/lib/systemd/system/leader-election.service >/tmp/wrong.service
systemd-analyze verify /tmp/wrong.service 2>&1 | grep -o WatchdogMin

echo "= upgrade"
echo LEADER_ELECTION_TTL=10s >>/etc/default/leader-election
cp /etc/default/leader-election /tmp/edited
quietly dpkg --install /tmp/next.deb </dev/null
asked
dpkg-query -W -f '${Status} ${Version}\n' leader-election
cmp /etc/default/leader-election /tmp/edited
ls /etc/default | grep leader

echo "= remove"
mkdir -p /etc/systemd/system/multi-user.target.wants
for unit in leader-election leader-election@mail; do
    ln -s "/usr/lib/systemd/system/${unit%mail}.service" "/etc/systemd/system/multi-user.target.wants/$unit.service"
done
quietly apt-get -qq remove --yes leader-election
asked
files /tmp/after
comm -13 /tmp/before /tmp/after

echo "= purge"
quietly apt-get -qq purge --yes leader-election
asked
files /tmp/after
diff /tmp/before /tmp/after
dpkg-query -W -f '${Status}\n' leader-election
"#;

#[test]
fn a_bare_debian_installs_upgrades_and_removes_the_package() {
    if !is_long_run() {
        // Unlike eprintln!, this is shown although the test passes.
        let _ = writeln!(
            stderr(),
            "the package is installed only by `tests/run.sh all`: building it takes minutes"
        );
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let package = package_script(&[], BUILD_PATIENCE).pop().unwrap();
    let package = Path::new(&package);
    let name = package.file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with(&format!("leader-election_{version}-1_")),
        "{name}"
    );
    let volume = format!("{}:/package/{name}:ro", package.display());
    let script = format!("{PREPARE}{USE}");
    let (code, lines) = run(&image("debian"), &["--volume", &volume], &script);
    let text = lines.join("\n");
    assert_eq!(code, 1, "dpkg-query finds nothing at the end: {text}");
    let (_, steps) = text.split_once("= install\n").expect(&text);
    let expected = format!(
        "systemctl daemon-reload
755 root /usr/bin/leader-election
644 root /etc/default/leader-election
leader-election {version}
= man
/usr/share/man/man1/leader-election.1.gz
leader-election(1) General Commands Manual leader-election(1)
= completions
complete -o bashdefault -o default -o nosort -F _leader_election leader-election
= units
WatchdogMin
= upgrade
systemctl daemon-reload
systemctl try-restart leader-election.service leader-election@*.service --no-block
install ok installed {version}-1+next
leader-election
= remove
systemctl stop leader-election.service leader-election@*.service
systemctl daemon-reload
f /etc/default/leader-election
f /var/lib/dpkg/info/leader-election.list
f /var/lib/dpkg/info/leader-election.postrm
l /etc/systemd/system/multi-user.target.wants/leader-election.service
l /etc/systemd/system/multi-user.target.wants/leader-election@mail.service
= purge
systemctl daemon-reload
dpkg-query: no packages found matching leader-election"
    );
    assert_eq!(steps, expected, "{text}");
}
