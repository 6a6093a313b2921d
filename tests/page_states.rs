//! The page, as a browser shows it, in other states: unhealthy candidates, hostile names, outages, observers.

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};
use support::browser::{Browser, Server};
use support::daemon::{Daemon, FOLLOWER, LEADER};
use support::etcd::Etcd;
use support::http::{get_json, wait_for_code};
use support::operator::at;
use support::page::{
    PROMPT, TTL, check_look, record, recorded, replica, save_screenshots, shows_leader,
    wait_for_candidates,
};
use support::played::Played;
use support::poll_until;
use support::proxy::{Link, Proxy};
use support::served::address;

/// What a hostile name may contain: markup, quotes, control characters, and those that reverse the text after them.
const HOSTILE: &str = "<script>window.pwned = 1</script><img src=x onerror=window.pwned=1>\"'`&amp;\u{202e}\u{1b}[31m";

/// Starts a leader and a follower that serve the page. Returns them with their addresses.
fn pair(etcd: &Etcd) -> [(Daemon, String); 2] {
    [("server1", LEADER), ("server2", FOLLOWER)].map(|(name, role)| {
        let address = address();
        let mut started = Daemon::spawn(name, replica(name, &etcd.endpoint(), &address));
        started.wait_for_next(role);
        (started, address)
    })
}

/// Starts an observer that serves the page.
fn observer(endpoint: &str) -> (Daemon, String) {
    let address = address();
    let command = at(endpoint, &["observe", "--http", &address]);
    let observer = Daemon::spawn("observer", command);
    wait_for_code(&address, "/", 200);
    (observer, address)
}

#[test]
fn an_unhealthy_candidate_is_shown_with_its_reason_until_it_is_healthy() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("maintenance");
    fs::write(&file, "").unwrap();
    let health = format!("test ! -e {} || exit 7", file.display());
    let [first, second] = [address(), address()];
    let start = |name: &str, health: &str, address: &str| {
        let mut command = replica(name, &etcd.endpoint(), address);
        command.args(["--health-command", health]);
        command.args(["--health-interval", "200ms", "--health-rise", "1"]);
        Daemon::spawn(name, command)
    };
    let mut leader = start("server1", "true", &first);
    leader.wait_for_next(LEADER);
    let _second = start("server2", &health, &second);
    let browser = Browser::open(&first);
    browser.wait_for_element("#candidates [data-healthy=false]");
    browser.wait_for_element("#candidates [data-leads=true][data-healthy=true]");
    let text = browser.text("#candidates [data-healthy=false]");
    assert!(
        text.contains("server2") && text.contains("exit code 7"),
        "{text}"
    );
    // Who is not healthy is not next.
    assert_eq!(browser.value("get('[data-successor=true]')"), Value::Null);
    check_look(&browser);
    save_screenshots(&browser, "unhealthy");

    fs::remove_file(&file).unwrap();
    browser.wait_for("all('#candidates [data-healthy=true]').length === 2");
    browser.wait_for_element("#candidates [data-successor=true]");
    browser.close(Server::WasThere);
}

#[test]
fn hostile_names_are_shown_as_text_and_scripts_are_no_links() {
    let etcd = Etcd::newest();
    let (_observer, address) = observer(&etcd.endpoint());
    let browser = Browser::open(&address);
    let fields = json!({ "address": "javascript:alert(1)", "healthy": false, "reason": HOSTILE });
    let [leader, candidate] = [0, 1].map(|number| Played::unseated(&etcd, number, HOSTILE));
    leader.publish(&fields);
    candidate.publish(&fields);
    leader.lead_with(&fields);
    browser.wait_for_element("#state[data-state=led]");
    wait_for_candidates(&browser, 2);
    let shown = browser.text("#leader-name");
    let markup = &HOSTILE[..HOSTILE.find('\u{202e}').unwrap()];
    assert!(shown.contains(markup), "{shown}");
    let names = browser.value("all('#candidates .name').map((it) => it.textContent)");
    for name in names.as_array().unwrap() {
        assert!(name.as_str().unwrap().contains(markup), "{names}");
    }
    let text = browser.value("document.body.textContent + document.title");
    let text = text.as_str().unwrap();
    for hidden in ['\u{202e}', '\u{1b}'] {
        assert!(!text.contains(hidden), "{text}");
    }
    assert!(text.contains("202e"), "it is shown as an escape");
    assert_eq!(browser.text("#leader-address"), "javascript:alert(1)");
    // Neither the leader nor the candidates have an address that can be followed.
    assert_eq!(browser.value("all('a').map((it) => it.href)"), json!([]));
    assert_eq!(browser.value("all('main script, img').length"), 0);
    assert_eq!(browser.value("window.pwned"), Value::Null);
    check_look(&browser);
    save_screenshots(&browser, "hostile");

    browser.close(Server::WasThere);
}

