//! What the tests of the page share: replicas that serve it, what it has shown, and how it looks.

use super::browser::{Browser, View};
use super::daemon::{Daemon, command};
use super::etcd::Etcd;
use super::process::Process;
use super::served::address;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// How soon the page shows what happens, on a machine that is busy with other tests.
pub const PROMPT: Duration = Duration::from_millis(500);

/// The TTL of these elections: long enough that no term is lost while browsers occupy the machine.
pub const TTL: Duration = Duration::from_secs(6);

/// The widths of a phone, a tablet and a screen.
const WIDTHS: [u32; 3] = [360, 800, 1440];

/// Returns a replica that serves the page, and advertises its address.
pub fn replica(name: &str, endpoint: &str, address: &str) -> Command {
    let mut command = command();
    command.args(["--name", name, "--etcd", endpoint, "--log-format", "json"]);
    command.args(["--ttl", &format!("{}s", TTL.as_secs()), "--http", address]);
    command.args(["--advertise", &format!("http://{address}")]);
    command
}

/// Starts three of them. Returns them and their addresses.
pub fn three(etcd: &Etcd) -> (Vec<Daemon>, Vec<String>) {
    let addresses: Vec<_> = (1..=3).map(|_| address()).collect();
    let numbered = (1..=3).zip(&addresses);
    let start = |(number, at): (i32, &String)| {
        let name = format!("server{number}");
        Daemon::spawn(&name, replica(&name, &etcd.endpoint(), at))
    };
    (numbered.map(start).collect(), addresses)
}

impl Etcd {
    /// Starts a program that prints each change of the key `leader`; returns it once it runs.
    pub fn watch_leader_key(&self) -> Process {
        let mut watch = Command::new(self.binary.with_file_name("etcdctl"));
        watch.env("ETCDCTL_API", "3").stdin(Stdio::null());
        watch.args(["--endpoints", &self.endpoint(), "watch"]);
        watch.arg(format!("--rev={}", self.revision() + 1));
        // Up to what sorts between `leader-…` and `leader/…`.
        watch.args(["leader", "leader."]);
        let mut watch = Process::spawn("etcdctl watch", watch);
        self.put("leader-is-watched", b"now", None);
        watch.wait_for_next("leader-is-watched");
        watch
    }
}

/// Returns the expression for the page showing that this replica leads.
pub fn shows_leader(name: &str) -> String {
    format!(
        "get('#state').dataset.state === 'led' && get('#leader-name').textContent.trim() === {name:?}"
    )
}

/// Returns the expression for the text of the changes that contain this: an empty list counts as nothing.
pub fn shows_change(text: &str) -> String {
    format!(
        "((found) => found.length > 0 && found)(
            all('#changes li').map((it) => it.textContent).filter((it) => it.includes({text:?})))"
    )
}

/// Waits until the page shows this many candidates.
pub fn wait_for_candidates(browser: &Browser, count: usize) {
    browser.wait_for(&format!(
        "all('#candidates [data-seat]').length === {count}"
    ));
}

/// What the page showed from some moment on.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Since when.
    pub at: SystemTime,
    /// The state of the election.
    pub state: String,
    /// The name in the place of the leader's.
    pub leader: String,
    /// Whether etcd responds.
    pub answers: String,
    /// Whether the page is connected to its server.
    pub connected: String,
}

/// Makes the page record what it shows from now on.
pub fn record(browser: &Browser) {
    browser.execute(
        "const data = (id) => document.getElementById(id).dataset;
        window.shown = [];
        const look = () => {
            const now = [data('state').state, document.getElementById('leader-name').textContent.trim(),
                data('etcd').answers, data('connection').connected];
            if (String(now) !== String(window.shown.at(-1)?.slice(1))) window.shown.push([Date.now(), ...now]);
        };
        new MutationObserver(look).observe(document,
            {subtree: true, childList: true, attributes: true, characterData: true});
        look();",
    );
}

/// Returns what the page has shown since [`record`], the oldest first.
pub fn recorded(browser: &Browser) -> Vec<Shown> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = |it: &Value| Shown {
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(it[0].as_u64().expect("a time")),
        state: text(&it[1]),
        leader: text(&it[2]),
        answers: text(&it[3]),
        connected: text(&it[4]),
    };
    let all = browser.value("window.shown");
    all.as_array()
        .expect("an array")
        .iter()
        .map(shown)
        .collect()
}

