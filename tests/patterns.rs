//! The examples of programs for the wrapper: a virtual IP address, and a warm standby.

use rustix::process::{Pid, Signal, kill_process};
use std::process::Command;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, LEADER, Line, json};
use support::etcd::Etcd;
use support::lan::{Change, Lan, MACHINES};
use support::operator::{at, run};
use support::process::Process;
use support::standbys::Standbys;
use support::{example, let_pass, poll_until};

/// The address that follows the leader.
const ADDRESS: &str = "192.0.2.100/24";
/// How long the kernel keeps it after it was renewed the last time: its lifetime, and a second for a
/// busy machine.
const REMAINS: Duration = Duration::from_secs(3 + 1);

/// Returns the process of COMMAND, of the last time it was started.
fn command_of(replica: &Daemon) -> Pid {
    let lines = replica.lines();
    let mut said = lines.iter().rev().map(Line::message);
    let running = said.find(|said| said.starts_with("Running ")).unwrap();
    let (_, process) = running.trim_end_matches('.').rsplit_once(' ').unwrap();
    Pid::from_raw(process.parse().unwrap()).unwrap()
}

/// Starts the replica on a machine.
fn vip_on(lan: &Lan, machine: usize, etcd: &Etcd) -> Daemon {
    let name = format!("machine{machine}");
    let mut command = json(&name, &etcd.endpoint());
    let vip = lan.on(machine, &[&example("vip.sh"), ADDRESS, "eth0"]);
    command.arg("--").args(vip);
    Daemon::spawn(&name, command)
}

/// Starts the script without a replica.
fn vip_alone(lan: &Lan, machine: usize, interface: &str) -> Process {
    let vip = lan.command(machine, &[&example("vip.sh"), ADDRESS, interface]);
    Process::spawn("vip.sh", vip)
}

/// Returns the machines that have the address now.
fn holders(lan: &Lan) -> Vec<usize> {
    let shown = |machine| {
        lan.run(
            machine,
            &["ip", "-o", "address", "show", "to", "192.0.2.100"],
        )
    };
    (1..=MACHINES)
        .filter(|machine| !shown(*machine).is_empty())
        .collect()
}

/// Waits until a machine but `old` has the address; returns it.
fn wait_for_next_holder(lan: &Lan, skipped: usize, old: usize) -> usize {
    lan.wait_for_change(ADDRESS, skipped, |change| {
        change.has_it && change.machine != old
    })
    .machine
}

/// Checks that no two machines had the address at once in any of these changes.
fn assert_one_at_a_time(lan: &Lan, skipped: usize) {
    let changes = lan.changes(ADDRESS);
    let mut holder = None;
    for change in &changes[skipped..] {
        assert!(
            holder.is_none_or(|holder| holder == change.machine),
            "{changes:#?}"
        );
        holder = change.has_it.then_some(change.machine);
    }
}

/// What the others on the link take for the machine that has the address, from what was announced.
fn machine_known_to_others(lan: &Lan) -> Option<usize> {
    let known = lan.run(0, &["ip", "neighbour", "show", "192.0.2.100"]);
    let (_, rest) = known.split_once("lladdr 02:00:00:00:00:0")?;
    rest[..1].parse().ok()
}