#[test]
fn each_step_from_one_leader_to_the_next_is_a_state_of_its_own() {
    let etcd = Etcd::newest();
    let (_observer, address) = observer(&etcd.endpoint());
    let browser = Browser::open(&address);
    browser.wait_for_element("#state[data-state=vacant]");
    let old = Played::seated(&etcd, 0, "server1");
    let next = Played::seated(&etcd, 1, "server2");
    old.lead();
    browser.wait_for(&shows_leader("server1"));
    wait_for_candidates(&browser, 2);
    etcd.etcdctl(&["del", "leader"]);
    browser.wait_for_element("#state[data-state=ending]");
    let announced = browser.text("#announcer");
    assert_eq!(announced, "Nobody leads; server1 may still be acting");
    check_look(&browser);
    save_screenshots(&browser, "during-a-fail-over");
    old.withdraw();
    browser.wait_for_element("#state[data-state=vacant]");
    next.lead();
    browser.wait_for(&shows_leader("server2"));
    assert_eq!(browser.text("#announcer"), "server2 leads");
    wait_for_candidates(&browser, 1);
    save_screenshots(&browser, "after-a-fail-over");
    // Such a key, without a lease, stays.
    etcd.put("leader", b"stuck", None);
    browser.wait_for_element("#state[data-state=blocked]");
    check_look(&browser);
    save_screenshots(&browser, "blocked");
    browser.close(Server::WasThere);
}

#[test]
fn an_etcd_that_does_not_respond_is_shown_and_the_leader_becomes_unknown() {
    let etcd = Etcd::newest();
    let [(_leader, _), (_follower, address)] = pair(&etcd);
    let browser = Browser::open(&address);
    browser.wait_for(&shows_leader("server1"));
    browser.wait_for_element("#etcd[data-answers=true]");
    record(&browser);
    let frozen = SystemTime::now();
    etcd.freeze();
    browser.wait_for_element("#etcd[data-answers=false]");
    browser.wait_for_element("#state[data-state=unknown]");
    // Nobody is said to lead, or to lead next.
    browser.wait_for("all('#candidates [data-seat]').length === 0");
    // There is nothing left to count down.
    browser.wait_for("get('#ring').dataset.fraction === undefined");
    check_look(&browser);
    save_screenshots(&browser, "etcd-frozen");
    etcd.thaw();
    browser.wait_for_element("#etcd[data-answers=true]");
    browser.wait_for_element("#state[data-state=led]");
    wait_for_candidates(&browser, 2);
    let shown = recorded(&browser);
    let unknown = shown.iter().find(|it| it.state == "unknown").expect("it");
    assert_eq!(unknown.answers, "false", "{shown:#?}");
    // What a follower knows counts for a TTL.
    assert!(
        unknown.at <= frozen + TTL + PROMPT,
        "{frozen:?}: {shown:#?}"
    );
    assert!(shown.iter().all(|it| it.connected == "true"), "{shown:#?}");
    browser.close(Server::WasThere);
}

