//! One fail-over, message by message.

use crate::{
    contest::Contest,
    ours::{Kind, Ours},
    watch::{Change, Watch},
};
use rustix::process::Signal;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use support::{let_pass, process::Process};

/// Something that happened.
pub struct Entry {
    /// After the crash.
    pub milliseconds: f64,
    /// Which of [`LANES`].
    pub lane: usize,
    pub text: String,
}

pub const LANES: [&str; 4] = [
    "the leader",
    "etcd",
    "the next leader",
    "the other follower",
];

const LEADER: usize = 0;
const ETCD: usize = 1;
const ELECTION: &str = "leader";
/// What happens so long before the crash and after the fail-over is shown.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_millis(100);

/// Kills a leader with a fail-over limit of a second, to which its followers are connected.
pub fn record(binary: &Path) -> Vec<Entry> {
    let ours = Ours::new(Kind::Connected, binary).with_debug_lines();
    let etcd = ours.etcd.endpoint();
    let mut contest = Contest::start(Box::new(ours), ELECTION, 3);
    contest.settle();
    let watch = Watch::start(&etcd, ELECTION);
    // The watch begins before what is shown does.
    let_pass(2 * BEFORE);
    let mut leader = contest.take_leader();
    let killed = Instant::now();
    leader.signal(Signal::KILL);
    let leads = contest.next();
    let_pass(2 * AFTER);
    leader.wait_exit();
    let is_shown = |at: Instant| at + BEFORE > killed && at < leads + AFTER;
    let time = |at: Instant| match at.checked_duration_since(killed) {
        Some(after) => after.as_secs_f64() * 1e3,
        None => -(killed - at).as_secs_f64() * 1e3,
    };
    let mut entries = vec![Entry {
        milliseconds: 0.0,
        lane: LEADER,
        text: "is killed with SIGKILL".to_owned(),
    }];
    let processes: [(usize, &Process); 3] = [
        (LEADER, &leader),
        (ETCD + 1, &contest.running[0]),
        (ETCD + 2, &contest.running[1]),
    ];
    for (lane, process) in processes {
        let lines = process.lines().into_iter().filter(|line| is_shown(line.at));
        entries.extend(lines.map(|line| Entry {
            milliseconds: time(line.at),
            lane,
            text: line.message(),
        }));
    }
    let changes = watch.changes().into_iter().filter(|it| is_shown(it.at));
    entries.extend(changes.map(|change| Entry {
        milliseconds: time(change.at),
        lane: ETCD,
        text: text_of(&change),
    }));
    entries.sort_by(|one, other| one.milliseconds.total_cmp(&other.milliseconds));
    entries
}

fn text_of(change: &Change) -> String {
    let Change { key, value, .. } = change;
    match value {
        Some(value) => format!("{key} = {value}"),
        None => format!("{key} is deleted"),
    }
}
