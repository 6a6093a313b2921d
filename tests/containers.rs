//! What the election does when containers are paused, or lose their network, their address or
//! etcd's name.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};
use support::checker::{stall, terms, within_bound};
use support::compose::{Compose, binaries, docker, inspect, poll_docker};
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, wait_for_next_roles, wait_for_settled};
use support::{FAIL_OVER, TTL, let_pass, lock, project, unique_name};

/// Returns the image, which is built once and removed after the last test that uses it.
fn image() -> Arc<Compose> {
    static IMAGE: Mutex<Weak<Compose>> = Mutex::new(Weak::new());
    let mut image = lock(&IMAGE);
    image.upgrade().unwrap_or_else(|| {
        let built = Arc::new(Compose::new(&binaries().pop().unwrap()));
        *image = Arc::downgrade(&built);
        built
    })
}

/// A container or network that is removed at the end, also after a failure.
struct Thing {
    name: String,
    remove: &'static [&'static str],
}

impl Drop for Thing {
    fn drop(&mut self) {
        // After a failed test, a second panic would hide what the first one says.
        let mut command = Command::new("docker");
        command.args(self.remove).arg(&self.name);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A network with an etcd and replicas, all in containers of their own.
struct Site {
    // Dropped in this order: a network that is in use cannot be removed.
    replicas: Vec<Daemon>,
    containers: Vec<Thing>,
    network: Thing,
    image: Arc<Compose>,
}

/// The name by which the replicas know their etcd.
const ETCD: &str = "etcd_server";

impl Site {
    fn new() -> Self {
        let image = image();
        let network = Thing {
            name: unique_name("leader_election_faults"),
            remove: &["network", "rm"],
        };
        docker(&["network", "create", &network.name]);
        let mut site = Self {
            replicas: Vec::new(),
            containers: Vec::new(),
            network,
            image,
        };
        site.start_etcd();
        site
    }

    /// Returns the name of a new container, which is removed with the site.
    fn name_container(&mut self, role: &str) -> String {
        let name = format!("{}_{role}", self.network.name);
        self.containers.push(Thing {
            name: name.clone(),
            remove: &["rm", "--force"],
        });
        name
    }

    fn start_etcd(&mut self) {
        let name = self.name_container(ETCD);
        // The image of the demo's etcd.
        let file = fs::read_to_string(project("docker-compose-etcd.yaml")).unwrap();
        let image = file
            .lines()
            .find_map(|line| line.trim().strip_prefix("image: "));
        let network = &self.network.name;
        let run = ["run", "--detach", "--name", &name, "--network", network];
        let etcd = [
            "--network-alias",
            ETCD,
            image.unwrap(),
            "etcd",
            "--listen-client-urls=http://0.0.0.0:2378",
            "--advertise-client-urls=http://etcd_server:2378",
        ];
        docker(&[&run[..], &etcd].concat());
    }

    fn start_replica(&mut self, name: &str) {
        let container = self.name_container(name);
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--name", &container]);
        command.args(["--network", &self.network.name, self.image.image()]);
        command.args(["--name", name, "--etcd", &format!("{ETCD}:2378")]);
        command.args(["--ttl", "2s", "--log-format", "json"]);
        self.replicas.push(Daemon::spawn(name, command));
    }

    /// Starts two replicas; returns the index of the one that leads.
    fn elect(&mut self) -> usize {
        for name in ["server1", "server2"] {
            self.start_replica(name);
        }
        let leader = wait_for_next_roles(&mut self.replicas);
        self.replicas[leader].wait_for_next_refreshes(1);
        leader
    }

    /// Stops a container, as `docker stop` does, and waits until the replica has ended.
    fn stop(&mut self, number: usize) {
        docker(&["stop", &self.container_of(&self.replicas[number].name)]);
        assert_eq!(self.replicas[number].wait_exit().code(), Some(0));
    }

    /// Waits until this many candidates have a seat.
    fn wait_for_seats(&self, count: usize) {
        let etcd = self.container_of(ETCD);
        let list = ["etcdctl", "--endpoints=http://127.0.0.1:2378", "get"];
        let seats = ["--prefix", "leader/candidates/", "--keys-only"];
        let list = [&["exec", &etcd], &list[..], &seats].concat();
        poll_docker("all have a seat", || {
            let keys = docker(&list);
            let seats = keys.iter().filter(|key| !key.is_empty());
            (seats.count() == count).then_some(())
        });
    }

    fn container_of(&self, role: &str) -> String {
        format!("{}_{role}", self.network.name)
    }

    fn address_of(&self, container: &str) -> String {
        let network = &self.network.name;
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        inspect(container, &format)
    }

    /// Starts a third replica, which gets the address that another container has left.
    fn take_address(&mut self) {
        self.start_replica("server3");
        self.replicas.last_mut().unwrap().wait_for_next(FOLLOWER);
    }

    fn all(&self) -> Vec<&Daemon> {
        self.replicas.iter().collect()
    }
}

#[test]
fn a_paused_leader_says_before_anything_else_that_it_leads_no_more() {
    let mut site = Site::new();
    let old = site.elect();
    let container = site.container_of(&site.replicas[old].name);
    let paused = SystemTime::now();
    docker(&["pause", &container]);
    site.replicas[1 - old].wait_for_next(LEADER);
    let_pass((TTL * 3).saturating_sub(paused.elapsed().unwrap()));
    site.replicas[old].skip();
    docker(&["unpause", &container]);
    site.replicas[old].wait_for_next_line("its first line after the pause", |line| {
        let message = line.message();
        assert!(message.starts_with(LOST), "{message}");
        true
    });
    site.replicas[old].wait_for_next(FOLLOWER);
    let new = wait_for_settled(&mut site.replicas);
    assert_eq!(new, 1 - old);
    let all = terms(&site.all());
    assert_eq!(all.len(), 2);
    within_bound(
        "leader's container paused",
        stall(&all, paused),
        FAIL_OVER,
        TTL,
    );
}

#[test]
fn a_leader_without_network_stops_and_comes_back_with_another_address() {
    let mut site = Site::new();
    let old = site.elect();
    let container = site.container_of(&site.replicas[old].name);
    let address = site.address_of(&container);
    let cut = SystemTime::now();
    docker(&["network", "disconnect", &site.network.name, &container]);
    site.replicas[old].wait_for_next_start(LOST);
    site.replicas[1 - old].wait_for_next(LEADER);
    site.take_address();
    docker(&["network", "connect", &site.network.name, &container]);
    assert_ne!(site.address_of(&container), address);
    site.replicas[old].wait_for_next(FOLLOWER);
    let new = wait_for_settled(&mut site.replicas);
    let all = terms(&site.all());
    assert_eq!(all.len(), 2);
    within_bound("leader's network gone", stall(&all, cut), FAIL_OVER, TTL);

    // It is as good as before, and leads once the others are gone.
    for (number, replica) in site.replicas.iter().enumerate() {
        if number != old {
            docker(&["kill", &site.container_of(&replica.name)]);
        }
    }
    let killed = SystemTime::now();
    for (number, replica) in site.replicas.iter_mut().enumerate() {
        if number != old {
            replica.wait_exit();
        }
    }
    site.replicas[old].wait_for_next(LEADER);
    site.replicas[old].wait_for_next_refreshes(2);
    assert_ne!(new, old);
    let all = terms(&site.all());
    let fault = "another address, leader killed";
    within_bound(fault, stall(&all, killed), FAIL_OVER, TTL);
}

#[test]
fn replicas_find_etcd_again_when_its_name_is_unknown_for_a_while_and_then_has_another_address() {
    let mut site = Site::new();
    let leader = site.elect();
    let etcd = site.container_of(ETCD);
    let address = site.address_of(&etcd);
    let gone = SystemTime::now();
    docker(&["network", "disconnect", &site.network.name, &etcd]);
    site.replicas[leader].wait_for_next_start(LOST);
    // A replica that starts now does not find the name, and takes etcd's address.
    site.start_replica("server3");
    site.replicas[2].wait_for_next_line("a name that is unknown", |line| {
        line.is_warning() && line.message().contains("lookup")
    });
    let_pass((TTL * 2).saturating_sub(gone.elapsed().unwrap()));
    assert!(!site.replicas.iter().any(Daemon::leads));
    docker(&[
        "network",
        "connect",
        "--alias",
        ETCD,
        &site.network.name,
        &etcd,
    ]);
    let back = SystemTime::now();
    assert_ne!(site.address_of(&etcd), address);
    wait_for_settled(&mut site.replicas);
    let all = terms(&site.all());
    within_bound(
        "etcd's name unknown, then another address",
        stall(&all, back),
        FAIL_OVER,
        TTL,
    );
}

/// By when another replica leads once a container is stopped in order.
const HAND_OVER: Duration = Duration::from_secs(1);

#[test]
fn containers_that_are_stopped_one_after_the_other_hand_over_to_the_next_whatever_the_order() {
    let mut site = Site::new();
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for (round, order) in orders.into_iter().enumerate() {
        println!("{order:?}");
        // The first one leads, and the others follow in this order.
        for place in 0..3 {
            site.start_replica(&format!("server{round}{place}"));
            let role = if place == 0 { LEADER } else { FOLLOWER };
            site.replicas[place].wait_for_next(role);
            site.wait_for_seats(place + 1);
        }
        let mut running = vec![0, 1, 2];
        let mut led = 1;
        for stopped in order {
            let leads = running[0];
            // It knows of all seats.
            site.replicas[leads].skip();
            site.replicas[leads].wait_for_next_refreshes(2);
            let asked = SystemTime::now();
            site.stop(stopped);
            running.retain(|place| *place != stopped);
            let Some(&next) = running.first() else {
                continue;
            };
            if stopped == leads {
                site.replicas[next].wait_for_next(LEADER);
                led += 1;
            }
            site.replicas[next].wait_for_next_refreshes(1);
            let took = stall(&terms(&site.all()), asked);
            within_bound("container stopped", took, HAND_OVER, TTL);
        }
        assert_eq!(terms(&site.all()).len(), led);
        site.replicas.clear();
    }
}