/// Returns the time of day of an instant.
pub fn time_of_day(instant: Instant) -> SystemTime {
    SystemTime::now() - instant.elapsed()
}

/// Finds the texts whose contrast is too low, each with its ratio. Colours below an element count as far as they shine
/// through: both a colour and an element may be translucent.
const LOW_CONTRASTS: &str = r"
    document.getAnimations().forEach((it) => it.effect.getTiming().iterations < Infinity && it.finish());
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const parse = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
        return {channels: [red, green, blue], alpha: alpha / 255};
    };
    const mix = (top, bottom, share) => top.map((it, at) => it * share + bottom[at] * (1 - share));
    const cover = (color, below) => mix(color.channels, below, color.alpha);
    const see = (path, ink, below) => {
        const [node, ...inner] = path;
        const style = getComputedStyle(node);
        const own = cover(parse(style.backgroundColor), below);
        const content = inner.length ? see(inner, ink, own) : ink ? cover(ink, own) : own;
        return mix(content, below, Number(style.opacity));
    };
    const luminance = (channels) => {
        const [red, green, blue] = channels.map((it) => it / 255)
            .map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const contrast = (node) => {
        const path = [];
        for (let it = node; it; it = it.parentElement) path.unshift(it);
        const ink = parse(getComputedStyle(node).color);
        const [one, other] = [see(path, ink, [255, 255, 255]), see(path, null, [255, 255, 255])].map(luminance);
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    };
    const hasText = (node) => [...node.childNodes].some((it) => it.nodeType === Node.TEXT_NODE && it.data.trim());
    return [...document.body.querySelectorAll('*')]
        .filter((it) => hasText(it) && it.checkVisibility({visibilityProperty: true}))
        .map((it) => [contrast(it), it.outerHTML.slice(0, 200)])
        .filter(([ratio]) => ratio < 4.5);";

/// Finds the texts that reach beyond the window, or beyond an element that cuts off what is outside of it.
const CUT_OFF: &str = r"
    const clips = (node) => ['hidden', 'clip'].includes(getComputedStyle(node).overflowX);
    const limits = (node) => {
        let [left, right] = [0, innerWidth];
        for (let it = node; it; it = it.parentElement) {
            // Only for screen readers.
            if (getComputedStyle(it).clipPath !== 'none') return null;
            if (!clips(it)) continue;
            const box = it.getBoundingClientRect();
            [left, right] = [Math.max(left, box.left), Math.min(right, box.right)];
        }
        return [left, right];
    };
    const isCutOff = (text) => {
        const range = document.createRange();
        range.selectNodeContents(text);
        const within = limits(text.parentElement);
        return within && [...range.getClientRects()].some((it) => it.left < within[0] - 1 || it.right > within[1] + 1);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.data.trim() && text.parentElement.checkVisibility() && isCutOff(text)) found.push(text.data);
    }
    return found;";

/// Checks that nothing is wider than the window or cut off, that all text has enough contrast, and that everything
/// that can be followed or pressed has an accessible name.
///
/// # Panics
/// If that is not so.
pub fn check_look(browser: &Browser) {
    for is_dark in [false, true] {
        for width in WIDTHS {
            browser.set_view(View {
                width,
                is_dark,
                has_motion: false,
            });
            let sizes = browser.value("[document.documentElement.scrollWidth, innerWidth]");
            let [content, window] = [0, 1].map(|number| sizes[number].as_u64());
            assert!(content.is_some() && content <= window, "{sizes}");
            assert_eq!(window, Some(width.into()));
            let cut_off = browser.execute(CUT_OFF);
            assert_eq!(cut_off, Value::Array(Vec::new()), "width: {width}");
            let low = browser.execute(LOW_CONTRASTS);
            assert_eq!(low, Value::Array(Vec::new()), "dark: {is_dark}");
        }
    }
    browser.set_view(View::DESKTOP);
    for control in browser.controls() {
        assert!(!control.label.trim().is_empty(), "{control:?}");
    }
}

/// Saves pictures of the page: light and dark, on a screen and on a phone.
pub fn save_screenshots(browser: &Browser, name: &str) {
    for (scheme, is_dark) in [("light", false), ("dark", true)] {
        for width in [360, 1440] {
            let view = View {
                width,
                is_dark,
                has_motion: true,
            };
            browser.save_screenshot(&format!("{name}-{width}-{scheme}"), view);
        }
    }
    browser.set_view(View::DESKTOP);
}
