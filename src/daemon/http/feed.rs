//! Renders each change as the lines that `/events` sends: once, for all clients.

use super::{
    document::{document, part, situation, terms, validity},
    snapshot::Snapshot,
};
use crate::{
    candidates::Candidates,
    daemon::{
        render::{arrivals, candidates_fields, line, state_sentence},
        terms::Keys,
    },
    observer::ElectionState,
    protocol::{Event, Moment},
    record::TermRecord,
    wall_clock,
};
use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    mem::replace,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::broadcast;

/// How many lines wait for a slow reader; older ones are lost to it.
const LINES_AHEAD: usize = 64;
/// How long an event may be, in bytes, with texts as long as they are shown elsewhere. Only hostile texts make it longer.
const LONGEST_EVENT: usize = 32 * 1024;
/// How many characters of each text are kept in a longer one.
const SHORT_TEXT: usize = 32;
/// How many of the latest changes are kept.
const CHANGES: usize = 20;

/// Publishes what changes.
pub(super) struct Feed {
    lines: broadcast::Sender<Arc<str>>,
    published: Mutex<Published>,
}

/// What was published last.
#[derive(Default)]
struct Published {
    state: Option<ElectionState>,
    candidates: Option<Candidates>,
    /// What this process does, without what changes all the time.
    part: Map<String, Value>,
    etcd_answers: Option<bool>,
    valid_until: Option<Moment>,
    terms: Option<Arc<[TermRecord]>>,
    keys: Option<Keys>,
    /// Whether the state of the election was known.
    is_known: bool,
    /// The latest changes in words, the oldest first.
    changes: VecDeque<Value>,
}

impl Feed {
    pub fn new() -> Self {
        Self {
            lines: broadcast::Sender::new(LINES_AHEAD),
            published: Mutex::default(),
        }
    }

    /// Returns the lines that are published from now on.
    pub fn lines(&self) -> broadcast::Receiver<Arc<str>> {
        self.lines.subscribe()
    }

    /// Returns whether anybody reads the lines.
    pub fn is_read(&self) -> bool {
        self.lines.receiver_count() > 0
    }

    /// Returns a line with all that is known, for a reader that knows nothing.
    pub fn snapshot_line(&self, snapshot: &Snapshot) -> String {
        let mut object = document(snapshot);
        let changes: Vec<_> = self.lock().changes.iter().cloned().collect();
        object.insert("changes".to_owned(), json!(changes));
        event_line("snapshot", object)
    }

    /// Publishes what differs from the last snapshot.
    pub fn publish(&self, snapshot: &Snapshot) {
        let mut published = self.lock();
        let published = &mut *published;
        let mut terms_may_differ =
            snapshot.terms != published.terms || snapshot.keys != published.keys;
        if let Ok(state) = &snapshot.election
            && published.state.as_ref() != Some(state)
        {
            terms_may_differ = true;
            let sentence = state_sentence(state, &snapshot.leader_key);
            published.state = Some(state.clone());
            self.send("situation", published, Some(sentence), || {
                situation(snapshot)
            });
        }
        // One that began to read while nothing was known has not been sent the candidates.
        let was_known = replace(&mut published.is_known, snapshot.election.is_ok());
        let candidates_may_differ = snapshot.candidates != published.candidates
            || !was_known && snapshot.candidates.is_some();
        if candidates_may_differ && snapshot.election.is_ok() {
            let before = published.candidates.as_ref();
            let now = snapshot.candidates.as_ref();
            let sentence = now.and_then(|now| arrivals::changes(before, now));
            published.candidates.clone_from(&snapshot.candidates);
            self.send("candidates", published, sentence, || {
                candidates_fields(snapshot.candidates.as_ref())
            });
        }
        let mut object = part(snapshot);
        if object != published.part {
            published.part.clone_from(&object);
            let sentence = contact_sentence(published.etcd_answers, snapshot);
            if snapshot.etcd_answers || published.etcd_answers.is_some() {
                published.etcd_answers = Some(snapshot.etcd_answers);
            }
            self.send("role", published, sentence, || {
                object.extend(situation(snapshot));
                object.extend(validity(snapshot));
                object
            });
        }
        if terms_may_differ {
            published.terms.clone_from(&snapshot.terms);
            published.keys.clone_from(&snapshot.keys);
            self.send("terms", published, None, || {
                Map::from_iter([("terms".to_owned(), terms(snapshot))])
            });
        }
        let until = snapshot.validity.map(|validity| validity.until);
        if until != published.valid_until {
            published.valid_until = until;
            self.send("renewal", published, None, || validity(snapshot));
        }
    }

