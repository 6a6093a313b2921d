//! What the commands print about candidates with a priority, and about those that are unhealthy.

use serde_json::{Value, json};
use support::daemon::Daemon;
use support::etcd::{Etcd, on_each_etcd};
use support::operator::{at, observe, run, status, wait_for_next_event};
use support::played::Played;

const NOBODY: &str = "No listed candidate can lead: all of them are unhealthy.";

/// Returns the name, the priority, the health and the reason of each candidate in an object.
fn listed(shown: &Value) -> Vec<[Value; 4]> {
    let candidates = shown["candidates"].as_array().expect("a list");
    let fields = ["name", "priority", "healthy", "reason"];
    let listed = candidates.iter();
    listed
        .map(|it| fields.map(|field| it[field].clone()))
        .collect()
}

/// Returns the lines that `status` prints about the candidates, from the first column that this test is about.
fn remarks(etcd: &Etcd) -> Vec<String> {
    let lines = run(at(&etcd.endpoint(), &["status"])).out;
    let columns = lines.iter().filter_map(|line| {
        let (_, columns) = line.split_once("since an unknown time")?;
        Some(columns.trim_start().to_owned())
    });
    columns.collect()
}

#[test]
fn status_shows_the_priority_the_health_and_why_a_candidate_is_unhealthy() {
    on_each_etcd(|etcd| {
        let leader = Played::seated(&etcd, 0, "a");
        leader.lead();
        let first = Played::seated(&etcd, 1, "b");
        let second = Played::seated(&etcd, 2, "c");
        assert_eq!(remarks(&etcd), ["leads", "", ""]);

        leader.publish(&json!({ "healthy": true }));
        first.publish(
            &json!({ "healthy": false, "reason": "the disk\u{1b}[2J is full", "priority": 5 }),
        );
        second.publish(&json!({ "priority": -12, "reason": "not shown" }));
        let (_, shown) = status(&etcd.endpoint());
        let reason = "the disk\u{1b}[2J is full";
        assert_eq!(
            listed(&shown),
            [
                [json!("a"), json!(0), json!(true), Value::Null],
                [json!("c"), json!(-12), Value::Null, json!("not shown")],
                [json!("b"), json!(5), json!(false), json!(reason)],
            ]
        );
        assert_eq!(
            remarks(&etcd),
            [
                "priority 0    leads  healthy",
                "priority -12",
                r"priority 5           unhealthy: 'the disk\u{1b}[2J is full'",
            ]
        );

        first.publish(&json!({ "healthy": false, "reason": "x".repeat(9999) }));
        let (_, shown) = status(&etcd.endpoint());
        let last = &shown["candidates"][2];
        assert_eq!(last["reason"].as_str().map(str::len), Some(255));
        assert_eq!(last["reason_is_exact"], false);
        let expected = format!("unhealthy: '{}…'", "x".repeat(255));
        assert!(remarks(&etcd)[2].ends_with(&expected));
    });
}

#[test]
fn status_says_that_nobody_can_lead_if_all_candidates_are_unhealthy() {
    on_each_etcd(|etcd| {
        let ill = json!({ "healthy": false, "reason": "no disk" });
        let [first, second] =
            [(0, "a"), (1, "b")].map(|(seat, name)| Played::seated(&etcd, seat, name));
        first.publish(&ill);
        let print = || run(at(&etcd.endpoint(), &["status"]));
        let one_can = print();
        assert_eq!(one_can.code, 3);
        assert!(
            !one_can.out.contains(&NOBODY.to_owned()),
            "{:?}",
            one_can.out
        );

        second.publish(&ill);
        let nobody_can = print();
        assert_eq!(nobody_can.code, 3);
        assert_eq!(nobody_can.out[..2], ["Nobody leads.", NOBODY]);

        // It leads until it has stopped.
        second.lead();
        let led = print();
        assert_eq!(led.code, 0);
        assert!(!led.out.contains(&NOBODY.to_owned()), "{:?}", led.out);

        etcd.etcdctl(&["del", "leader"]);
        let ending = print();
        assert_eq!(ending.code, 3);
        assert!(
            ending.out[0].contains("'b' may still be acting"),
            "{:?}",
            ending.out
        );
        assert_eq!(ending.out[1], NOBODY);
    });
}

#[test]
fn observe_reports_who_becomes_unhealthy_and_who_is_healthy_again() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let first = Played::seated(&etcd, 0, "a");
        let second = Played::seated(&etcd, 1, "b");
        let mut observer = observe("observer", &endpoint);
        let mut reader = Daemon::spawn("reader", at(&endpoint, &["observe"]));
        let mut next = |end: &str| {
            let end = format!("Z {end}");
            reader.wait_for_next_line(&end, |line| line.text().ends_with(&end));
            listed(&wait_for_next_event(&mut observer, "candidates"))
        };
        next("2 candidates: 'a', 'b'.");

        first.publish(&json!({ "healthy": false, "reason": "no disk" }));
        let shown = next("'a' is unhealthy; 2 candidates: 'b', 'a' (unhealthy: 'no disk').");
        let ill = [json!("a"), json!(0), json!(false), json!("no disk")];
        assert_eq!(shown[1], ill);

        second.publish(&json!({ "healthy": false }));
        next(&format!(
            "'b' is unhealthy; 2 candidates: 'a' (unhealthy: 'no disk'), 'b' (unhealthy). {NOBODY}"
        ));
        first.publish(&json!({ "healthy": true }));
        let shown = next("'a' is healthy again; 2 candidates: 'a' (healthy), 'b' (unhealthy).");
        assert_eq!(shown[0], [json!("a"), json!(0), json!(true), Value::Null]);

        let third = Played::unseated(&etcd, 2, "c");
        third.publish(&json!({ "priority": 7, "healthy": false, "reason": "\u{1b}[2J" }));
        let shown = next(
            "'c' joined; 3 candidates: 'a' (priority 0, healthy), 'c' (priority 7, unhealthy: \
             '\\u{1b}[2J'), 'b' (priority 0, unhealthy).",
        );
        let ill = [json!("c"), json!(7), json!(false), json!("\u{1b}[2J")];
        assert_eq!(shown[1], ill);
    });
}
