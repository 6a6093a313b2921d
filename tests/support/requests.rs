//! What an etcd was asked, as it counts that itself.

use super::etcd::Etcd;
use super::http::get;
use std::collections::BTreeMap;

/// How often each kind of request has come, by its gRPC method.
pub struct Requests(BTreeMap<String, u64>);

impl Requests {
    /// Returns what this etcd was asked since it was started.
    pub fn of(etcd: &Etcd) -> Self {
        let metrics = get(&etcd.endpoint(), "/metrics").body;
        let mut requests = BTreeMap::new();
        for line in metrics.lines() {
            let counts = line.strip_prefix("grpc_server_started_total{grpc_method=\"");
            if let Some((method, rest)) = counts.and_then(|rest| rest.split_once('"'))
                && let Some(count) = rest
                    .rsplit(' ')
                    .next()
                    .and_then(|count| count.parse::<u64>().ok())
            {
                *requests.entry(method.to_owned()).or_default() += count;
            }
        }
        Self(requests)
    }

    /// Returns what was asked since then, each method with its count.
    pub fn since(&self, before: &Self) -> Vec<(String, u64)> {
        let more = |(method, count): (&String, &u64)| {
            let more = count - before.count(method);
            (more > 0).then(|| (method.clone(), more))
        };
        self.0.iter().filter_map(more).collect()
    }

    /// Returns how often this method was called.
    pub fn count(&self, method: &str) -> u64 {
        self.0.get(method).copied().unwrap_or_default()
    }
}
