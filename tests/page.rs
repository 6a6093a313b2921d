//! The page of `--http`, as a browser shows it, while the leader changes.

use rustix::process::Signal;
use serde_json::Value;
use support::browser::{Browser, Server};
use support::daemon::{Daemon, LEADER, wait_for_next_roles};
use support::etcd::Etcd;
use support::history::terms;
use support::operator::{at, run};
use support::page::{
    PROMPT, check_look, record, recorded, save_screenshots, shows_change, shows_leader, three,
    time_of_day, wait_for_candidates,
};
use support::poll_until;
use support::proxy::{Link, Proxy};
use support::quick::SECOND;
use support::served::address;
use support::watched::{self, check_led_on};

/// Waits until the page shows the term with this token; returns its text.
fn wait_for_term(browser: &Browser, token: u64) -> String {
    let text = browser.wait_for(&format!(
        "get('#terms [data-token=\"{token}\"]')?.textContent"
    ));
    text.as_str().expect("text").to_owned()
}

/// Checks that the page shows the same gap before a term as `history`.
fn check_gap(etcd: &Etcd, browser: &Browser, token: u64) {
    let term = poll_until("the term is recorded", || {
        let is_it = |term: &Value| term["token"] == token && term["gap"].is_number();
        terms(etcd).into_iter().find(is_it)
    });
    let gap = (term["gap"].as_f64().expect("a number") * 1000.0).round();
    let shown = browser.wait_for(&format!(
        "get('#terms [data-token=\"{token}\"]')?.dataset.gapMs"
    ));
    assert_eq!(shown, gap.to_string(), "{term}");
}

/// Waits until a replica has begun its first term; returns the token.
fn token(replica: &Daemon) -> u64 {
    let token = replica.wait_for_any(LEADER).field("token");
    token.expect("a token").parse().expect("a number")
}

#[test]
fn a_killed_leader_is_replaced_on_the_page_at_once_and_the_gap_is_shown() {
    let etcd = Etcd::newest();
    let (mut replicas, addresses) = three(&etcd);
    let leader = wait_for_next_roles(&mut replicas);
    let old = replicas[leader].name.clone();
    let browser = Browser::open(&addresses[(leader + 1) % 3]);
    browser.wait_for(&shows_leader(&old));
    wait_for_candidates(&browser, 3);
    let url = format!("http://{}", addresses[leader]);
    assert!(browser.text("#leader-address").contains(&url));
    let first = token(&replicas[leader]);
    assert!(browser.text("#leader-token").contains(&first.to_string()));
    check_look(&browser);
    save_screenshots(&browser, "before-a-crash");

    let mut watch = etcd.watch_leader_key();
    record(&browser);
    replicas[leader].crash();
    watch.wait_for_next("DELETE");
    let gone = time_of_day(watch.last("DELETE").at);
    let next = poll_until("another replica leads", || {
        let is_next = |number: &usize| *number != leader && replicas[*number].leads();
        (0..3).find(is_next)
    });
    browser.wait_for(&shows_leader(&replicas[next].name));
    let shown = recorded(&browser);
    let change = shown
        .iter()
        .find(|it| it.state != "led" || it.leader != old);
    let change = change.unwrap_or_else(|| panic!("{shown:#?}"));
    assert!(change.at <= gone + PROMPT, "{gone:?}: {shown:#?}");

    let second = token(&replicas[next]);
    wait_for_term(&browser, second);
    check_gap(&etcd, &browser, second);
    browser.wait_for_element(&format!(
        "#terms [data-token=\"{first}\"][data-state=cut_off]"
    ));
    wait_for_candidates(&browser, 2);
    browser.wait_for(&shows_change(&replicas[next].name));
    check_look(&browser);
    save_screenshots(&browser, "after-a-crash");
    browser.close(Server::WasThere);
}