#[test]
fn the_address_is_with_the_leader_alone_and_moves_when_its_term_ends() {
    let (etcd, lan) = (Etcd::newest(), Lan::new());
    let mut replicas: Vec<_> = (1..=MACHINES)
        .map(|machine| vip_on(&lan, machine, &etcd))
        .collect();
    let first = wait_for_next_holder(&lan, 0, 0);
    replicas[first - 1].wait_for_any(LEADER);
    assert_eq!(holders(&lan), [first]);
    // Something on the link uses it.
    lan.run(0, &["bash", "-c", "echo >/dev/udp/192.0.2.100/9"]);
    poll_until("the others know who has it", || {
        (machine_known_to_others(&lan) == Some(first)).then_some(())
    });

    // It is asked to stop.
    replicas[first - 1].signal(Signal::TERM);
    assert_eq!(replicas[first - 1].wait_exit().code(), Some(0));
    let second = wait_for_next_holder(&lan, 0, first);
    assert_eq!(holders(&lan), [second]);
    poll_until("the others know who has it", || {
        (machine_known_to_others(&lan) == Some(second)).then_some(())
    });

    // It is asked to step down, and lets another one go first.
    replicas[first - 1] = vip_on(&lan, first, &etcd);
    let before = lan.changes(ADDRESS).len();
    let stepped = run(at(&etcd.endpoint(), &["step-down"]));
    assert_eq!(stepped.code, 0, "{:?}", stepped.err);
    let third = wait_for_next_holder(&lan, before, second);
    assert_eq!(holders(&lan), [third]);
    assert_one_at_a_time(&lan, 0);

    // Its daemon is killed, and with it the script, which cannot remove the address.
    let before = lan.changes(ADDRESS).len();
    let killed = replicas[third - 1].crash();
    let fourth = wait_for_next_holder(&lan, before, third);
    assert_is_removed(&lan, before, third, killed);
    assert_eq!(holders(&lan), [fourth]);
    poll_until("the others know who has it", || {
        (machine_known_to_others(&lan) == Some(fourth)).then_some(())
    });

    // The script itself is killed.
    replicas[third - 1] = vip_on(&lan, third, &etcd);
    let before = lan.changes(ADDRESS).len();
    let killed = Instant::now();
    kill_process(command_of(&replicas[fourth - 1]), Signal::KILL).unwrap();
    assert_eq!(replicas[fourth - 1].wait_exit().code(), Some(128 + 9));
    let fifth = wait_for_next_holder(&lan, before, fourth);
    assert_is_removed(&lan, before, fourth, killed);
    assert_eq!(holders(&lan), [fifth]);
}

/// Waits until a machine has the address no more; checks that this is in time, and returns how long it
/// took.
fn assert_is_removed(lan: &Lan, skipped: usize, machine: usize, since: Instant) -> Duration {
    let is_it = |change: &Change| !change.has_it && change.machine == machine;
    let removed = lan.wait_for_change(ADDRESS, skipped, is_it);
    let took = removed.at.saturating_duration_since(since);
    println!("seen: the address remains for {took:?}");
    assert!(took < REMAINS, "{took:?}");
    took
}

#[test]
fn the_address_is_renewed_while_the_script_runs_and_goes_with_it() {
    let lan = Lan::new();
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::KILL,
    ] {
        // One that is there already, and would stay for ever.
        lan.run(1, &["ip", "address", "replace", ADDRESS, "dev", "eth0"]);
        let before = lan.changes(ADDRESS).len();
        let mut vip = vip_alone(&lan, 1, "eth0");
        vip.wait_for_next("vip.sh: 192.0.2.100/24 is on eth0");
        if signal == Signal::KILL {
            let_pass(2 * REMAINS);
            let changes = lan.changes(ADDRESS);
            assert!(
                changes[before..].iter().all(|change| change.has_it),
                "{changes:#?}"
            );
        }
        let asked = Instant::now();
        vip.signal(signal);
        let code = vip.wait_exit().code();
        let removed = assert_is_removed(&lan, before, 1, asked);
        assert_eq!(holders(&lan), [0; 0]);
        if signal != Signal::KILL {
            assert_eq!(code, Some(0));
            // A trap that waits for `sleep` takes up to a second.
            assert!(removed < Duration::from_millis(900), "{removed:?}");
        }
    }
}

