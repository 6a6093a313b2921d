//! `status`: who leads, and where it can be reached.

use super::{ask::Asker, print};
use crate::{
    clock,
    config::{Cluster, LeaderKey},
    daemon::{
        exit_code,
        render::{self, date},
    },
    etcd::LeaseTime,
    observer::{ElectionState, Leader},
    printable::Printable,
    wall_clock,
};
use serde_json::json;
use std::time::Duration;

/// Tells how things stand.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
    timeout: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, timeout);
    let (situation, lease) = look(&asker).await?;
    if json {
        print(&in_json(&situation, lease))?;
    } else if let Some(leader) = &situation.leader
        && leader.acts
    {
        for line in lines(leader, lease) {
            print(&line)?;
        }
    } else {
        print(&in_words(&situation, leader_key, lease))?;
    }
    Ok(match situation.leader {
        Some(_) => exit_code::SUCCESS,
        None => exit_code::NO_LEADER,
    })
}

/// Reads both keys, and how long the lease lasts on which it all depends.
pub(super) async fn look(asker: &Asker) -> anyhow::Result<(ElectionState, Option<LeaseTime>)> {
    asker
        .ask(async |connection, limit| {
            let until = clock::now() + limit;
            let view = connection.read(limit).await?;
            let situation = ElectionState::from(&view);
            let acting = situation.acting.as_ref().and_then(|acting| acting.lease);
            let lease = match situation
                .leader
                .as_ref()
                .map(|leader| leader.lease)
                .or(acting)
            {
                // That it cannot be told is no reason to tell nothing.
                Some(lease) => {
                    let left = until.since(clock::now());
                    connection.time_to_live(lease, left).await.ok().flatten()
                }
                None => None,
            };
            Ok((situation, lease))
        })
        .await
}

fn lines(leader: &Leader, lease: Option<LeaseTime>) -> Vec<String> {
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
                // Two machines' clocks differ.
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

/// Says how things stand where nobody leads, or nobody who follows the protocol.
pub(super) fn in_words(
    situation: &ElectionState,
    leader_key: &LeaderKey,
    lease: Option<LeaseTime>,
) -> String {
    let mut words = render::sentence(situation, leader_key);
    if situation.leader.is_none()
        && situation.acting.is_some()
        && let Some(lease) = lease
    {
        let end = render::end_of(lease);
        words.pop();
        words = format!(
            "{words}, until {} at the latest unless its lease is renewed while it finishes.",
            humantime::format_rfc3339_seconds(end)
        );
    }
    words
}

fn in_json(situation: &ElectionState, lease: Option<LeaseTime>) -> String {
    let mut object = render::object(situation);
    let ttl = lease.map(|lease| {
        json!({
            "granted": lease.granted.as_secs(),
            "remaining": lease.remaining.as_secs(),
            "ends": date(Some(render::end_of(lease))),
        })
    });
    object.insert("ttl".to_owned(), json!(ttl));
    render::line(object)
}
