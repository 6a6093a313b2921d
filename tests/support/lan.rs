//! A network of a test's own: machines on one link, each a network namespace.

use super::line::Line;
use super::process::Process;
use super::{PATIENCE, poll_every, wait_until};
use std::process::Command;
use std::time::{Duration, Instant};

/// How many machines there are; they count from 1.
pub const MACHINES: usize = 3;

/// Makes the machines and an observer, which is connected to them by a bridge; prints each change of
/// an address on any of them. All of it is gone with the process.
const SCRIPT: &str = r#"
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
# The names of the namespaces are files.
mount -t tmpfs tmpfs /run
ip link add bridge type bridge
ip link set bridge up
ip address add 192.0.2.254/24 dev bridge
for machine in 1 2 3; do
    ip netns add "$machine"
    # By this number, the kernel names the namespace in its reports.
    ip netns set "$machine" "$machine"
    ip link add "port$machine" type veth peer name eth0 address "02:00:00:00:00:0$machine" netns "$machine"
    ip link set "port$machine" master bridge up
    ip -n "$machine" link set eth0 up
    ip -n "$machine" address add "192.0.2.$machine/24" dev eth0
done
exec ip -oneline monitor all-nsid address
"#;

/// A change of an address on a machine.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was seen. The order of the changes is the kernel's.
    pub at: Instant,
    /// The machine.
    pub machine: usize,
    /// Whether the machine has the address from then on.
    pub has_it: bool,
}

/// The network. Dropping it removes it.
pub struct Lan {
    observer: Process,
}

impl Lan {
    /// Makes the network.
    pub fn new() -> Self {
        let mut script = Command::new("unshare");
        script.args(["--map-root-user", "--mount", "--net", "sh", "-c", SCRIPT]);
        let lan = Self {
            observer: Process::spawn("the network", script),
        };
        // It prints nothing by itself once it listens.
        poll_every(Duration::from_millis(50), "the network is up", || {
            let probe = ["ip", "address", "replace", "192.0.2.99/32", "dev", "eth0"];
            // This fails until the machine exists.
            let added = lan.command(MACHINES, &probe).output();
            let is_added = added.expect("nsenter").status.success();
            (is_added && !lan.changes("192.0.2.99/32").is_empty()).then_some(())
        });
        lan
    }

    /// Returns the command line that runs a program on a machine, or on the observer if that is 0.
    pub fn on(&self, machine: usize, program: &[&str]) -> Vec<String> {
        let observer = self.observer.pid().as_raw_nonzero().to_string();
        let mut line = vec!["nsenter", "--target", &observer];
        line.extend(["--user", "--mount", "--net", "--preserve-credentials"]);
        let namespace = format!("--net=/run/netns/{machine}");
        if machine > 0 {
            line.extend(["nsenter", &namespace]);
        }
        // Where users other than root do not look for `ip`.
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("PATH={path}:/usr/sbin:/sbin");
        line.extend(["env", &path]);
        line.extend(program);
        line.into_iter().map(str::to_owned).collect()
    }

    /// Returns that command line as a command.
    pub fn command(&self, machine: usize, program: &[&str]) -> Command {
        let line = self.on(machine, program);
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        command
    }

    /// Runs a program to its end, which must be a success; returns what it prints.
    pub fn run(&self, machine: usize, program: &[&str]) -> String {
        let output = self.command(machine, program).output().expect("nsenter");
        assert!(output.status.success(), "{program:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Returns the changes of this address so far.
    pub fn changes(&self, address: &str) -> Vec<Change> {
        let name = format!(" {address} ");
        let lines = self.observer.lines();
        let of_it = lines.iter().filter(|line| line.text().contains(&name));
        let change = |line: &Line| {
            let text = line.text();
            // [nsid 1]Deleted 2: …
            let (machine, rest) = text.strip_prefix("[nsid ")?.split_once(']')?;
            Some(Change {
                at: line.at,
                machine: machine.parse().ok()?,
                has_it: !rest.starts_with("Deleted "),
            })
        };
        of_it
            .map(|line| change(line).unwrap_or_else(|| panic!("{line:?}")))
            .collect()
    }

    /// Waits for a change that `is_it`, among those of this address after the first `skipped`.
    pub fn wait_for_change(
        &self,
        address: &str,
        skipped: usize,
        is_it: impl Fn(&Change) -> bool,
    ) -> Change {
        wait_until(address, PATIENCE, || {
            let changes = self.changes(address);
            let mut new = changes.get(skipped..)?.iter();
            new.find(|change| is_it(change)).cloned()
        })
    }
}
