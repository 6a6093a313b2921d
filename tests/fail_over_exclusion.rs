//! The same as in `exclusion.rs`, with a fail-over limit of a second: the next COMMAND starts sooner, and still none
//! overlaps another.

use support::etcd::Etcd;
use support::faults::{self, MANNERS, Pace};
use support::proxy::Link;

#[test]
fn commands_do_not_overlap_when_etcd_is_frozen() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        faults::freeze_etcd(&etcd, Pace::Limit, manner);
    }
}

#[test]
fn commands_do_not_overlap_when_the_leader_is_cut_off() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        for fault in [Link::Frozen, Link::NoResponses, Link::Cut] {
            faults::cut_the_leader_off(&etcd, Pace::Limit, manner, fault);
        }
    }
}

#[test]
fn commands_do_not_overlap_when_a_daemon_is_stopped_and_continues_later() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        faults::pause_the_daemon(&etcd, Pace::Limit, manner);
    }
}

#[test]
fn commands_do_not_overlap_when_a_daemon_is_killed() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        faults::kill_the_daemon(&etcd, Pace::Limit, manner);
    }
}

#[test]
fn commands_do_not_overlap_when_a_guard_is_killed() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        faults::kill_the_guard(&etcd, Pace::Limit, manner);
    }
}

#[test]
fn commands_do_not_overlap_when_a_guard_is_stopped_while_its_daemon_loses_the_lease() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        faults::stop_the_guard_and_cut_the_leader_off(&etcd, Pace::Limit, manner);
    }
}

#[test]
fn commands_do_not_overlap_when_the_leader_key_is_deleted_or_overwritten() {
    let etcd = Etcd::newest();
    for manner in MANNERS {
        faults::delete_and_overwrite_the_leader_key(&etcd, Pace::Limit, manner);
    }
}
