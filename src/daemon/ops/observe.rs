//! `observe`: one line for each change, as it happens.

use super::{
    super::{
        exit_code,
        render::{self, sentence},
        signals::Signals,
    },
    ask::verdict,
    print,
};
use crate::{
    config::{Cluster, LeaderKey},
    observer::{Observed, Observer},
    printable::Printable,
    wall_clock,
};
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use tokio::sync::oneshot;

/// Tells what happens, until it is asked to stop or nobody reads it any more.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
) -> anyhow::Result<u8> {
    let mut signals = Signals::new(false).context("could not listen to signals")?;
    let endpoints: Vec<_> = cluster
        .endpoints()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut reader_gone = reader_gone();
    let mut observer = Observer::start(cluster.clone(), leader_key);
    loop {
        let change = tokio::select! {
            change = observer.next() => change,
            _ = signals.next() => return Ok(exit_code::SUCCESS),
            Ok(()) = &mut reader_gone => return Ok(exit_code::SUCCESS),
        };
        let Some(change) = change else {
            bail!("the observation ended of itself, which is a fault of this program");
        };
        let (out, trouble) = if json {
            (Some(in_json(&change, &endpoints)), None)
        } else {
            in_words(&change, leader_key, &endpoints)
        };
        // A reader may stop reading, and a signal must end this nevertheless.
        let printing = tokio::task::spawn_blocking(move || {
            if let Some(trouble) = trouble {
                // Where standard error is closed, changes are still told.
                let _ = writeln!(io::stderr(), "{trouble}");
            }
            out.map_or(Ok(true), |line| print(&line))
        });
        let is_read = tokio::select! {
            printed = printing => printed.context("printing died")??,
            _ = signals.next() => return Ok(exit_code::SUCCESS),
        };
        if !is_read {
            return Ok(exit_code::SUCCESS);
        }
    }
}

/// Tells when standard output has no reader any more, which else only the next line would show.
fn reader_gone() -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let out = io::stdout();
        // Errors alone are waited for; they are always told.
        let mut outputs = [PollFd::new(&out, PollFlags::empty())];
        if rustix::io::retry_on_intr(|| poll(&mut outputs, None)).is_ok() {
            // Whoever waits no longer need not know.
            let _ = tell.send(());
        } else {
            // The next line will show.
            std::mem::forget(tell);
        }
    });
    told
}

/// A line for standard output or one for standard error: changes go to the one, trouble to the
/// other.
fn in_words(
    observed: &Observed,
    leader_key: &LeaderKey,
    endpoints: &[String],
) -> (Option<String>, Option<String>) {
    let now = humantime::format_rfc3339_millis(wall_clock::now());
    let trouble = match observed {
        Observed::State(situation) => {
            let sentence = sentence(situation, leader_key);
            return (Some(format!("{now} {sentence}")), None);
        }
        Observed::Gap { after } => {
            format!(
                "etcd has compacted its history: changes after revision {after} may be missing."
            )
        }
        Observed::HistoryWentBack => "etcd went back in its history (a restored backup?) or is \
                                      another etcd; starting afresh."
            .to_owned(),
        Observed::Unanswered { endpoint, failure } => {
            let (endpoint, verdict) = (&endpoints[*endpoint], verdict(failure));
            let reason = Printable(failure.message.as_bytes());
            format!("etcd at '{endpoint}' {verdict} ({reason}); trying again until that changes.")
        }
        Observed::AnsweredAgain { endpoint } => {
            format!("etcd at '{}' answers.", endpoints[*endpoint])
        }
    };
    (None, Some(format!("{now} WARN {trouble}")))
}

fn in_json(observed: &Observed, endpoints: &[String]) -> String {
    let (event, fields) = match observed {
        Observed::State(situation) => ("situation", render::object(situation)),
        Observed::Gap { after } => ("gap", fields(json!({ "after": after }))),
        Observed::HistoryWentBack => ("history_went_back", Map::new()),
        Observed::Unanswered { endpoint, failure } => (
            "unanswered",
            fields(json!({
                "endpoint": endpoints[*endpoint],
                "reason": Printable(failure.message.as_bytes()).to_string(),
            })),
        ),
        Observed::AnsweredAgain { endpoint } => (
            "answered_again",
            fields(json!({ "endpoint": endpoints[*endpoint] })),
        ),
    };
    let now = humantime::format_rfc3339_millis(wall_clock::now());
    let mut object = fields;
    object.insert("event".to_owned(), json!(event));
    object.insert("time".to_owned(), json!(now.to_string()));
    render::line(object)
}

fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
