use super::{
    ElectionState,
    key_history::{Comparison, KeyHistory, NextReport},
};
use crate::{
    etcd::Change,
    protocol::{ElectionKey, Entry, LeaseId, Situation, View},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: [ElectionKey; 2] = [ElectionKey::Leader, ElectionKey::Acting];

fn entry(mod_revision: i64) -> Entry {
    Entry {
        value: br#"{"name":"a","address":"there","since":1}"#.as_slice().into(),
        lease: Some(LeaseId::new(7)),
        create_revision: mod_revision,
        settings: crate::protocol::TermSettings::default(),
        mod_revision,
    }
}

fn view(revision: i64, leader: Option<i64>, acting: Option<i64>) -> View {
    View {
        cluster_id: 1,
        revision,
        raft_term: 1,
        leader: leader.map(entry),
        acting: acting.map(entry),
        challenge: None,
        done: None,
        seats: None,
    }
}

fn change(key: ElectionKey, revision: i64, there: bool) -> Change {
    Change {
        key,
        revision,
        entry: there.then(|| entry(revision)),
    }
}

/// What etcd holds, revision after revision: which keys each one changes, and whether they are
/// there afterwards.
type Past = Vec<[Option<bool>; 2]>;

/// How the keys stand at each revision, by what wrote them.
fn states(past: &Past) -> BTreeMap<i64, [Option<i64>; 2]> {
    let mut state = [None, None];
    let mut states = BTreeMap::new();
    for (revision, changes) in (1..).zip(past) {
        for (key, change) in state.iter_mut().zip(changes) {
            if let Some(there) = change {
                *key = there.then_some(revision);
            }
        }
        states.insert(revision, state);
    }
    states
}

fn stands(situation: &ElectionState) -> [Option<i64>; 2] {
    let token = situation.leader.as_ref().map(|leader| leader.token.get());
    // An `Acting` has no revision; that it is there is enough.
    [token, situation.acting.as_ref().map(|_| 0)]
}

/// Delivers events in the order given, answers reads from the past, and returns what was reported.
fn deliver(history: &mut KeyHistory, past: &Past, events: Vec<Change>) -> Vec<ElectionState> {
    let states = states(past);
    let mut reported = Vec::new();
    for event in events {
        history.take(event);
        loop {
            match history.next() {
                NextReport::Report(situation) => reported.push(*situation),
                NextReport::Read { key, revision } => {
                    let state = states[&revision][usize::from(key == ElectionKey::Acting)];
                    history.settle(key, revision, state.map(entry).as_ref());
                }
                NextReport::Wait | NextReport::Rest => break,
            }
        }
    }
    assert_eq!(
        history.next(),
        NextReport::Rest,
        "all is reported in the end"
    );
    reported
}

/// Elections as the protocol holds them, and what people do to the keys beside.
fn pasts() -> impl Strategy<Value = Past> {
    prop::collection::vec((0..5_u8, any::<bool>()), 1..20).prop_map(|steps| {
        let mut state = [false, false];
        let mut past = Vec::new();
        for (what, there) in steps {
            let changes = match what {
                // A campaign, or the end of a lease.
                0 | 1 => [Some(there), Some(there)],
                2 | 3 => [Some(false), None],
                _ => [None, Some(there)],
            };
            // etcd sends no event for the deletion of what is not there.
            let reported = [0, 1].map(|key| changes[key].filter(|there| *there || state[key]));
            for key in [0, 1] {
                state[key] = reported[key].unwrap_or(state[key]);
            }
            past.push(reported);
        }
        past
    })
}

/// Any order in which two watches may deliver: each key's own events stay in order.
fn interleaved(past: &Past, from: i64, turns: &[bool]) -> Vec<Change> {
    let mut queues = [0, 1].map(|key| {
        let events = (1..).zip(past).filter_map(move |(revision, changes)| {
            let there: bool = changes[key]?;
            (revision >= from).then(|| change(KEYS[key], revision, there))
        });
        events.collect::<std::collections::VecDeque<_>>()
    });
    let mut events = Vec::new();
    let mut turns = turns.iter().copied().cycle();
    while queues.iter().any(|queue| !queue.is_empty()) {
        let turn = usize::from(turns.next().unwrap());
        let queue = if queues[turn].is_empty() {
            1 - turn
        } else {
            turn
        };
        events.extend(queues[queue].pop_front());
    }
    events
}

proptest! {
    #[test]
    fn every_revision_that_changes_a_key_is_reported_with_both_keys_as_they_stood(
        past in pasts(),
        turns in prop::collection::vec(any::<bool>(), 1..9),
    ) {
        // Only what people put beside the protocol, so that it comes and goes between two changes of
        // the other key, may be reported late or twice.
        let mut history = KeyHistory::new(view(0, None, None));
        let reported = deliver(&mut history, &past, interleaved(&past, 1, &turns));
        let changed = (1_i64..).zip(&past).filter(|(_, changes)| **changes != [None, None]);
        let mut revisions: Vec<_> = reported.iter().map(|situation| situation.revision).collect();
        revisions.sort_unstable();
        revisions.dedup();
        prop_assert_eq!(revisions, changed.map(|(revision, _)| revision).collect::<Vec<_>>());
        let states = states(&past);
        let mut last = 0;
        for situation in &reported {
            if situation.revision < last {
                continue;
            }
            last = situation.revision;
            let [leader, acting] = states[&last];
            prop_assert_eq!(stands(situation)[0], leader, "at {}", last);
            prop_assert_eq!(stands(situation)[1].is_some(), acting.is_some(), "at {}", last);
        }
    }

    #[test]
    fn a_watch_that_is_taken_up_again_anywhere_tells_the_rest_and_nothing_twice(
        past in pasts(),
        turns in prop::collection::vec(any::<bool>(), 1..9),
        cut in 0..40_usize,
    ) {
        let mut history = KeyHistory::new(view(0, None, None));
        let mut events = interleaved(&past, 1, &turns);
        events.truncate(cut);
        let states = states(&past);
        let mut reported = Vec::new();
        for event in events {
            history.take(event);
            loop {
                match history.next() {
                    NextReport::Report(situation) => reported.push(situation.revision),
                    NextReport::Read { key, revision } => {
                        let state = states[&revision][usize::from(key == ElectionKey::Acting)];
                        history.settle(key, revision, state.map(entry).as_ref());
                    }
                    NextReport::Wait | NextReport::Rest => break,
                }
            }
        }
        history.forget_pending();
        let events = interleaved(&past, history.reported_up_to() + 1, &turns);
        reported.extend(deliver(&mut history, &past, events).iter().map(|it| it.revision));
        reported.sort_unstable();
        reported.dedup();
        let changed = (1_i64..).zip(&past).filter(|(_, changes)| **changes != [None, None]);
        prop_assert_eq!(reported, changed.map(|(revision, _)| revision).collect::<Vec<_>>());
    }
}

#[test]
fn a_campaign_is_reported_once_with_its_address_whichever_key_is_delivered_first() {
    for keys in [KEYS, [KEYS[1], KEYS[0]]] {
        let past = vec![[Some(true), Some(true)]];
        let mut history = KeyHistory::new(view(0, None, None));
        let reported = deliver(
            &mut history,
            &past,
            keys.map(|key| change(key, 1, true)).into(),
        );
        let [situation] = reported.as_slice() else {
            panic!("{reported:?}")
        };
        let leader = situation.leader.as_ref().unwrap();
        assert_eq!(leader.address.as_deref(), Some("there"));
        assert!(leader.acts && leader.since.is_some());
    }
}

#[test]
fn an_event_that_is_not_newer_than_what_is_known_of_its_key_is_dropped() {
    let mut history = KeyHistory::new(view(9, Some(5), Some(5)));
    history.take(change(ElectionKey::Leader, 9, false));
    assert_eq!(history.next(), NextReport::Rest);
    history.take(change(ElectionKey::Leader, 10, false));
    history.settle(ElectionKey::Acting, 10, Some(&entry(5)));
    assert!(matches!(history.next(), NextReport::Report(situation) if situation.leader.is_none()));
}

#[test]
fn keys_that_stand_as_they_were_written_have_missed_nothing() {
    let mut history = KeyHistory::new(view(9, Some(5), Some(5)));
    assert_eq!(
        history.compare(&view(90, Some(5), Some(5))),
        Comparison::Same
    );
    assert_eq!(history.reported_up_to(), 90);
    // What is absent may have come and gone.
    let mut history = KeyHistory::new(view(9, None, None));
    assert_eq!(history.compare(&view(90, None, None)), Comparison::Same);
    assert_eq!(history.reported_up_to(), 9);
}

#[test]
fn a_read_is_ahead_until_the_watches_have_delivered_what_it_shows() {
    let mut history = KeyHistory::new(view(9, Some(5), Some(5)));
    let read = view(12, None, Some(5));
    assert_eq!(history.compare(&read), Comparison::Ahead);
    assert!(!history.has_reached(&read));
    history.take(change(ElectionKey::Leader, 11, false));
    history.settle(ElectionKey::Acting, 11, Some(&entry(5)));
    assert!(matches!(history.next(), NextReport::Report(_)));
    assert!(history.has_reached(&read));
}

#[test]
fn a_lower_revision_or_another_cluster_is_another_history() {
    let mut history = KeyHistory::new(view(9, None, None));
    assert_eq!(history.compare(&view(8, None, None)), Comparison::WentBack);
    let other = View {
        cluster_id: 2,
        ..view(20, None, None)
    };
    assert_eq!(history.compare(&other), Comparison::WentBack);
}

#[test]
fn a_key_without_a_lease_leads_nobody_and_an_unreadable_acting_key_still_counts() {
    let mut by_hand = view(9, Some(5), None);
    by_hand.leader.as_mut().unwrap().lease = None;
    let situation = ElectionState::of(&by_hand);
    assert_eq!(situation.leader, None);
    assert_eq!(situation.situation, Situation::Blocked(ElectionKey::Leader));
    assert!(matches!(
        situation.without_lease,
        Some((ElectionKey::Leader, _))
    ));

    let mut unreadable = view(9, None, Some(5));
    unreadable.acting.as_mut().unwrap().value = b"\xff{".as_slice().into();
    assert!(ElectionState::of(&unreadable).acting.is_some());
}

#[test]
fn the_address_is_that_of_the_leaders_own_term() {
    // A client overwrote `leader` with the very lease.
    let leader = ElectionState::of(&view(9, Some(6), Some(5)))
        .leader
        .unwrap();
    assert!(!leader.acts && leader.address.is_none() && leader.since.is_none());
}
