//! What a seed decides before anything happens: who takes part, and what may go wrong.

use super::{MILLI, SECOND, Time, node::Actor, seats::Rights};
use crate::protocol::SeatNumber;
use fastrand::Rng;
use std::time::Duration;

macro_rules! kinds {
    ($($kind:ident $text:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $text] $kind,)* }

        impl Kind {
            /// Every kind, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Returns what a report calls it.
            pub fn text(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }
        }
    };
}

kinds! {
    // Of single messages.
    Lose "message lost",
    Late "message late, by up to 8 s",
    Repeat "answer delivered twice",
    LateWatch "watch event late, by up to 3 s",
    SlowWatch "watch slow to open, by up to 0.3 s",
    // Of the network.
    CutConnection "connection cut",
    DeadEndpoint "endpoint dead for one candidate",
    SilentEndpoint "endpoint silent for one candidate",
    SlowEndpoint "endpoint slow for one candidate",
    SluggishEndpoint "endpoint slow to connect to, then silent",
    LoseKeepAlives "keepalive answers alone lost",
    LoseTransactions "transaction answers alone lost",
    EndWatch "watch ended",
    SlowPassword "password checked late, by up to 10 s, or not in time",
    // Of etcd.
    CutMember "member cut off from its peers",
    FreezeMember "member frozen",
    StopMember "member stopped and started",
    MoveLeader "etcd's leader changed",
    Refuse "questions refused",
    Compact "compaction",
    BackUp "backup taken",
    Restore "backup restored",
    LoseData "all data lost",
    // Of processes and their machines.
    Pause "process paused or machine asleep",
    ClockRate "clock's rate changed",
    Crash "crash and restart",
    Linger "leader slow to stop acting",
    Untaken "leadership that nobody takes",
    Abandon "candidate dropped with its leadership",
    StandBack "candidate that cannot lead for a while",
    Suspect "leader suspected without a reason",
    ShortPause "process paused for about its limit",
    // Of people.
    Resign "leader stopped acting by itself",
    Withdraw "candidate withdrawn and restarted",
    DeleteLeader "leader deleted",
    OverwriteLeader "leader overwritten",
    DeleteActing "leader/acting deleted",
    OverwriteActing "leader/acting overwritten",
    RevokeLease "leader's lease revoked",
    DeleteBoth "leader and leader/acting deleted, one after the other",
    Forget "record of the done job removed",
    Choose "successor chosen",
    WriteNext "KEY/next written at random",
    TakeSeat "seat deleted, or overwritten under another lease",
    PutChallenge "challenge written by hand",
    DeleteChallenge "challenge deleted by hand",
}

/// Which faults go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// A few kinds out of all, others in each schedule.
    Swarm,
    /// Nothing fails: hand-overs are as quick as messages are.
    Calm,
    /// Members of etcd that lose touch, a former leader that still answers.
    Former,
    /// Messages that are late or lost, and pauses.
    Late,
    /// A candidate that never hears its keepalives' answers, or its transactions'.
    Deaf,
    /// Leaderships that nobody takes, and candidates that are dropped.
    Idle,
    /// Children, killed when their time is over, while leadership is lost again and again.
    Children,
    /// People who delete, overwrite and revoke.
    People,
    /// Backups restored.
    Histories,
    /// Members that take long to check passwords.
    Passwords,
    /// Leaders that are asked to step down and take their time, and keys that go together or nearly so.
    Handovers,
    /// One endpoint of each candidate, always the same, is dead or silent.
    Endpoint,
    /// Leaders that stop in order, and nothing fails but candidates.
    Transfers,
    /// Candidates of different priorities, some of which cannot lead for a while.
    Priorities,
    /// Leaders with a limit, suspected rightly and wrongly, while messages, clocks and people interfere.
    Rivals,
    /// Leaders with a limit, and nothing fails but processes.
    Quick,
    /// A job that runs once, and candidates that wait for a limited time.
    Jobs,
}

impl Mix {
    /// Every mix, in the order of their declaration.
    pub const ALL: &[Self] = &[
        Self::Swarm,
        Self::Calm,
        Self::Former,
        Self::Late,
        Self::Deaf,
        Self::Idle,
        Self::Children,
        Self::People,
        Self::Histories,
        Self::Passwords,
        Self::Handovers,
        Self::Endpoint,
        Self::Transfers,
        Self::Priorities,
        Self::Rivals,
        Self::Quick,
        Self::Jobs,
    ];

