//! `history`: prints the last terms, and how each began and ended.

use super::{ask::Asker, print, table::aligned};
use crate::{
    config::{Cluster, LeaderKey},
    daemon::{
        exit_code, render,
        terms::{self, Keys, State},
    },
    printable::Printable,
    record::TermRecord,
};
use anyhow::Context;
use std::time::{Duration, SystemTime};

/// The names of the columns.
const HEADER: [&str; 8] = [
    "TOKEN", "NAME", "SINCE", "UNTIL", "LASTED", "CAME", "GAP", "END",
];
/// What stands for a field that is not known.
const NOTHING: &str = "-";
/// What is said of a term whose holder has not stopped yet.
const STILL_ACTS: &str = "its holder may still be acting";
/// What is said of a term that is over, and whose record does not say so.
const NO_END: &str =
    "no end was recorded: the holder crashed or was cut off, or etcd refused the record";

/// Prints the last terms, the newest last.
///
/// # Errors
/// If etcd does not respond in time or refuses.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
    timeout: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, timeout);
    let found = asker
        .ask(async |connection, limit| connection.terms_and_keys(limit).await)
        .await
        .with_context(|| {
            let folder = leader_key.history();
            let folder = Printable(folder.as_bytes());
            format!("could not read the terms below '{folder}'")
        })?;
    if found.records.is_empty() {
        if !json {
            let key = Printable(leader_key.as_str().as_bytes());
            print(&format!("No term of the election '{key}' is recorded."))?;
        }
        return Ok(exit_code::NOTHING_FOUND);
    }
    let keys = Keys {
        leader: found.keys.leader,
        acting: found.keys.acting,
    };
    let terms = found.records.iter();
    let terms = terms.map(|term| (term, State::of(term, &keys)));
    let lines = if json {
        terms
            .map(|(term, state)| render::line(terms::fields(term, state)))
            .collect()
    } else {
        let rows = terms.map(|(term, state)| row(term, state));
        let header = HEADER.map(str::to_owned);
        aligned([header].into_iter().chain(rows).collect())
    };
    for line in lines {
        if !print(&line)? {
            break;
        }
    }
    Ok(exit_code::SUCCESS)
}

/// Returns the columns of a line of text.
fn row(term: &TermRecord, state: State) -> [String; 8] {
    let end = match (&term.ended, state) {
        // Another version may write the reason before it has stopped acting.
        (Some(reason), State::Ending) => {
            format!("{}; {STILL_ACTS}", Printable(reason.as_bytes()))
        }
        (Some(reason), _) => Printable(reason.as_bytes()).to_string(),
        (None, State::Leads) => "leads".to_owned(),
        (None, State::Ending) => STILL_ACTS.to_owned(),
        (None, State::CutOff) => NO_END.to_owned(),
        (None, State::Ended | State::Unknown) => NOTHING.to_owned(),
    };
    let name = term.name.as_ref();
    [
        term.token.to_string(),
        or_nothing(name.map(|name| format!("'{}'", Printable(name.as_bytes())))),
        date(term.since),
        date(term.until),
        duration(terms::lasted(term, state)),
        or_nothing(term.came.as_deref().map(way)),
        duration(term.gap),
        end,
    ]
}

/// Returns the words for how a candidate came to lead.
fn way(came: &str) -> String {
    Printable(came.as_bytes()).to_string().replace('_', " ")
}

fn date(time: Option<SystemTime>) -> String {
    or_nothing(time.map(|time| humantime::format_rfc3339_seconds(time).to_string()))
}

fn duration(duration: Option<Duration>) -> String {
    or_nothing(duration.map(|duration| humantime::format_duration(duration).to_string()))
}

fn or_nothing(text: Option<String>) -> String {
    text.unwrap_or_else(|| NOTHING.to_owned())
}