#[test]
fn a_page_that_is_opened_while_nothing_is_known_is_complete_once_etcd_responds() {
    let etcd = Etcd::newest();
    let _replicas = pair(&etcd);
    let way = Proxy::start(&etcd.endpoint(), Link::Open);
    let (_observer, address) = observer(&way.endpoint());
    poll_until("it knows both candidates", || {
        let candidates = get_json(&address, "/status")["candidates"].take();
        (candidates.as_array()?.len() == 2).then_some(())
    });
    way.set(Link::Cut);
    poll_until("it knows nothing", || {
        let status = get_json(&address, "/status");
        status["leader_unknown_because"].is_string().then_some(())
    });
    let browser = Browser::open(&address);
    browser.wait_for_element("#state[data-state=unknown]");
    way.set(Link::Open);
    browser.wait_for(&shows_leader("server1"));
    wait_for_candidates(&browser, 2);
    browser.close(Server::WasThere);
}

#[test]
fn a_replica_that_is_gone_is_shown_at_once_and_updated_after_its_return() {
    let etcd = Etcd::newest();
    let [(_leader, other), (mut follower, address)] = pair(&etcd);
    let browser = Browser::open(&address);
    browser.wait_for(&shows_leader("server1"));
    wait_for_candidates(&browser, 2);
    browser.wait_for_element("#connection[data-connected=true]");
    record(&browser);
    let killed = SystemTime::now();
    follower.crash();
    browser.wait_for_element("#connection[data-connected=false]");
    let shown = recorded(&browser);
    let noticed = shown.last().expect("it").at;
    assert!(
        noticed <= killed + Duration::from_secs(1),
        "{killed:?}: {shown:#?}"
    );
    let links = browser.value("all('#others a').map((it) => it.href)");
    assert_eq!(links, json!([format!("http://{other}/")]));
    // What was known is still there.
    assert_eq!(browser.text("#leader-name"), "server1");
    check_look(&browser);
    save_screenshots(&browser, "disconnected");

    let _follower = Daemon::spawn("server2", replica("server2", &etcd.endpoint(), &address));
    browser.wait_for_element("#connection[data-connected=true]");
    browser.wait_for(&shows_leader("server1"));
    browser.wait_for("!all('#others a').some((it) => it.checkVisibility())");
    // It is as live as before.
    etcd.etcdctl(&["del", "leader"]);
    browser.wait_for("all('#terms [data-token]').length === 2");
    browser.close(Server::WasAway);
}

#[test]
fn an_observer_shows_the_leader_and_the_candidates() {
    let etcd = Etcd::newest();
    let (_observer, address) = observer(&etcd.endpoint());
    let browser = Browser::open(&address);
    browser.wait_for_element("#state[data-state=vacant]");
    let [(mut leader, url), _follower] = pair(&etcd);
    browser.wait_for(&shows_leader("server1"));
    wait_for_candidates(&browser, 2);
    browser.wait_for_element("#candidates [data-leads=true]");
    let href = browser.value("get('#leader-address a').href");
    assert_eq!(href, format!("http://{url}/"));
    browser.wait_for("Number(get('#ring').dataset.fraction) > 0");
    browser.wait_for("all('#terms [data-token]').length === 1");
    check_look(&browser);
    save_screenshots(&browser, "observer");
    leader.crash();
    browser.wait_for(&shows_leader("server2"));
    browser.wait_for("all('#terms [data-token]').length === 2");
    browser.close(Server::WasThere);
}

#[test]
fn a_page_that_gave_way_to_newer_ones_watches_again_when_it_is_asked_to() {
    let etcd = Etcd::newest();
    let [(_leader, _), (_follower, address)] = pair(&etcd);
    let browser = Browser::open(&address);
    browser.wait_for(&shows_leader("server1"));
    let newer: Vec<_> = (0..32).map(|_| listen(&address)).collect();
    browser.wait_for_element("#connection[data-connected=gave-way]");
    browser.wait_for("get('#again').checkVisibility()");
    check_look(&browser);
    save_screenshots(&browser, "gave-way");
    drop(newer);
    browser.execute("document.getElementById('again').click()");
    browser.wait_for_element("#connection[data-connected=true]");
    browser.wait_for(&shows_leader("server1"));
    browser.wait_for("!get('#again').checkVisibility()");
    browser.close(Server::WasThere);
}

/// Connects to the events, and waits until they begin.
fn listen(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}