    /// Returns its name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    #[allow(clippy::too_many_lines, reason = "it is a table")]
    fn kinds(self, rng: &mut Rng) -> Vec<Kind> {
        use Kind as K;
        match self {
            Self::Swarm => {
                let keep = rng.u8(1..=8);
                let kept = |_: &&Kind| rng.u8(0..10) < keep;
                Kind::ALL.iter().filter(kept).copied().collect()
            }
            Self::Calm => vec![
                K::SlowWatch,
                K::EndWatch,
                K::CutConnection,
                K::MoveLeader,
                K::Resign,
                K::Withdraw,
                K::DeleteLeader,
                K::Crash,
                K::Compact,
            ],
            Self::Former => vec![
                K::CutMember,
                K::CutMember,
                K::FreezeMember,
                K::MoveLeader,
                K::Pause,
                K::SilentEndpoint,
            ],
            Self::Late => vec![
                K::Lose,
                K::Late,
                K::Repeat,
                K::LateWatch,
                K::Pause,
                K::SlowEndpoint,
                K::Resign,
                K::Choose,
                K::Crash,
            ],
            Self::Deaf => vec![
                K::LoseKeepAlives,
                K::LoseTransactions,
                K::Crash,
                K::Resign,
                K::CutConnection,
            ],
            Self::Idle => vec![
                K::Untaken,
                K::Abandon,
                K::Crash,
                K::Resign,
                K::CutConnection,
                K::SilentEndpoint,
                K::DeleteLeader,
            ],
            Self::Children => vec![
                K::Late,
                K::Lose,
                K::SilentEndpoint,
                K::SlowEndpoint,
                K::FreezeMember,
                K::Linger,
                K::Resign,
                K::DeleteLeader,
                K::Withdraw,
                K::ClockRate,
            ],
            Self::People => vec![
                K::DeleteLeader,
                K::OverwriteLeader,
                K::DeleteActing,
                K::OverwriteActing,
                K::RevokeLease,
                K::Choose,
                K::WriteNext,
                K::TakeSeat,
                K::Late,
                K::LateWatch,
                K::EndWatch,
                K::Linger,
                K::Compact,
            ],
            Self::Histories => vec![
                K::BackUp,
                K::Restore,
                K::LoseData,
                K::LateWatch,
                K::Resign,
                K::Crash,
                K::DeleteLeader,
                K::Compact,
                K::EndWatch,
            ],
            Self::Passwords => vec![
                K::SlowPassword,
                K::CutConnection,
                K::SilentEndpoint,
                K::Crash,
                K::Resign,
                K::StopMember,
            ],
            Self::Handovers => vec![
                K::DeleteLeader,
                K::DeleteLeader,
                K::DeleteBoth,
                K::RevokeLease,
                K::Linger,
                K::Crash,
                K::Resign,
                K::Withdraw,
                K::LateWatch,
                K::SlowWatch,
            ],
            Self::Endpoint => vec![
                K::DeadEndpoint,
                K::SilentEndpoint,
                K::SluggishEndpoint,
                K::SluggishEndpoint,
                K::CutConnection,
                K::Resign,
            ],
            Self::Transfers => vec![
                K::SlowWatch,
                K::Resign,
                K::Resign,
                K::Withdraw,
                K::DeleteLeader,
                K::Choose,
                K::Choose,
                K::WriteNext,
                K::Crash,
            ],
            Self::Priorities => vec![
                K::StandBack,
                K::StandBack,
                K::StandBack,
                K::SlowWatch,
                K::Resign,
                K::Withdraw,
                K::DeleteLeader,
                K::Choose,
                K::Crash,
            ],
            Self::Rivals => vec![
                K::Suspect,
                K::Suspect,
                K::Suspect,
                K::Suspect,
                K::Suspect,
                K::Suspect,
                K::PutChallenge,
                K::DeleteChallenge,
                K::ShortPause,
                K::ShortPause,
                K::Pause,
                K::Crash,
                K::Crash,
                K::Lose,
                K::Late,
                K::Repeat,
                K::LateWatch,
                K::SlowEndpoint,
                K::LoseTransactions,
                K::ClockRate,
                K::Linger,
                K::Resign,
                K::DeleteLeader,
                K::OverwriteLeader,
                K::Choose,
                K::StandBack,
            ],
            Self::Quick => vec![
                K::Suspect,
                K::Suspect,
                K::Suspect,
                K::SlowWatch,
                K::Crash,
                K::Crash,
                K::Crash,
                K::Resign,
                K::Withdraw,
                K::DeleteLeader,
                K::Choose,
                K::Linger,
            ],
            Self::Jobs => vec![
                K::Lose,
                K::Late,
                K::Repeat,
                K::CutConnection,
                K::SilentEndpoint,
                K::LoseTransactions,
                K::MoveLeader,
                K::Refuse,
                K::Pause,
                K::Crash,
                K::Linger,
                K::Withdraw,
                K::Abandon,
                K::DeleteLeader,
                K::RevokeLease,
                K::Forget,
                K::Forget,
            ],
        }
    }
}

