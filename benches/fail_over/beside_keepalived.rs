//! Compares a virtual IP address that follows the leader, as `examples/vip.sh` has it, with that of keepalived: two
//! machines on one link, a crash, and a pause of two seconds.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, FOLLOWER},
    etcd::Etcd,
    example,
    lan::{Change, Lan},
    let_pass, poll_until,
    quick::{SECOND, candidate},
    served, unique_name,
};
use tempfile::TempDir;

const ADDRESS: &str = "192.0.2.100/32";
const PAUSE: Duration = Duration::from_secs(2);
/// By when all have noticed the end of a pause, or that a machine takes part again.
const SETTLED: Duration = Duration::from_secs(4);

/// What decides which machine has the address.
#[derive(Clone, Copy, Debug)]
pub enum Rival {
    /// keepalived, with an advertisement every 0.2 s.
    Keepalived,
    /// This project, with `--fail-over 1s`.
    Ours,
}

impl Rival {
    /// Returns the name of its row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived, `advert_int 0.2`",
            Self::Ours => "leader-election, `--fail-over 1s`",
        }
    }
}

/// Two machines that run the same program.
pub struct Machines {
    rival: Rival,
    programs: Vec<Daemon>,
    lan: Lan,
    etcd: Etcd,
    folder: TempDir,
}

/// Measures both, and prints a table.
pub fn compare(runs: u32) {
    println!("| | killed, until the next one acts | paused for 2 s: act at once |");
    for rival in [Rival::Keepalived, Rival::Ours] {
        let mut machines = Machines::start(rival);
        let mut times: Vec<_> = (0..runs).map(|_| machines.end(Signal::KILL)).collect();
        times.sort();
        let at = |number: usize| times[number].as_millis();
        let (median, shortest, longest) = (at(times.len() / 2), at(0), at(times.len() - 1));
        let crash = format!("{median} ms ({shortest} to {longest})");
        let pauses: Vec<_> = (0..runs).map(|_| machines.pause(false)).collect();
        println!("| {} | {crash} | {} |", rival.name(), worst(&pauses));
        if let Rival::Ours = rival {
            let pauses: Vec<_> = (0..runs).map(|_| machines.pause(true)).collect();
            println!(
                "| the same, with all that it has started | | {} |",
                worst(&pauses)
            );
        }
    }
}

/// How many machines had the address at once, and for how long more than one had it.
type Overlap = (usize, Duration);

fn worst(overlaps: &[Overlap]) -> String {
    let most = overlaps.iter().map(|(most, _)| most).max();
    let longest = overlaps.iter().map(|(_, time)| time).max();
    let (most, longest) = most.zip(longest).expect("at least one run");
    format!("{most}, more than one for up to {} ms", longest.as_millis())
}

