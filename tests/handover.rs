//! What happens when a leader hands its term to a known successor.

use rustix::process::Signal;
use std::fs;
use std::time::Duration;
use support::checker::terms;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, STILL_ACTS, json, plain};
use support::etcd::{Etcd, on_each_etcd};
use support::operator::at;
use support::process::Process;
use support::seated::{CHANGE, HANDED_OVER, Seat, roles_after, successor, wait_for_seats};
use support::{let_pass, poll_until};

/// How a term is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Sigterm,
    StepDown,
    Deletion,
}

impl End {
    const ALL: [Self; 3] = [Self::Sigterm, Self::StepDown, Self::Deletion];

    /// Ends the term of a leader. Returns the command that does so, if it waits for the next leader.
    fn of(self, etcd: &Etcd, leader: &Daemon) -> Option<Process> {
        match self {
            Self::Sigterm => leader.signal(Signal::TERM),
            Self::StepDown => {
                let step_down = at(&etcd.endpoint(), &["step-down"]);
                return Some(Process::spawn("step-down", step_down));
            }
            Self::Deletion => {
                etcd.etcdctl(&["del", "leader"]);
            }
        }
        None
    }
}

/// Checks what etcd holds of a successor that leads: both keys, written by one revision, and its seat, and
/// nothing of the leader before it. Returns the token.
fn check_keys(etcd: &Etcd, next: &Seat, old: &Seat) -> u64 {
    let acts = poll_until("the successor says in its seat that it leads", || {
        let seats = etcd.seats();
        seats
            .into_iter()
            .find(|seat| seat.lease == next.lease)?
            .acts
    });
    let [leader, acting] = ["leader", "leader/acting"].map(|key| etcd.key(key).unwrap());
    assert_eq!(leader.value, next.name.as_bytes());
    for key in [&leader, &acting] {
        assert_eq!(key.mod_revision, acts, "one revision changes both keys");
        assert_eq!(key.lease.as_deref(), Some(&*next.lease));
    }
    assert_eq!(etcd.key("leader/next"), None);
    poll_until("nothing is left of the old lease", || {
        let is_gone = !etcd.leases().contains(&old.lease);
        is_gone.then_some(())
    });
    assert!(etcd.seats().iter().all(|seat| seat.lease != old.lease));
    acts
}

/// Ends a term in this way, and checks that the candidate that has held its seat for longest leads next
/// without an election.
fn hand_over_at(end: End) {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let (leader, old) = wait_for_seats(&etcd, &mut replicas, 3);
        let next = successor(&etcd, &old.name);
        let before: Vec<_> = replicas.iter().map(|one| one.lines().len()).collect();
        let index = replicas.iter().position(|one| one.name == next.name);
        let new = index.expect("a candidate");
        let third = 3 - leader - new;

        let step_down = end.of(&etcd, &replicas[leader]);
        replicas[new].wait_for_next(LEADER);
        replicas[third].wait_for_next(FOLLOWER);
        let handed_over = format!("{HANDED_OVER}{}'.", next.name);
        replicas[leader].wait_for_any(&handed_over);
        if end == End::Sigterm {
            assert_eq!(replicas[leader].wait_exit().code(), Some(0));
            assert_eq!(replicas[leader].messages().last(), Some(&handed_over));
        } else {
            let lost = replicas[leader].wait_for_next_start(LOST).message();
            assert!(lost.ends_with("the key 'leader' was deleted."), "{lost}");
        }
        let token = check_keys(&etcd, &next, &old);
        if end != End::Sigterm {
            // It takes part again, in a seat of its new lease.
            replicas[leader].wait_for_next(FOLLOWER);
            poll_until("it has a seat again", || {
                let mut seats = etcd.seats().into_iter();
                seats.find(|seat| seat.name == old.name && seat.lease != old.lease)
            });
        }
        if let Some(mut step_down) = step_down {
            assert_eq!(step_down.wait_exit().code(), Some(0));
            let expected = format!("'{}' leads, token {token}, ", next.name);
            let said = step_down.texts();
            assert!(said[1].starts_with(&expected), "{said:?}");
        }
        replicas[new].wait_for_next_refreshes(3);
        let said = |one: usize| {
            let mut said = roles_after(&replicas[one], before[one]);
            // Somebody else deleted `leader`, so that a replica may see that before the hand-over.
            said.retain(|message| end == End::Sigterm || message != STILL_ACTS);
            said
        };
        assert_eq!(said(new), [CHANGE, LEADER]);
        assert_eq!(said(third), [CHANGE, FOLLOWER]);
        let line = replicas[new].last(LEADER);
        assert_eq!(line.field("token"), Some(token.to_string()));
        let all = terms(&replicas.iter().collect::<Vec<_>>());
        assert_eq!(all.len(), 2, "{all:#?}");
    });
}

