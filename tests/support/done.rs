//! Records of jobs that are done, and the command that lists and removes them.

use super::etcd::Etcd;
use super::operator::{Run, at, run};
use super::proxy::Proxy;
use super::{PATIENCE, wait_until};

/// The value of a record, as a replica writes it.
pub const RECORD: &[u8] = br#"{"at":1800000000,"name":"server1","token":7}"#;
/// What is printed of it.
pub const COMPLETED: [&str; 3] = ["by 'server1'", "at 2027-01-15T08:00:00Z", "token 7"];

/// Runs `done` with these arguments.
pub fn done(etcd: &Etcd, arguments: &[&str]) -> Run {
    run(at(&etcd.endpoint(), &[&["done"], arguments].concat()))
}

/// Returns the columns of each line.
pub fn columns(run: &Run) -> Vec<Vec<&str>> {
    let line = |line| {
        let columns = str::split(line, "  ").map(str::trim);
        columns.filter(|column| !column.is_empty()).collect()
    };
    run.out.iter().map(String::as_str).map(line).collect()
}

/// Waits for a request of the kind that the link names.
pub fn wait_for_request(proxy: &Proxy, what: &str) {
    wait_until(what, PATIENCE, || {
        (proxy.matching_requests() > 0).then_some(())
    });
}