impl Machines {
    /// Starts both machines.
    pub fn start(rival: Rival) -> Self {
        let mut machines = Self {
            rival,
            programs: Vec::new(),
            lan: Lan::new(),
            etcd: Etcd::newest(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        for machine in 1..=2 {
            let program = machines.program(machine);
            machines.programs.push(program);
        }
        machines.holder();
        let_pass(SETTLED);
        machines
    }

    /// Starts the program of a machine.
    fn program(&self, machine: usize) -> Daemon {
        let name = format!("machine{machine}");
        match self.rival {
            Rival::Keepalived => {
                // A file that a killed one has left would keep the next one from starting.
                let start = unique_name(&name);
                let file = |kind: &str| {
                    let path = self.folder.path().join(format!("{start}.{kind}"));
                    path.into_os_string().into_string().expect("text")
                };
                fs::write(file("conf"), keepalived(machine)).expect("a file");
                let [conf, pid, child] = ["conf", "pid", "child"].map(file);
                let options = ["keepalived", "--dont-fork", "--log-console", "--vrrp"];
                let files = ["--use-file", &conf, "--pid", &pid, "--vrrp_pid", &child];
                let command = self.lan.command(machine, &[&options[..], &files].concat());
                Daemon::spawn(&name, command)
            }
            Rival::Ours => {
                let mut command = candidate(&name, &self.etcd.endpoint(), SECOND);
                let http = served::address();
                command.args(["--http", &http, "--advertise", &format!("http://{http}")]);
                let vip = [&example("vip.sh"), ADDRESS, "eth0"];
                command.arg("--").args(self.lan.on(machine, &vip));
                Daemon::spawn(&name, command)
            }
        }
    }

    /// Waits until one machine alone has the address; returns it.
    fn holder(&self) -> usize {
        poll_until("one machine has the address", || {
            let holders = holders(&self.lan.changes(ADDRESS));
            (holders.len() == 1).then(|| *holders.first().expect("one"))
        })
    }

    /// Ends the program of the machine that has the address: SIGKILL also ends all that the program has started, as if the
    /// machine failed. Returns how long it took until the other machine had the address, and replaces the program.
    pub fn end(&mut self, how: Signal) -> Duration {
        let old = self.holder();
        // At any moment between two tries or advertisements.
        let_pass(SECOND.mul_f64(fastrand::f64()));
        let skipped = self.lan.changes(ADDRESS).len();
        let ended = Instant::now();
        signal(&self.programs[old - 1], how, how == Signal::KILL);
        self.programs[old - 1].wait_exit();
        let next = self.lan.wait_for_change(ADDRESS, skipped, |change| {
            change.has_it && change.machine != old
        });
        // The kernel may have removed it by itself.
        let delete = ["ip", "address", "delete", ADDRESS, "dev", "eth0"];
        drop(self.lan.command(old, &delete).output());
        let mut new = self.program(old);
        if let Rival::Ours = self.rival {
            new.wait_for_next(FOLLOWER);
        }
        self.programs[old - 1] = new;
        let_pass(SETTLED);
        next.at - ended
    }

    /// Pauses the program of the machine that has the address, or all that it has started, for two seconds.
    fn pause(&mut self, with_all: bool) -> Overlap {
        let with_all = with_all || matches!(self.rival, Rival::Keepalived);
        let old = self.holder();
        let_pass(SECOND.mul_f64(fastrand::f64()));
        let skipped = self.lan.changes(ADDRESS).len();
        signal(&self.programs[old - 1], Signal::STOP, with_all);
        let_pass(PAUSE);
        signal(&self.programs[old - 1], Signal::CONT, with_all);
        let_pass(SETTLED);
        self.holder();
        overlap(&self.lan.changes(ADDRESS), skipped)
    }
}

/// Returns the configuration of the keepalived on this machine: the other one does not take the address back.
fn keepalived(machine: usize) -> String {
    let (other, priority) = (3 - machine, 100 + machine);
    format!(
        "global_defs {{\n router_id machine{machine}\n vrrp_version 3\n}}\n\
         vrrp_instance address {{\n state BACKUP\n nopreempt\n interface eth0\n virtual_router_id 51\n \
         priority {priority}\n advert_int 0.2\n unicast_src_ip 192.0.2.{machine}\n \
         unicast_peer {{\n 192.0.2.{other}\n }}\n virtual_ipaddress {{\n {ADDRESS}\n }}\n}}\n"
    )
}

/// Sends a signal to a program, and to all that it has started: to those first, so that none learns of the end of its
/// parent.
fn signal(program: &Daemon, signal: Signal, with_all: bool) {
    let mut all = vec![program.pid()];
    if with_all {
        let mut next = 0;
        while let Some(process) = all.get(next) {
            all.extend(children(*process));
            next += 1;
        }
    }
    for process in all.into_iter().rev() {
        // One that has ended meanwhile needs none.
        let _ = kill_process(process, signal);
    }
}

fn children(process: Pid) -> Vec<Pid> {
    let process = process.as_raw_nonzero();
    let file = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(file).unwrap_or_default();
    let ids = children
        .split_whitespace()
        .map(|id| id.parse().expect("a number"));
    ids.filter_map(Pid::from_raw).collect()
}

/// Returns the machines that have the address after these changes.
fn holders(changes: &[Change]) -> BTreeSet<usize> {
    let mut holders = BTreeSet::new();
    for change in changes {
        note(&mut holders, change);
    }
    holders
}

fn note(holders: &mut BTreeSet<usize>, change: &Change) {
    if change.has_it {
        holders.insert(change.machine);
    } else {
        holders.remove(&change.machine);
    }
}

/// Returns how many machines had the address at once, from the change with this number on.
fn overlap(changes: &[Change], skipped: usize) -> Overlap {
    let mut holders = holders(&changes[..skipped]);
    let (mut most, mut time, mut since) = (holders.len(), Duration::ZERO, None);
    for change in &changes[skipped..] {
        note(&mut holders, change);
        most = most.max(holders.len());
        match (since, holders.len() > 1) {
            (None, true) => since = Some(change.at),
            (Some(begun), false) => {
                time += change.at - begun;
                since = None;
            }
            _ => {}
        }
    }
    (most, time)
}
