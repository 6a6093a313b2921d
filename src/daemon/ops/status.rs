//! `status`: who leads, and where it can be reached.

use super::{ask::Asker, print};
use crate::{
    clock,
    config::{Cluster, LeaderKey},
    daemon::{exit_code, render},
    etcd::LeaseTime,
    observer::{ElectionState, Leader},
    printable::Printable,
    wall_clock,
};
use serde_json::json;
use std::time::Duration;

/// Prints who leads, or why nobody does.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
    timeout: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, timeout);
    let (state, lease) = read_state(&asker).await?;
    if json {
        print(&json_line(&state, lease))?;
    } else if let Some(leader) = &state.leader
        && leader.acts
    {
        for line in leader_lines(leader, lease) {
            print(&line)?;
        }
    } else {
        let sentence = render::state_sentence_with_end(&state, leader_key, lease);
        print(&sentence)?;
    }
    Ok(match state.leader {
        Some(_) => exit_code::SUCCESS,
        None => exit_code::NO_LEADER,
    })
}

/// Reads both keys, and the time to live of the leader's lease; without a leader, of the lease that
/// the acting key is bound to.
pub(super) async fn read_state(
    asker: &Asker,
) -> anyhow::Result<(ElectionState, Option<LeaseTime>)> {
    asker
        .ask(async |connection, limit| {
            let until = clock::now() + limit;
            let view = connection.read(limit).await?;
            let state = ElectionState::from(&view);
            let leader = state.leader.as_ref().map(|leader| leader.lease);
            let acting = state.acting.as_ref().and_then(|acting| acting.lease);
            let lease = match leader.or(acting) {
                // The rest is worth printing even if this request fails.
                Some(lease) => {
                    let left = until.since(clock::now());
                    connection.time_to_live(lease, left).await.ok().flatten()
                }
                None => None,
            };
            Ok((state, lease))
        })
        .await
}

fn leader_lines(leader: &Leader, lease: Option<LeaseTime>) -> Vec<String> {
    let address = match &leader.address {
        Some(address) => Printable(address.as_bytes()).to_string(),
        None => "not published".to_owned(),
    };
    let remaining = match lease {
        Some(lease) => format!(
            "{} s, of which {} s remain unless it is renewed",
            lease.granted.as_secs(),
            lease.remaining.as_secs()
        ),
        None => "not known".to_owned(),
    };
    let since = match leader.since {
        Some(since) => {
            let date = humantime::format_rfc3339_seconds(since);
            match wall_clock::now().duration_since(since) {
                Ok(time) => {
                    let time = Duration::from_secs(time.as_secs());
                    format!("{date} ({})", humantime::format_duration(time))
                }
                // The clocks of the two machines differ.
                Err(_) => date.to_string(),
            }
        }
        None => "not known".to_owned(),
    };
    vec![
        format!("leader   {}", Printable(&leader.name)),
        format!("address  {address}"),
        format!("token    {}", leader.token),
        format!("lease    {}", leader.lease),
        format!("ttl      {remaining}"),
        format!("since    {since}"),
    ]
}

fn json_line(state: &ElectionState, lease: Option<LeaseTime>) -> String {
    let mut fields = render::state_fields(state);
    let ttl = lease.map(|lease| {
        json!({
            "granted": lease.granted.as_secs(),
            "remaining": lease.remaining.as_secs(),
            "ends": render::date(Some(render::latest_end(lease))),
        })
    });
    fields.insert("ttl".to_owned(), json!(ttl));
    render::line(fields)
}
