//! What is measured in rounds, in which this project and its peers take turns: whatever else the machine does meets
//! all of them.

use crate::{
    beside_keepalived::{Machines, Rival},
    contest::{BOUND, Contest, Method as _},
    floor::Floor,
    idle,
    ours::{self, Kind, Ours},
    peers::{self, ELECT, Etcdctl, LOCK},
    report::Section,
    watch::Watch,
    zookeeper::{KAZOO, ZooKeeper},
};
use rustix::process::Signal;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use support::{let_pass, process::Process, wait_until};

/// What is to be measured.
pub struct Plan {
    pub runs: usize,
    /// The etcd.
    pub etcd: PathBuf,
    pub with_zookeeper: bool,
    pub with_keepalived: bool,
}

/// So many candidates have all elections.
const COUNT: usize = 3;
const FLOORS_IN_A_ROUND: usize = 5;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Plan {
    fn contest(&self, kind: Kind) -> Contest {
        Contest::start(Box::new(Ours::new(kind, &self.etcd)), "e", COUNT)
    }

    fn peer(&self, kind: peers::Kind) -> Contest {
        Contest::start(Box::new(Etcdctl::new(kind, &self.etcd)), "e", COUNT)
    }

    fn zookeeper(&self) -> Option<Contest> {
        let start = || Contest::start(Box::new(ZooKeeper::start()), "e", COUNT);
        self.with_zookeeper.then(start)
    }

    fn machines(&self) -> Vec<(Rival, Machines)> {
        let rivals = [Rival::Ours, Rival::Keepalived].into_iter();
        let rivals = rivals.filter(|_| self.with_keepalived);
        rivals
            .map(|rival| (rival, Machines::start(rival)))
            .collect()
    }

    /// Measures what takes milliseconds.
    pub fn measure_starts_and_hand_overs(&self) -> Vec<Section> {
        let mut contests = vec![
            self.contest(Kind::Plain),
            self.peer(peers::Kind::Elect),
            self.contest(Kind::Wrapper),
            self.peer(peers::Kind::Lock(10)),
        ];
        contests.extend(self.zookeeper());
        let mut machines = self.machines();
        let mut floor = Floor::start(&self.etcd);
        let [
            mut starts,
            mut hand_overs,
            mut commands,
            mut addresses,
            mut memory,
            mut floors,
        ] = sections();
        for _ in 0..self.runs {
            add_floor(&mut floors, &mut floor);
            for contest in &mut contests {
                let took = milliseconds(contest.start_alone());
                let method = &contest.method;
                starts.add_compared(method.name(), method.compared_with(), took);
            }
            for contest in &mut contests {
                let took = milliseconds(contest.hand_over());
                let method = &contest.method;
                let section = match method.commands() {
                    Some(_) => &mut commands,
                    None => &mut hand_overs,
                };
                section.add_compared(method.name(), method.compared_with(), took);
                memory.add_compared(
                    method.name(),
                    method.compared_with(),
                    idle::memory(&contest.running[0]),
                );
            }
            for (rival, machines) in &mut machines {
                add_address(&mut addresses, *rival, machines.end(Signal::TERM));
            }
        }
        let mut sections = vec![starts, hand_overs, commands, memory, floors];
        if self.with_keepalived {
            sections.push(addresses);
        }
        sections
    }

    /// Measures what takes seconds.
    pub fn measure_fail_overs(&self) -> Vec<Section> {
        let mut contests = vec![
            self.contest(Kind::Connected),
            self.contest(Kind::Polling),
            self.contest(Kind::Plain),
            self.contest(Kind::Wrapper),
            self.peer(peers::Kind::Lock(2)),
        ];
        contests.extend(self.zookeeper());
        let mut machines = self.machines();
        let [mut fail_overs, mut after_deletions, mut addresses] = fail_over_sections();
        for _ in 0..self.runs {
            // Until all have noticed that a new candidate takes part.
            let_pass(Duration::from_secs(3));
            for contest in &mut contests {
                let (took, after_deletion) = contest.crash();
                let name = with_time(contest.method.name());
                let compared_with = contest.method.compared_with().map(with_time);
                fail_overs.add_compared(name, compared_with, milliseconds(took));
                if let Some(part) = after_deletion {
                    after_deletions.add_compared(name, compared_with, milliseconds(part));
                }
            }
            for (rival, machines) in &mut machines {
                add_address(&mut addresses, *rival, machines.end(Signal::KILL));
            }
        }
        drop(contests);
        for (took, part) in self.elect_crashes() {
            let (name, compared_with) = (with_time(ELECT), Some(with_time(ours::PLAIN)));
            fail_overs.add_compared(name, compared_with, milliseconds(took));
            after_deletions.add_compared(name, compared_with, milliseconds(part));
        }
        let mut sections = vec![fail_overs, after_deletions];
        if self.with_keepalived {
            sections.push(addresses);
        }
        sections
    }

    /// Kills leaders of `etcdctl elect`, all within a few seconds, because each fail-over takes a minute. Returns how
    /// long each took, and the part after the deletion of the leader's key.
    fn elect_crashes(&self) -> Vec<(Duration, Duration)> {
        let elect = Etcdctl::new(peers::Kind::Elect, &self.etcd);
        let elections: Vec<_> = (0..self.runs).map(|number| format!("e{number}")).collect();
        let pairs: Vec<_> = elections
            .iter()
            .map(|election| {
                let start = |name| Process::spawn(name, elect.candidate(election, name));
                let mut leader = start("leader");
                leader.wait_for_next(elect.leads());
                let mut follower = start("follower");
                elect.wait_until_it_follows(election, &mut follower, 2);
                (leader, follower)
            })
            .collect();
        let watch = Watch::start(&elect.etcd.endpoint(), "e");
        let mut killed = Vec::new();
        for (leader, _) in &pairs {
            let_pass(Duration::from_millis(130));
            killed.push(Instant::now());
            leader.signal(Signal::KILL);
        }
        let times = pairs.into_iter().zip(&elections).zip(killed);
        times
            .map(|(((_, follower), election), killed)| {
                let leads = wait_until("the follower leads", BOUND, || {
                    let lines = follower.lines();
                    let leads = lines.iter().find(|line| line.message() == elect.leads());
                    leads.map(|line| line.at)
                });
                let deleted = watch.wait_for_deletion(&format!("{election}/"), killed);
                (leads - killed, leads.saturating_duration_since(deleted))
            })
            .collect()
    }

    /// Measures what elections cost while nothing happens in them, all at the same time.
    pub fn measure_idle(&self) -> Vec<Section> {
        const TIME: Duration = Duration::from_mins(1);
        let ours = |kind, ttl| {
            let method = Ours::new(kind, &self.etcd).with_ttl(ttl);
            let etcd = method.etcd.endpoint();
            (Contest::start(Box::new(method), "e", COUNT), Some(etcd))
        };
        let peer = |kind| {
            let method = Etcdctl::new(kind, &self.etcd);
            let etcd = method.etcd.endpoint();
            (Contest::start(Box::new(method), "e", COUNT), Some(etcd))
        };
        let (lock_10, elect) = ("`etcdctl lock`, TTL 10 s", "`etcdctl elect`, TTL 60 s");
        let (ours_10, ours_60) = ("`leader-election`, TTL 10 s", "`leader-election`, TTL 60 s");
        let mut elections = vec![
            (ours_60, None, ours(Kind::Plain, "60s")),
            (elect, Some(ours_60), peer(peers::Kind::Elect)),
            (ours_10, None, ours(Kind::Plain, "10s")),
            (lock_10, Some(ours_10), peer(peers::Kind::Lock(10))),
            ("`leader-election`, TTL 2 s", None, ours(Kind::Plain, "2s")),
            (ours::CONNECTED, None, ours(Kind::Connected, "10s")),
            (ours::POLLING, None, ours(Kind::Polling, "10s")),
        ];
        if let Some(contest) = self.zookeeper() {
            elections.push((KAZOO, Some(ours_10), (contest, None)));
        }
        let [mut leaders, mut followers, mut messages, mut entries] = idle_sections();
        let_pass(Duration::from_secs(5));
        let times = if self.runs < 5 { 1 } else { 3 };
        for _ in 0..times {
            let begin = |(_, _, (contest, etcd)): &(_, _, (Contest, Option<String>))| {
                idle::Before::new(&contest.running, etcd.as_deref())
            };
            let before: Vec<_> = elections.iter().map(begin).collect();
            let_pass(TIME);
            for ((name, compared_with, (contest, etcd)), before) in elections.iter().zip(before) {
                let cost = before.cost(&contest.running, etcd.as_deref());
                leaders.add_compared(name, *compared_with, cost.leader);
                followers.add_compared(name, *compared_with, cost.follower);
                if let Some(work) = cost.hourly {
                    messages.add_compared(name, *compared_with, work.messages);
                    entries.add_compared(name, *compared_with, work.entries);
                }
            }
        }
        vec![leaders, followers, messages, entries]
    }
}

