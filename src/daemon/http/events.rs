//! `GET /events`: sends the state, and then each change, as server-sent events.

use super::{
    feed::{Feed, event_line},
    server::Lasts,
    snapshot::Source,
};
use axum::{
    Extension,
    http::Method,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use serde_json::{Map, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc, watch,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

/// How long nothing is sent at most: a reader that hears nothing for much longer has lost its connection.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);

/// Serves the events of one process.
pub(super) struct Events {
    feed: Arc<Feed>,
    source: Arc<dyn Source>,
    places: Mutex<Places>,
    most: usize,
}

/// The open connections, the oldest first: a value of true asks one to give way, and dropping it ends one.
#[derive(Default)]
struct Places {
    open: VecDeque<watch::Sender<bool>>,
    /// Those that give way, and have not ended yet.
    giving_way: VecDeque<watch::Sender<bool>>,
}

impl Events {
    /// Creates a server for so many connections at once.
    pub fn new(feed: Arc<Feed>, source: Arc<dyn Source>, most: usize) -> Self {
        Self {
            feed,
            source,
            places: Mutex::default(),
            most,
        }
    }

    /// Responds to a reader. If there is no place for it, the oldest one gives way.
    pub fn respond(&self, method: &Method) -> Response {
        let (lines, received) = mpsc::channel(1);
        let events = ReceiverStream::new(received)
            .map(|line: Arc<str>| Ok::<_, Infallible>(Event::default().data(line)));
        let keep_alive = KeepAlive::new().interval(SIGN_OF_LIFE_EVERY);
        // nginx would collect events before it passes them on.
        let headers = [("x-accel-buffering", "no")];
        let response = (headers, Sse::new(events).keep_alive(keep_alive));
        if method != Method::GET {
            // Without a body, it takes no place.
            return response.into_response();
        }
        let place = self.take_place();
        let reader = Reader {
            feed: Arc::clone(&self.feed),
            source: Arc::clone(&self.source),
            lines,
        };
        tokio::spawn(reader.serve(place.clone()));
        (Extension(Lasts::until(place)), response).into_response()
    }

    /// Takes a place; its value turns true when it is given to another reader.
    fn take_place(&self) -> watch::Receiver<bool> {
        let (sender, place) = watch::channel(false);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let Places { open, giving_way } = &mut *places;
        open.retain(|reader| !reader.is_closed());
        giving_way.retain(|reader| !reader.is_closed());
        if open.len() >= self.most
            && let Some(oldest) = open.pop_front()
        {
            oldest.send_replace(true);
            giving_way.push_back(oldest);
        }
        if giving_way.len() > self.most {
            giving_way.pop_front();
        }
        open.push_back(sender);
        place
    }
}

/// One that reads the events.
struct Reader {
    feed: Arc<Feed>,
    source: Arc<dyn Source>,
    lines: mpsc::Sender<Arc<str>>,
}

/// The reader is gone, or gives way.
struct Ended;

impl Reader {
    async fn serve(self, mut place: watch::Receiver<bool>) {
        let gave_way = tokio::select! {
            _ = place.wait_for(|is_given_away| *is_given_away) => true,
            _ = self.send_changes() => false,
        };
        if gave_way {
            let text = "This connection gave way to a newer one.";
            let object = Map::from_iter([("text".to_owned(), json!(text))]);
            // One that does not read it is cut off later.
            let _ = self.send(event_line("gave_way", object).into()).await;
        }
    }

    /// Sends what is known, and then each change.
    async fn send_changes(&self) -> Result<Infallible, Ended> {
        loop {
            // Only what is published after the snapshot is taken.
            let mut changes = self.feed.lines();
            self.send_snapshot().await?;
            let count = self.send_until_lost(&mut changes).await?;
            let object = Map::from_iter([("count".to_owned(), json!(count))]);
            self.send(event_line("lost", object).into()).await?;
        }
    }

    /// Sends each change until the reader is too slow; returns how many it has lost.
    async fn send_until_lost(
        &self,
        changes: &mut broadcast::Receiver<Arc<str>>,
    ) -> Result<u64, Ended> {
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = self.lines.closed() => return Err(Ended),
            };
            match change {
                Ok(line) => self.send(line).await?,
                Err(RecvError::Lagged(count)) => return Ok(count),
                Err(RecvError::Closed) => return Err(Ended),
            }
        }
    }

    async fn send_snapshot(&self) -> Result<(), Ended> {
        let line = self.feed.snapshot_line(&self.source.snapshot());
        self.send(line.into()).await
    }

    async fn send(&self, line: Arc<str>) -> Result<(), Ended> {
        self.lines.send(line).await.map_err(|_| Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::LeaderKey,
        daemon::http::snapshot::Snapshot,
        observer::ElectionState,
        protocol::{Entry, LeaseId, TermSettings},
    };
    use axum::body::BodyDataStream;
    use serde_json::Value;

    /// Knows of a leader with this lease and revision.
    struct Known(Mutex<i64>);

    impl Source for Known {
        fn snapshot(&self) -> Snapshot {
            let revision = *self.0.lock().unwrap();
            let key = Entry {
                value: b"a"[..].into(),
                lease: Some(LeaseId::new(revision)),
                create_revision: revision,
                mod_revision: revision,
                settings: TermSettings::default(),
            };
            Snapshot {
                leader_key: LeaderKey::default(),
                replica: None,
                election: Ok(ElectionState::new(revision, Some(&key), Some(&key))),
                keys: None,
                candidates: None,
                validity: None,
                ttl: None,
                endpoint: None,
                etcd_answers: true,
                terms: None,
                changes_at: None,
            }
        }
    }

    fn events(most: usize) -> (Arc<Known>, Arc<Feed>, Events) {
        let known = Arc::new(Known(Mutex::new(1)));
        let feed = Arc::new(Feed::new());
        feed.publish(&known.snapshot());
        let events = Events::new(Arc::clone(&feed), Arc::clone(&known) as _, most);
        (known, feed, events)
    }

    fn lead_next(known: &Known, feed: &Feed) {
        *known.0.lock().unwrap() += 1;
        feed.publish(&known.snapshot());
    }

    fn read(events: &Events) -> BodyDataStream {
        let response = events.respond(&Method::GET);
        response.into_body().into_data_stream()
    }

    /// Returns the next event; `None` at the end.
    async fn next(body: &mut BodyDataStream) -> Option<Value> {
        loop {
            let part = body.next().await?.unwrap();
            if let Some(json) = part.strip_prefix(b"data: ") {
                return Some(serde_json::from_slice(json).unwrap());
            }
        }
    }

    #[tokio::test]
    async fn a_reader_gets_what_is_known_and_then_each_change() {
        let (known, feed, events) = events(2);
        lead_next(&known, &feed);
        let mut body = read(&events);
        let first = next(&mut body).await.unwrap();
        assert_eq!(
            (&first["event"], &first["leader"]["token"]),
            (&json!("snapshot"), &json!(2))
        );
        let texts = first["changes"].as_array().unwrap().iter();
        let texts: Vec<_> = texts
            .map(|change| change["text"].as_str().unwrap())
            .collect();
        assert_eq!(
            texts,
            [
                "'a' leads, token 1, lease 0000000000000001.",
                "'a' leads, token 2, lease 0000000000000002.",
            ]
        );
        for token in 3..10 {
            lead_next(&known, &feed);
            let change = next(&mut body).await.unwrap();
            assert_eq!(
                (&change["event"], &change["leader"]["token"]),
                (&json!("situation"), &json!(token))
            );
            assert_eq!(next(&mut body).await.unwrap()["event"], "terms");
        }
        drop(body);
        while feed.is_read() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_slow_reader_loses_events_and_is_sent_everything_anew() {
        let (known, feed, events) = events(2);
        let mut body = read(&events);
        assert_eq!(next(&mut body).await.unwrap()["event"], "snapshot");
        for _ in 0..100 {
            lead_next(&known, &feed);
        }
        let mut seen: Vec<Value> = Vec::new();
        while seen.last().is_none_or(|event| event["event"] != "snapshot") {
            seen.push(next(&mut body).await.unwrap());
        }
        let (snapshot, lost) = (&seen[seen.len() - 1], &seen[seen.len() - 2]);
        assert_eq!(lost["event"], "lost");
        assert!(lost["count"].as_u64().unwrap() > 100, "{lost}");
        assert_eq!(snapshot["leader"]["token"], 101);
    }

    #[tokio::test]
    async fn the_oldest_reader_gives_way_with_a_message() {
        let (_known, _feed, events) = events(2);
        let mut bodies = [read(&events), read(&events)];
        for body in &mut bodies {
            next(body).await;
        }
        for method in [Method::HEAD, Method::OPTIONS] {
            drop(events.respond(&method));
        }
        let mut newest = read(&events);
        let last = next(&mut bodies[0]).await.unwrap();
        assert_eq!(last["event"], "gave_way");
        assert_eq!(next(&mut bodies[0]).await, None);
        assert_eq!(next(&mut newest).await.unwrap()["event"], "snapshot");
        let [_, second] = bodies;
        drop(second);
        while !events.places.lock().unwrap().open[0].is_closed() {
            tokio::task::yield_now().await;
        }
        // The place of the one that has left is free.
        let _third = read(&events);
        assert!(newest.next().await.is_some_and(|part| part.is_ok()));
        assert_eq!(events.places.lock().unwrap().open.len(), 2);
    }
}