/// What a schedule is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mix: Mix,
    pub nodes: usize,
    pub members: usize,
    pub actor: Actor,
    /// What is asked for, in seconds.
    pub ttl: u64,
    /// The least that etcd grants.
    pub min_ttl: Time,
    pub stop_timeout: Time,
    /// Whether what acts is a job that runs once.
    pub runs_once: bool,
    /// Whether some processes have a fail-over limit.
    pub limits: bool,
    /// Whether followers are connected to the leader, so that they notice when it crashes.
    pub connects: bool,
    /// How many seats are taken by candidates that do nothing else.
    pub crowd: usize,
    /// How long a message takes at most when nothing is wrong.
    pub latency: Time,
    pub kinds: Vec<Kind>,
    /// The mean time between two faults.
    pub gap: Time,
    /// Of a thousand messages each.
    pub lost: u32,
    pub late: u32,
    pub repeated: u32,
    pub latest: Time,
    /// When the faults stop.
    pub quiet: Time,
}

impl Plan {
    pub fn new(rng: &mut Rng, mix: Option<Mix>) -> Self {
        let mix = mix.unwrap_or_else(|| match rng.usize(0..20) {
            place if place < Mix::ALL.len() => Mix::ALL[place],
            _ => Mix::Swarm,
        });
        let kinds = mix.kinds(rng);
        let calm = mix == Mix::Calm;
        let ttl = if calm || mix == Mix::Quick {
            [10, 30][rng.usize(0..2)]
        } else {
            [2, 2, 2, 3, 3, 5, 5, 5, 5, 5, 10, 10, 10, 30, 30, 120][rng.usize(0..16)]
        };
        let raised = !calm && mix != Mix::Quick && rng.u8(0..16) == 0;
        let granted = if raised { ttl.max(8) } else { ttl } * SECOND;
        let has = |kind| kinds.contains(&kind);
        let mut some = |kind| if has(kind) { rng.u32(1..80) } else { 0 };
        let (lost, late, repeated) = (some(Kind::Lose), some(Kind::Late), some(Kind::Repeat));
        let healthy = matches!(
            mix,
            Mix::Calm
                | Mix::Handovers
                | Mix::Endpoint
                | Mix::Transfers
                | Mix::Priorities
                | Mix::Rivals
                | Mix::Quick
        );
        let longest = if healthy { 3 } else { 4 };
        let latency = [MILLI / 5, MILLI, 5 * MILLI, granted / 60][rng.usize(0..longest)];
        let child = match mix {
            Mix::Children => true,
            Mix::Swarm | Mix::Endpoint | Mix::Jobs | Mix::Rivals => rng.u8(0..3) == 0,
            _ => false,
        };
        Self {
            mix,
            nodes: rng.usize(if calm { 3..=4 } else { 2..=4 }),
            members: if matches!(mix, Mix::Former | Mix::Endpoint) || rng.bool() {
                3
            } else {
                1
            },
            actor: if child { Actor::Child } else { Actor::Asks },
            ttl,
            min_ttl: if raised { 8 * SECOND } else { 2 * SECOND },
            stop_timeout: granted * [1, 2, 4][rng.usize(0..3)] / 2,
            runs_once: match mix {
                Mix::Jobs => rng.u8(0..4) > 0,
                Mix::Swarm => rng.u8(0..4) == 0,
                _ => false,
            },
            limits: match mix {
                Mix::Rivals | Mix::Quick => true,
                Mix::Swarm => rng.u8(0..3) == 0,
                _ => false,
            },
            connects: mix == Mix::Quick && rng.bool(),
            crowd: match rng.u8(0..if calm { 4 } else { 16 }) {
                0 => SeatNumber::COUNT - rng.usize(0..=2),
                _ => 0,
            },
            latency,
            gap: granted * [1, 2, 4, 12][rng.usize(0..4)] / 4,
            lost,
            late,
            repeated,
            latest: rng.u64(MILLI..8 * SECOND),
            quiet: granted * rng.u64(4..10),
            kinds,
        }
    }

    /// What the role of a process permits, or of which version it is; the first one has all rights.
    pub fn rights(&self, rng: &mut Rng, node: usize) -> Rights {
        if node == 0 || self.mix == Mix::Quick {
            return Rights::All;
        }
        match rng.u8(0..8) {
            0 => Rights::TwoKeys,
            1 => Rights::Previous,
            _ => Rights::All,
        }
    }

    /// How long a process waits to lead, if that is limited; the first one waits as long as it takes.
    pub fn wait(&self, rng: &mut Rng, node: usize) -> Option<Duration> {
        if self.mix != Mix::Jobs || node == 0 {
            return None;
        }
        let wait = match rng.u8(0..4) {
            0 => return None,
            1 => 0,
            _ => rng.u64(0..3 * self.ttl * SECOND),
        };
        Some(Duration::from_nanos(wait))
    }
}
