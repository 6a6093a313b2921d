//! Leader election over etcd: of several replicas of a program, exactly one acts.

pub mod protocol;