    /// Publishes what no snapshot shows.
    pub fn record(&self, event: &Event) {
        let (answered, sentence) = match event {
            Event::Challenging => (false, "This replica challenges the leader."),
            Event::ChallengeAnswered => (true, "The leader has responded to the challenge."),
            _ => return,
        };
        let mut published = self.lock();
        self.send(
            "challenge",
            &mut published,
            Some(sentence.to_owned()),
            || Map::from_iter([("answered".to_owned(), json!(answered))]),
        );
    }

    /// Sends an event to those that read, and keeps its sentence for those that come later.
    fn send(
        &self,
        event: &str,
        published: &mut Published,
        sentence: Option<String>,
        fields: impl FnOnce() -> Map<String, Value>,
    ) {
        if let Some(sentence) = &sentence {
            if published.changes.len() == CHANGES {
                published.changes.pop_front();
            }
            let change = json!({ "time": now(), "text": sentence });
            published.changes.push_back(change);
        }
        if self.is_read() {
            let mut object = fields();
            if let Some(sentence) = sentence {
                object.insert("text".to_owned(), json!(sentence));
            }
            // If the last reader has just gone, nobody misses it.
            let _ = self.lines.send(event_line(event, object).into());
        }
    }

    /// Nothing that is done under the lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that etcd does not respond any more, or does again.
fn contact_sentence(answered: Option<bool>, snapshot: &Snapshot) -> Option<String> {
    let endpoint = snapshot.endpoint.as_deref().unwrap_or_default();
    match (answered?, snapshot.etcd_answers) {
        (true, false) => Some("etcd does not respond.".to_owned()),
        (false, true) => Some(format!("etcd at '{endpoint}' responds again.")),
        _ => None,
    }
}

/// Returns an event as one line of JSON.
pub(super) fn event_line(event: &str, mut object: Map<String, Value>) -> String {
    object.insert("event".to_owned(), json!(event));
    object.insert("time".to_owned(), json!(now()));
    let whole = line(object.clone());
    if whole.len() <= LONGEST_EVENT {
        return whole;
    }
    shorten(&mut object);
    line(object)
}

/// Shortens all texts, and says so of each.
fn shorten(object: &mut Map<String, Value>) {
    let mut inexact = Vec::new();
    for (field, value) in object.iter_mut() {
        match value {
            Value::String(text) => {
                if let Some((end, _)) = text.char_indices().nth(SHORT_TEXT) {
                    text.truncate(end);
                    inexact.push(format!("{field}_is_exact"));
                }
            }
            Value::Object(object) => shorten(object),
            Value::Array(values) => {
                let objects = values.iter_mut().filter_map(Value::as_object_mut);
                objects.for_each(shorten);
            }
            _ => {}
        }
    }
    object.extend(inexact.into_iter().map(|field| (field, json!(false))));
}

fn now() -> String {
    humantime::format_rfc3339_millis(wall_clock::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_with_hostile_texts_is_shortened_and_says_so() {
        let candidate = |name: &str| json!({ "name": name, "address": null, "seat": "00" });
        let event = |name: &str| {
            let candidates: Vec<_> = (0..16).map(|_| candidate(name)).collect();
            let terms: Vec<_> = (0..32)
                .map(|_| json!({ "ended": name, "name": name, "gap": 1 }))
                .collect();
            let object =
                json!({ "candidates": candidates, "terms": terms, "leader": { "name": name } });
            event_line("snapshot", object.as_object().unwrap().clone())
        };
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let usual = parse(&event("server1"));
        assert_eq!(usual["leader"], json!({ "name": "server1" }));
        let hostile = event(&"\u{202e}".repeat(85));
        assert!(hostile.len() < LONGEST_EVENT, "{}", hostile.len());
        let hostile = parse(&hostile);
        let short = "\u{202e}".repeat(SHORT_TEXT);
        assert_eq!(
            hostile["leader"],
            json!({ "name": short, "name_is_exact": false })
        );
        assert_eq!(hostile["candidates"][15]["seat"], "00");
        assert_eq!(hostile["terms"][31]["ended_is_exact"], false);
        assert_eq!(hostile["event"], "snapshot");
    }
}
