//! `done`: lists the jobs that are recorded as done, or removes such a record.

use super::{ask::Asker, print, table::aligned};
use crate::{
    config::{Cluster, JobId, LeaderKey},
    daemon::{exit_code, render},
    etcd::{After, JobRecord, Removal},
    printable::Printable,
    protocol::{FailureKind, FencingToken},
    record::DoneRecord,
};
use anyhow::{Context, bail};
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Prints which jobs are recorded as done.
///
/// # Errors
/// If etcd does not respond in time or refuses.
pub(super) async fn list(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    json: bool,
    timeout: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, timeout);
    let lines = if json {
        read_all(&asker, leader_key, json_line).await?
    } else {
        aligned(read_all(&asker, leader_key, row).await?)
    };
    if lines.is_empty() {
        if !json {
            let key = Printable(leader_key.as_str().as_bytes());
            print(&format!(
                "No job of the election '{key}' is recorded as done."
            ))?;
        }
        return Ok(exit_code::NOTHING_FOUND);
    }
    for line in lines {
        if !print(&line)? {
            break;
        }
    }
    Ok(exit_code::SUCCESS)
}

/// Reads all records, as they were at one moment, and returns what `keep` makes of each.
///
/// Each page is a separate request, so that the timeout of a request does not limit the number of
/// records.
async fn read_all<T>(
    asker: &Asker,
    leader_key: &LeaderKey,
    keep: impl Fn(&JobRecord, &LeaderKey) -> T,
) -> anyhow::Result<Vec<T>> {
    let prefix = leader_key.done_prefix();
    let mut kept = Vec::new();
    let mut after: Option<After> = None;
    loop {
        let page = asker
            .ask(async |connection, limit| connection.records(&prefix, after.as_ref(), limit).await)
            .await
            .with_context(|| {
                let prefix = Printable(prefix.as_bytes());
                format!("could not read the records below '{prefix}'")
            })?;
        let Some(page) = page else {
            // etcd's history was compacted between two pages: begin again at a later revision.
            kept.clear();
            after = None;
            continue;
        };
        kept.extend(page.records.iter().map(|record| keep(record, leader_key)));
        match page.records.into_iter().next_back() {
            Some(last) if page.has_more => {
                after = Some(After {
                    key: last.key,
                    revision: page.revision,
                });
            }
            _ => return Ok(kept),
        }
    }
}

/// Removes the record of a job.
///
/// # Errors
/// If etcd does not respond in time or refuses, or if the record is replaced meanwhile.
pub(super) async fn forget(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    job: &JobId,
    timeout: Duration,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, timeout);
    let key = leader_key.done(job);
    let (name, shown_key) = (
        Printable(job.as_str().as_bytes()),
        Printable(key.as_bytes()),
    );
    let found = asker
        .ask(async |connection, limit| connection.record(&key, limit).await)
        .await
        .with_context(|| format!("could not read the record '{shown_key}'"))?;
    let Some(found) = found else {
        print(&format!(
            "There is no record of '{name}': the key '{shown_key}' does not exist."
        ))?;
        return Ok(exit_code::NOTHING_FOUND);
    };
    // Whether etcd may have carried out a request whose response was lost.
    let may_be_removed = AtomicBool::new(false);
    let removal = asker
        .ask(async |connection, limit| {
            let removal = connection
                .remove_record(&key, found.mod_revision, limit)
                .await;
            if let Err(failure) = &removal
                && let FailureKind::TimedOut | FailureKind::Unreachable = failure.kind
            {
                may_be_removed.store(true, Ordering::Relaxed);
            }
            removal
        })
        .await
        .with_context(|| {
            if may_be_removed.load(Ordering::Relaxed) {
                // The job may have been completed again since, and its new record must not be removed
                // unseen.
                format!(
                    "it is not known whether the record '{shown_key}' was removed; look at the \
                     list before you repeat the command"
                )
            } else {
                format!("could not remove the record '{shown_key}'")
            }
        })?;
    match removal {
        // `Gone`: the response to an earlier attempt was lost, or somebody else has removed the record.
        // Either way, the record that was read does not exist any more.
        Removal::Removed | Removal::Gone => {
            print(&format!(
                "The record of '{name}' is removed, so that the job runs again; it was completed {}.",
                completion(&found.value).join(", ")
            ))
            .with_context(|| {
                format!("the record '{shown_key}' is removed, but that could not be printed")
            })?;
            Ok(exit_code::SUCCESS)
        }
        Removal::Replaced(new) => bail!(
            "the record '{shown_key}' was replaced while it was to be removed, and the new one is \
             kept: '{name}' was completed {}; repeat the command if that is to be removed too",
            completion(&new.value).join(", ")
        ),
    }
}

/// Returns phrases that say by whom a job was completed, when, and in which term.
fn completion(value: &[u8]) -> [String; 3] {
    let record = DoneRecord::decode(value);
    let by = match &record.name {
        Some(name) => format!("by '{}'", Printable(name.as_bytes())),
        None => "by somebody".to_owned(),
    };
    let at = match record.at {
        Some(at) => format!("at {}", humantime::format_rfc3339_seconds(at)),
        None => "at an unknown time".to_owned(),
    };
    let token = match record.token {
        Some(token) => format!("token {token}"),
        None => "token unknown".to_owned(),
    };
    [by, at, token]
}

/// Returns the columns of a line of text.
fn row(record: &JobRecord, leader_key: &LeaderKey) -> [String; 4] {
    let job = match leader_key.job_of(&record.key) {
        Some(job) => format!("'{}'", Printable(job.as_str().as_bytes())),
        None => format!("key '{}', which names no job,", Printable(&record.key)),
    };
    let [by, at, token] = completion(&record.value);
    [job, by, at, token]
}

/// Returns the JSON object of a record. If its key names no job, `id` is null, and `key` holds the key.
fn json_line(record: &JobRecord, leader_key: &LeaderKey) -> String {
    let DoneRecord {
        name, token, at, ..
    } = DoneRecord::decode(&record.value);
    let job = leader_key.job_of(&record.key);
    let mut fields = render::optional_text("id", job.as_ref().map(JobId::as_str));
    if job.is_none() {
        fields.extend(render::text("key", &record.key));
    }
    fields.extend(render::optional_text("name", name.as_deref()));
    let token = token.map(FencingToken::get);
    fields.insert("token".to_owned(), json!(token));
    fields.insert("at".to_owned(), render::date(at));
    render::line(fields)
}