#[test]
fn a_hand_over_to_a_chosen_candidate_is_shown_with_its_gap() {
    let etcd = Etcd::newest();
    let (mut replicas, addresses) = three(&etcd);
    let leader = wait_for_next_roles(&mut replicas);
    // The page of the leader itself.
    let browser = Browser::open(&addresses[leader]);
    browser.wait_for(&shows_leader(&replicas[leader].name));
    wait_for_candidates(&browser, 3);
    browser.wait_for("all('#candidates [data-leads=true]').length === 1");
    browser.wait_for("all('#candidates [data-successor=true]').length === 1");
    browser.wait_for("Number(get('#ring').dataset.fraction) > 0");
    assert!(browser.text("#replica-role").contains("leader"));
    let successor = browser.text("#candidates [data-successor=true] .name");
    let is_third = |name: &&String| **name != replicas[leader].name && **name != successor;
    let chosen = replicas.iter().map(|it| &it.name).find(is_third);
    let chosen = chosen.expect("a third one").clone();

    let stepped = run(at(&etcd.endpoint(), &["step-down", "--to", &chosen]));
    assert_eq!(stepped.code, 0, "{:?}", stepped.err);
    browser.wait_for(&shows_leader(&chosen));
    let next = replicas.iter().find(|it| it.name == chosen).expect("it");
    let second = token(next);
    let text = wait_for_term(&browser, second);
    assert!(text.contains("handed over"), "{text}");
    check_gap(&etcd, &browser, second);
    browser.wait_for("get('#replica-role').textContent.includes('follower')");
    browser.wait_for(&shows_change(&chosen));
    check_look(&browser);
    save_screenshots(&browser, "after-a-hand-over");
    browser.close(Server::WasThere);
}

/// Two replicas with a fail-over limit, and a browser that shows the page of the follower.
struct Pair {
    leader: Daemon,
    follower: Daemon,
    /// The way to what the leader serves.
    way: Proxy,
    browser: Browser,
}

impl Pair {
    fn start(etcd: &Etcd) -> Self {
        let [first, second] = [address(), address()];
        let way = Proxy::start(&first, Link::Open);
        let command = watched::served("server1", &etcd.endpoint(), SECOND, &first, &way.endpoint());
        let mut leader = Daemon::spawn("server1", command);
        leader.wait_for_next(LEADER);
        let mut follower = watched::start("server2", etcd, SECOND, &second);
        follower.wait_for_next_start(watched::WATCHED);
        let browser = Browser::open(&second);
        browser.wait_for(&shows_leader("server1"));
        Self {
            leader,
            follower,
            way,
            browser,
        }
    }
}

#[test]
fn a_challenge_and_its_answer_are_among_the_changes() {
    let etcd = Etcd::newest();
    let pair = Pair::start(&etcd);
    // A follower challenges a leader that it has lost sight of.
    pair.way.set(Link::Reset);
    pair.browser
        .wait_for(&shows_change("challenges the leader"));
    pair.browser.wait_for(&shows_change("has responded"));
    pair.browser.wait_for(&shows_leader("server1"));
    check_led_on(&pair.leader);
    pair.browser.close(Server::WasThere);
}

#[test]
fn a_leader_that_does_not_answer_a_challenge_is_seen_to_be_taken_over_from() {
    let etcd = Etcd::newest();
    let Pair {
        leader,
        follower,
        way: _way,
        browser,
    } = Pair::start(&etcd);
    leader.signal(Signal::STOP);
    browser.wait_for(&shows_change("challenges the leader"));
    browser.wait_for(&shows_leader("server2"));
    let text = wait_for_term(&browser, token(&follower));
    assert!(text.contains("took over"), "{text}");
    browser.wait_for(&shows_change("took over"));
    browser.wait_for("Number(get('#ring').dataset.fraction) > 0");
    check_look(&browser);
    save_screenshots(&browser, "after-a-take-over");
    browser.close(Server::WasThere);
}
