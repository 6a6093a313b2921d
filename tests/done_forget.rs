//! `done --forget`: removes the record of a job, so that the job runs again.

use std::fs::File;
use support::done::{COMPLETED, RECORD, done, wait_for_request};
use support::etcd::{Etcd, on_each_etcd};
use support::operator::{at, run};
use support::poll_until;
use support::proxy::{Call, Link, Proxy};

#[test]
fn a_forgotten_job_has_no_record_any_more_and_the_others_stay() {
    on_each_etcd(|etcd| {
        for key in [
            "leader/done/a%2Fb",
            "leader/done/a",
            "leader/done/-x",
            "other/done/a",
        ] {
            etcd.put(key, RECORD, None);
        }
        for (id, key) in [("a/b", "leader/done/a%2Fb"), ("-x", "leader/done/-x")] {
            let forgotten = done(&etcd, &["--forget", id]);
            assert_eq!((forgotten.code, forgotten.err), (0, Vec::new()));
            let expected = format!(
                "The record of '{id}' is removed, so that the job runs again; it was completed {}.",
                COMPLETED.join(", ")
            );
            assert_eq!(forgotten.out, [expected]);
            assert_eq!(etcd.key(key), None);
            let absent = done(&etcd, &["--forget", id]);
            assert_eq!((absent.code, absent.err), (3, Vec::new()));
            let expected = format!("There is no record of '{id}': the key '{key}' does not exist.");
            assert_eq!(absent.out, [expected]);
        }
        for key in ["leader/done/a", "other/done/a"] {
            assert_eq!(etcd.key(key).unwrap().value, RECORD, "{key}");
        }
    });
}

#[test]
fn a_removal_whose_response_is_lost_is_found_to_be_done() {
    on_each_etcd(|etcd| {
        etcd.put("leader/done/x", RECORD, None);
        let proxy = Proxy::start(&etcd.endpoint(), Link::HoldResponses(Call::RemoveRecord));
        let forget = at(
            &proxy.endpoint(),
            &["done", "--forget", "x", "--timeout", "30s"],
        );
        let forgetting = std::thread::spawn(move || run(forget));
        wait_for_request(&proxy, "it removes the record");
        poll_until("etcd has removed it", || {
            etcd.key("leader/done/x").is_none().then_some(())
        });
        // The response, which is held back, is lost with its connection.
        proxy.set(Link::Cut);
        proxy.set(Link::Open);
        let forgotten = forgetting.join().unwrap();
        assert_eq!((forgotten.code, forgotten.err), (0, Vec::new()));
        assert!(
            forgotten.out[0].starts_with("The record of 'x' is removed"),
            "{:?}",
            forgotten.out
        );

        etcd.put("leader/done/x", RECORD, None);
        proxy.set(Link::HoldResponses(Call::RemoveRecord));
        let unknown = run(at(
            &proxy.endpoint(),
            &["done", "--forget", "x", "--timeout", "1s"],
        ));
        assert_eq!((unknown.code, unknown.out), (1, Vec::new()));
        let expected = "error: it is not known whether the record 'leader/done/x' was removed; look at the list \
                        before you repeat the command: no usable response within 1s: etcd at ";
        assert!(unknown.err[0].starts_with(expected), "{:?}", unknown.err);
        proxy.set(Link::Open);
        let repeated = run(at(&proxy.endpoint(), &["done", "--forget", "x"]));
        assert_eq!(repeated.code, 3, "{:?}", repeated.err);
    });
}

#[test]
fn a_record_that_changes_while_it_is_to_be_removed_is_kept() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let forget_while = |change: &dyn Fn()| {
            etcd.put("leader/done/x", RECORD, None);
            proxy.set(Link::HoldRequests(Call::RemoveRecord));
            let forget = at(
                &proxy.endpoint(),
                &["done", "--forget", "x", "--timeout", "30s"],
            );
            let forgetting = std::thread::spawn(move || run(forget));
            wait_for_request(&proxy, "it removes the record");
            change();
            proxy.set(Link::Open);
            forgetting.join().unwrap()
        };
        let new = br#"{"name":"server2","token":9}"#;
        let replaced = forget_while(&|| etcd.put("leader/done/x", new, None));
        assert_eq!((replaced.code, replaced.out), (1, Vec::new()));
        let expected = "error: the record 'leader/done/x' was replaced while it was to be removed, and the \
                        new one is kept: 'x' was completed by 'server2', at an unknown time, token 9; \
                        repeat the command if that is to be removed too";
        assert_eq!(replaced.err, [expected]);
        assert_eq!(etcd.key("leader/done/x").unwrap().value, new);

        let removed = forget_while(&|| drop(etcd.etcdctl(&["del", "leader/done/x"])));
        assert_eq!((removed.code, removed.err), (0, Vec::new()));
        assert_eq!(etcd.key("leader/done/x"), None);
    });
}

#[test]
fn a_removal_that_cannot_be_printed_is_reported_as_done() {
    let etcd = Etcd::newest();
    etcd.put("leader/done/x", RECORD, None);
    let mut forget = at(&etcd.endpoint(), &["done", "--forget", "x"]);
    forget.stdout(File::create("/dev/full").unwrap());
    let output = forget.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "error: the record 'leader/done/x' is removed, but that could not be printed: ";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(etcd.key("leader/done/x"), None);
}