#[test]
fn a_leader_that_gets_sigterm_hands_over_to_the_longest_seated_candidate_without_an_election() {
    hand_over_at(End::Sigterm);
}

#[test]
fn a_leader_that_is_asked_to_step_down_hands_over_and_takes_part_again() {
    hand_over_at(End::StepDown);
}

#[test]
fn a_leader_whose_key_is_deleted_hands_over_and_takes_part_again() {
    hand_over_at(End::Deletion);
}

#[test]
fn nothing_is_handed_over_before_command_has_stopped() {
    for end in End::ALL {
        println!("{end:?}");
        let etcd = Etcd::newest();
        let release = etcd.file("release");
        let script = "trap 'echo stops; while [ ! -e \"$0\" ]; do sleep 0.02; done; echo stopped; \
                      exit' TERM; echo runs; while :; do sleep 0.02; done";
        let start = |name: &str| {
            let mut command = plain(name, &etcd.endpoint());
            command.args(["--", "sh", "-c", script, &release]);
            Daemon::spawn(name, command)
        };
        let mut replicas = ["server1", "server2", "server3"].map(start);
        let (leader, old) = wait_for_seats(&etcd, &mut replicas, 3);
        replicas[leader].wait_for_any("runs");
        let next = successor(&etcd, &old.name);
        let acting = etcd.key("leader/acting");
        let step_down = end.of(&etcd, &replicas[leader]);
        replicas[leader].wait_for_any("stops");
        let_pass(Duration::from_secs(1));
        assert_eq!(etcd.key("leader/acting"), acting);
        assert!(!replicas[leader].has_said("stopped"));
        fs::write(&release, "").unwrap();
        let new = replicas.iter_mut().find(|one| one.name == next.name);
        new.unwrap().wait_for_next("runs");
        check_keys(&etcd, &next, &old);
        replicas[leader].wait_for_any("stopped");
        let handed_over = format!("{HANDED_OVER}{}'.", next.name);
        replicas[leader].wait_for_any(&handed_over);
        for other in replicas.iter().filter(|one| one.name != next.name) {
            let runs = usize::from(other.name == old.name);
            assert_eq!(other.count("runs"), runs, "{}", other.name);
        }
        if let Some(mut step_down) = step_down {
            assert_eq!(step_down.wait_exit().code(), Some(0));
        }
    }
}

/// How many raft entries a hand-over may cost at most, from the request until the successor has written
/// that it leads: the commit, that line in the seat, the revocation of the old lease, and two for records
/// of the two terms.
const MOST_ENTRIES: u64 = 5;

#[test]
fn a_hand_over_costs_etcd_as_little_among_twenty_candidates_as_among_three() {
    for (candidates, seats) in [(3, 3), (20, 16)] {
        let etcd = Etcd::newest();
        let mut leader = Daemon::spawn("first", json("first", &etcd.endpoint()));
        let (_, old) = wait_for_seats(&etcd, std::slice::from_mut(&mut leader), 1);
        let mut followers = Daemon::candidates(&etcd, candidates - 1);
        for follower in &mut followers {
            follower.wait_for_next(FOLLOWER);
        }
        poll_until("all seats are taken that can be", || {
            (etcd.seats().len() == seats).then_some(())
        });
        leader.skip();
        leader.wait_for_next_refreshes(2);
        let next = successor(&etcd, &old.name);
        let before = etcd.raft_index();
        leader.signal(Signal::TERM);
        check_keys(&etcd, &next, &old);
        let entries = etcd.raft_index() - before;
        println!("seen: {entries} raft entries with {candidates} candidates");
        // Two of those without a seat may have seen at the same time that one is free.
        let most = MOST_ENTRIES + u64::from(candidates > seats);
        assert!(entries <= most, "{entries} with {candidates} candidates");
    }
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        wait_for_seats(&etcd, &mut replicas, 3);
        let before = (etcd.revision(), etcd.raft_index());
        let_pass(Duration::from_secs(3));
        assert_eq!((etcd.revision(), etcd.raft_index()), before);
    });
}
