//! `status`: prints the leader, its address, and the other candidates.

use super::{ask::Asker, print, table::aligned};
use crate::{
    candidates::{Candidates, ListedCandidate},
    clock,
    config::{Cluster, LeaderKey},
    daemon::{exit_code, render},
    observer::{ElectionState, Leader},
    printable::Printable,
    protocol::{Failure, LeaseTime, Situation},
    wall_clock,
};
use serde_json::json;
use std::time::Duration;

/// Prints who leads, or why nobody does, and the candidates.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
    timeout: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, timeout);
    let found = read_state(&asker).await?;
    let state = &found.state;
    if json {
        print(&json_line(&found))?;
    } else {
        let mut lines = match (state.situation, &state.leader) {
            (Situation::Led, Some(leader)) => leader_lines(leader, found.lease),
            _ => vec![found.sentence(leader_key)],
        };
        lines.extend(found.unhealthy_sentence());
        match &found.candidates {
            Ok(candidates) => lines.extend(candidate_lines(candidates)),
            Err(failure) => lines.push(render::unknown_sentence(leader_key, failure)),
        }
        lines.extend(found.alarm_sentence());
        for line in lines {
            print(&line)?;
        }
    }
    Ok(if state.situation.is_led() {
        exit_code::SUCCESS
    } else {
        exit_code::NOTHING_FOUND
    })
}

/// What etcd says of an election.
pub(super) struct Found {
    pub state: ElectionState,
    /// The candidates, or why etcd does not show them.
    candidates: Result<Candidates, Failure>,
    /// The times of the leader's lease; without a leader, of the lease that the acting key is bound
    /// to. `None` if there is no lease, or it is not known.
    lease: Option<LeaseTime>,
    /// etcd's alarms; `None` if they are not known.
    alarms: Option<Vec<String>>,
}

impl Found {
    /// Returns one sentence that says who leads, or why nobody does.
    pub fn sentence(&self, leader_key: &LeaderKey) -> String {
        render::state_sentence_with_end(&self.state, leader_key, self.lease)
    }

    /// Returns all that is to say: who leads, or why nobody does and can, and what etcd's alarms mean.
    pub fn sentences(&self, leader_key: &LeaderKey) -> String {
        let state = Some(self.sentence(leader_key));
        let all = [state, self.unhealthy_sentence(), self.alarm_sentence()];
        all.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Returns one sentence that says that no listed candidate can lead, if nobody leads and that is so.
    fn unhealthy_sentence(&self) -> Option<String> {
        let nobody_leads = !self.state.situation.is_led();
        let candidates = self.candidates.as_ref().ok().filter(|_| nobody_leads)?;
        render::unhealthy_sentence(candidates)
    }

    /// Returns one sentence that says what etcd's alarms mean, if there are any.
    pub fn alarm_sentence(&self) -> Option<String> {
        let clause = render::alarms_clause(self.alarms.as_deref()?)?;
        Some(format!("Warning: {clause}."))
    }
}

/// Reads both keys and the candidates, and what else is worth knowing of them.
pub(super) async fn read_state(asker: &Asker) -> anyhow::Result<Found> {
    asker
        .ask(async |connection, limit| {
            let until = clock::now() + limit;
            let left = || until.since(clock::now());
            let (view, denied) = connection.read_with_seats_if_permitted(limit).await?;
            let state = ElectionState::of(&view);
            let candidates = match denied {
                Some(failure) => Err(failure),
                None => Ok(Candidates::shown_in(&view).unwrap_or_default()),
            };
            let leader = state.leader.as_ref().map(|leader| leader.lease);
            let acting = state.acting.as_ref().and_then(|acting| acting.lease);
            // The rest is worth printing even if these requests fail.
            let lease = match leader.or(acting) {
                Some(lease) => connection.time_to_live(lease, left()).await.ok().flatten(),
                None => None,
            };
            let alarms = connection.alarms(left()).await.ok();
            Ok(Found {
                state,
                candidates,
                lease,
                alarms,
            })
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
    let limit = leader.fail_over;
    let limit = limit.map_or_else(String::new, |limit| format!(", fail-over {limit}"));
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
        format!("ttl      {remaining}{limit}"),
        format!("since    {since}"),
    ]
}

/// Returns the lines about the candidates; none if there is no candidate with a seat.
fn candidate_lines(candidates: &Candidates) -> Vec<String> {
    if candidates.listed.is_empty() {
        return Vec::new();
    }
    let title = "candidates, in the order in which they would follow".to_owned();
    let shows_priority = render::shows_priorities(candidates);
    let listed = candidates.listed.iter();
    let rows = listed.map(|candidate| candidate_row(candidate, shows_priority));
    let rows = aligned(rows.collect());
    let rows = rows.into_iter().map(|row| format!("  {row}"));
    let mut lines: Vec<_> = [title].into_iter().chain(rows).collect();
    lines.extend(render::full_sentence(candidates));
    lines
}

/// Returns the columns of a candidate's line.
fn candidate_row(candidate: &ListedCandidate, shows_priority: bool) -> [String; 8] {
    let address = match render::address_clause(candidate.address.as_deref()) {
        clause if clause.is_empty() => "no address".to_owned(),
        clause => clause.trim_start().to_owned(),
    };
    let version = match &candidate.version {
        Some(version) => format!("version '{}'", Printable(version.as_bytes())),
        None => "unknown version".to_owned(),
    };
    let since = match candidate.since {
        Some(since) => format!("since {}", humantime::format_rfc3339_seconds(since)),
        None => "since an unknown time".to_owned(),
    };
    let priority = if shows_priority {
        format!("priority {}", candidate.priority)
    } else {
        String::new()
    };
    [
        render::candidate_name(candidate.name.as_deref()),
        format!("seat {}", candidate.seat),
        address,
        version,
        since,
        priority,
        if candidate.leads { "leads" } else { "" }.to_owned(),
        render::health(candidate).unwrap_or_default(),
    ]
}

fn json_line(found: &Found) -> String {
    let mut fields = render::state_fields(&found.state);
    fields.extend(render::candidates_fields(found.candidates.as_ref().ok()));
    let ttl = found.lease.map(|lease| {
        json!({
            "granted": lease.granted.as_secs(),
            "remaining": lease.remaining.as_secs(),
            "ends": render::date(Some(render::latest_end(lease))),
        })
    });
    fields.insert("ttl".to_owned(), json!(ttl));
    fields.insert("alarms".to_owned(), json!(found.alarms));
    render::line(fields)
}