#[test]
fn a_machine_that_cannot_have_the_address_gives_up() {
    let lan = Lan::new();
    let mut vip = vip_alone(&lan, 1, "eth9");
    assert_eq!(vip.wait_exit().code(), Some(1));
    vip.wait_for_any_start("vip.sh: could not add 192.0.2.100/24 to eth9");

    let mut vip = vip_alone(&lan, 1, "eth0");
    vip.wait_for_next("vip.sh: 192.0.2.100/24 is on eth0");
    lan.run(1, &["ip", "link", "delete", "eth0"]);
    assert_eq!(vip.wait_exit().code(), Some(1));
    vip.wait_for_any_start("vip.sh: could not add 192.0.2.100/24 to eth0");

    let mut wrong = Command::new(example("vip.sh"));
    wrong.args(["192.0.2.100", "eth0"]);
    assert_eq!(run(wrong).code, 2);
}

#[test]
fn one_program_is_active_at_a_time_and_the_next_one_is_when_the_leader_changes() {
    let mut machines = Standbys::new();
    let (first, token) = machines.wait_for_next(0);

    // The replica is asked to stop while the program is slow to notice that.
    machines.programs[first].signal(Signal::STOP);
    machines.replicas[first].signal(Signal::TERM);
    let_pass(Duration::from_secs(1));
    assert!(!machines.replicas[first].has_ended());
    machines.programs[first].signal(Signal::CONT);
    assert_eq!(machines.replicas[first].wait_exit().code(), Some(0));
    let (second, token) = machines.wait_for_next(token);
    assert_ne!(second, first);

    // It is asked to step down, and lets another one go first.
    machines.replicas[first] = machines.replica(first);
    let stepped = run(at(&machines.etcd.endpoint(), &["step-down"]));
    assert_eq!(stepped.code, 0, "{:?}", stepped.err);
    let (third, token) = machines.wait_for_next(token);
    assert_ne!(third, second);
    machines.assert_one_at_a_time(0);

    // The daemon is killed, and with it what promotes the program.
    let before = machines.said().len();
    machines.replicas[third].crash();
    let (fourth, token) = machines.wait_for_next(token);
    assert_ne!(fourth, third);
    machines.assert_ends_with_its_term(before);

    // What promotes the program is killed.
    machines.replicas[third] = machines.replica(third);
    let before = machines.said().len();
    kill_process(command_of(&machines.replicas[fourth]), Signal::KILL).unwrap();
    assert_eq!(machines.replicas[fourth].wait_exit().code(), Some(128 + 9));
    let (fifth, token) = machines.wait_for_next(token);
    assert_ne!(fifth, fourth);
    machines.assert_ends_with_its_term(before);

    // The program is killed.
    machines.replicas[fourth] = machines.replica(fourth);
    machines.programs[fifth].crash();
    assert_eq!(machines.replicas[fifth].wait_exit().code(), Some(1));
    machines.replicas[fifth].wait_for_any_start("warm-standby.sh: the program has ended");
    let (sixth, token) = machines.wait_for_next(token);
    assert_ne!(sixth, fifth);

    // It is there again, and takes its turn.
    machines.programs[fifth] = machines.program(fifth);
    machines.replicas[fifth] = machines.replica(fifth);
    for machine in (0..3).filter(|machine| *machine != fifth) {
        machines.replicas[machine].signal(Signal::TERM);
        assert_eq!(machines.replicas[machine].wait_exit().code(), Some(0));
    }
    assert_eq!(machines.wait_for_next(token).0, fifth);
}

#[test]
fn a_replica_without_its_program_gives_up() {
    let machines = Standbys::new();
    let (leader, _) = machines.wait_for_next(0);
    let folder = machines.file(&leader.to_string());
    let script = |mode: &str, folder: &str| {
        let mut command = Command::new(example("warm-standby.sh"));
        command
            .args([mode, folder])
            .env("LEADER_ELECTION_TOKEN", "7");
        run(command)
    };
    let second = script("serve", &folder);
    assert_eq!(second.code, 1);
    assert!(
        second.err[0].contains("another program uses"),
        "{:?}",
        second.err
    );
    let alone = script("lead", &machines.file("alone"));
    assert_eq!(alone.code, 1);
    assert!(
        alone.err[0].contains("no program has become active"),
        "{:?}",
        alone.err
    );
    assert_eq!(script("follow", &folder).code, 2);
}
