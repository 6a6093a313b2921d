//! No two replicas' COMMANDs, nor any processes that these have started, run at the same time,
//! whatever happens to the leader, according to what they record themselves.

use support::etcd::on_each_etcd;
use support::faults::{self, MANNERS, Pace};
use support::proxy::Link;

#[test]
fn commands_do_not_overlap_when_etcd_is_frozen() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            faults::freeze_etcd(&etcd, Pace::Lease, manner);
        }
    });
}

#[test]
fn commands_do_not_overlap_when_the_leader_is_cut_off() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            for fault in [Link::Frozen, Link::NoResponses, Link::Cut] {
                faults::cut_the_leader_off(&etcd, Pace::Lease, manner, fault);
            }
        }
    });
}

#[test]
fn commands_do_not_overlap_when_a_daemon_is_stopped_and_continues_later() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            faults::pause_the_daemon(&etcd, Pace::Lease, manner);
        }
    });
}

#[test]
fn commands_do_not_overlap_when_a_daemon_is_killed() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            faults::kill_the_daemon(&etcd, Pace::Lease, manner);
        }
    });
}

#[test]
fn commands_do_not_overlap_when_a_guard_is_killed() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            faults::kill_the_guard(&etcd, Pace::Lease, manner);
        }
    });
}

#[test]
fn commands_do_not_overlap_when_a_guard_is_stopped_while_its_daemon_loses_the_lease() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            faults::stop_the_guard_and_cut_the_leader_off(&etcd, Pace::Lease, manner);
        }
    });
}

#[test]
fn commands_do_not_overlap_when_the_leader_key_is_deleted_or_overwritten() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            faults::delete_and_overwrite_the_leader_key(&etcd, Pace::Lease, manner);
        }
    });
}