fn add_floor(section: &mut Section, floor: &mut Floor) {
    for _ in 0..FLOORS_IN_A_ROUND {
        let times = floor.measure();
        section.add("a write, until its response", milliseconds(times.write));
        section.add(
            "a write, until another client hears of it",
            milliseconds(times.watched),
        );
        section.add("a linearizable read", milliseconds(times.read));
    }
}

/// The rows of an address that follows the leader.
const OUR_ADDRESS: &str = "`leader-election --fail-over 1s -- examples/vip.sh`";

fn add_address(section: &mut Section, rival: Rival, took: Duration) {
    match rival {
        Rival::Ours => section.add(OUR_ADDRESS, milliseconds(took)),
        Rival::Keepalived => {
            section.add_compared(rival.name(), Some(OUR_ADDRESS), milliseconds(took));
        }
    }
}

/// Returns the name of a row with what a fail-over depends on.
fn with_time(name: &'static str) -> &'static str {
    match name {
        ours::PLAIN => "`leader-election`, TTL 2 s",
        ours::WRAPPER => "`leader-election -- COMMAND`, TTL 2 s",
        ELECT => "`etcdctl elect`, TTL 60 s",
        LOCK => "`etcdctl lock NAME COMMAND`, TTL 2 s",
        KAZOO => "ZooKeeper, kazoo's `Election`, timeout 4 s",
        other => other,
    }
}

pub const STARTS: &str = "From exec to leading";
pub const HAND_OVERS: &str = "Hand-over";
pub const MEMORY: &str = "Memory";
pub const FAIL_OVERS: &str = "Fail-over";
pub const ADDRESS_FAIL_OVERS: &str = "Fail-over of an address";

fn sections() -> [Section; 6] {
    [
        Section::new(
            STARTS,
            "ms",
            "From exec until the candidate prints that it leads, or until COMMAND prints its first line. There are no \
             other candidates.",
        ),
        Section::new(
            HAND_OVERS,
            "ms",
            "From SIGTERM of the leader until the next one of three candidates prints that it leads.",
        ),
        Section::new(
            "From the end of COMMAND to the next one",
            "ms",
            "From the request to COMMAND to exit, which it does at once, until the COMMAND of the next one of three \
             candidates prints its first line.",
        ),
        Section::new(
            "Hand-over of an address",
            "ms",
            "From SIGTERM of the program on the machine that has a virtual IP address until another machine has it. \
             The two machines are network namespaces on one link.",
        ),
        Section::new(
            MEMORY,
            "MiB",
            "The resident memory of a leader, soon after it has begun to lead (`VmRSS`), without that of COMMAND. Each \
             round has another process.",
        ),
        Section::new(
            "The floor",
            "ms",
            "What etcd itself takes, measured in the same rounds with two clients: no election by etcd can hand over \
             faster than a write reaches another client.",
        ),
    ]
}

fn fail_over_sections() -> [Section; 3] {
    [
        Section::new(
            FAIL_OVERS,
            "ms",
            "From SIGKILL of the leader, at a random moment, until the next one of three candidates prints that it \
             leads, or until its COMMAND prints its first line. SIGKILL of the daemon of a COMMAND leaves its guard, \
             which kills COMMAND and revokes the lease; the COMMAND of a killed `etcdctl lock` continues to run beside \
             the next one. With `--fail-over 1s`, the TTL is 10 s. The TTL of `etcdctl elect` is always 60 s, so its \
             leaders, of two candidates each, were killed at the same time after all rounds. The session timeout of \
             ZooKeeper is 4 s. *Connected*: the followers have a connection to the leader (`--http`, `--advertise`). \
             *Polling*: they ask etcd how long the leader's lease still lasts.",
        ),
        Section::new(
            "Fail-over, after the deletion of the leader's key",
            "ms",
            "The part of the above that follows the end of the lease: from when a client of etcd that watches the key \
             hears that it is deleted until the next one leads. With `--fail-over`, the next one does not wait for \
             that.",
        ),
        Section::new(
            ADDRESS_FAIL_OVERS,
            "ms",
            "From SIGKILL of all that the program has started on the machine that has a virtual IP address until \
             another machine has it. The two machines are network namespaces on one link.",
        ),
    ]
}

fn idle_sections() -> [Section; 4] {
    [
        Section::new(
            "Processor time of an idle leader",
            "% of a core",
            "Of three candidates in an election in which nothing happens, for a minute. All elections are measured at \
             the same time.",
        ),
        Section::new(
            "Processor time of an idle follower",
            "% of a core",
            "Measured in the same minutes.",
        ),
        Section::new(
            "Messages to etcd while idle",
            "per hour",
            "What etcd receives from three candidates, keepalives included (`grpc_server_msg_received_total`), counted \
             in the same minutes and extrapolated.",
        ),
        Section::new(
            "Raft entries while idle",
            "per hour",
            "What etcd writes for three candidates (`etcd_server_proposals_applied_total`), counted in the same \
             minutes and extrapolated.",
        ),
    ]
}
