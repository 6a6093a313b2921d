//! A headless Chromium that shows one page, driven through chromedriver.

use super::permit::{Permit, Permits};
use super::process::Process;
use super::{PATIENCE, project};
use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::process::Command;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use ureq::http::Method;
use url::{ParseError, Url};

/// How many browsers a test program runs at once: each takes a core while it starts.
static BROWSERS: Permits = Permits::new(2);

/// A command for which the client has no function.
#[derive(Debug)]
struct Other {
    method: Method,
    /// The path below that of the session.
    path: String,
    body: Option<Value>,
}

impl WebDriverCompatibleCommand for Other {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        let session = session.expect("a session");
        base.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _url: &Url) -> (Method, Option<String>) {
        let body = self.body.as_ref().map(Value::to_string);
        (self.method.clone(), body)
    }
}

/// What expressions use to find elements.
const SELECT: &str = "const get = (selector) => document.querySelector(selector);
    const all = (selector) => [...document.querySelectorAll(selector)];";

/// How the page is shown.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The width of the window in CSS pixels.
    pub width: u32,
    /// What `prefers-color-scheme` says.
    pub is_dark: bool,
    /// What `prefers-reduced-motion` says.
    pub has_motion: bool,
}

impl View {
    /// A usual screen.
    pub const DESKTOP: Self = Self {
        width: 1440,
        is_dark: false,
        has_motion: true,
    };
}

/// An element that can be followed or pressed, as assistive technology sees it.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its HTML.
    pub html: String,
    /// Its accessible name.
    pub label: String,
}

/// A browser with a profile of its own. It and all of its processes end with it.
pub struct Browser {
    client: Client,
    runtime: Runtime,
    /// The beginning of the URLs that it may request.
    origin: String,
    // Dropped in this order: the processes use the folder, and count until they are gone.
    driver: Process,
    _folder: TempDir,
    _permit: Permit,
}

impl Browser {
    /// Starts a browser, as soon as there is room for another one, and shows the page `/` of this address.
    pub fn open(address: &str) -> Self {
        let permit = BROWSERS.acquire();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut driver = chromedriver(&folder);
        let started = "ChromeDriver was started successfully on port ";
        let line = driver.wait_for_next_start(started).message();
        let port = line[started.len()..].trim_end_matches('.');
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let capabilities = capabilities(&folder);
        builder.capabilities(capabilities.as_object().expect("an object").clone());
        let url = format!("http://127.0.0.1:{port}");
        let connect = async { timeout(PATIENCE, builder.connect(&url)).await };
        let client = runtime.block_on(connect).expect("a session in time");
        let browser = Self {
            client: client.unwrap_or_else(|error| panic!("no session: {error}")),
            runtime,
            origin: format!("http://{address}/"),
            driver,
            _folder: folder,
            _permit: permit,
        };
        browser.set_view(View::DESKTOP);
        browser.load();
        browser
    }

    /// Loads the page, anew if it is shown already.
    pub fn load(&self) {
        self.run("load the page", self.client.goto(&self.origin));
    }

    fn run<T>(&self, what: &str, command: impl Future<Output = Result<T, CmdError>>) -> T {
        self.try_run(what, command)
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    fn try_run<T>(
        &self,
        what: &str,
        command: impl Future<Output = Result<T, CmdError>>,
    ) -> Result<T, CmdError> {
        // A script may itself take as long as a test is patient.
        let limited = async { timeout(PATIENCE * 2, command).await };
        let response = self.runtime.block_on(limited);
        response.unwrap_or_else(|_| panic!("chromedriver hangs: {what}"))
    }

    fn send(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let command = Other {
            method,
            path: path.to_owned(),
            body,
        };
        self.run(path, self.client.issue_cmd(command))
    }

    /// Sends a command of the Chrome `DevTools` Protocol.
    fn send_to_devtools(&self, command: &str, parameters: &Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.send(Method::POST, "goog/cdp/execute", Some(body));
    }

    /// Shows the page like this from now on.
    pub fn set_view(&self, view: View) {
        self.set_size(view.width, 900);
        let media = |name: &str, value: &str| json!({ "name": name, "value": value });
        let scheme = if view.is_dark { "dark" } else { "light" };
        let motion = if view.has_motion {
            "no-preference"
        } else {
            "reduce"
        };
        let features = [
            media("prefers-color-scheme", scheme),
            media("prefers-reduced-motion", motion),
        ];
        let parameters = json!({ "media": "", "features": features });
        self.send_to_devtools("Emulation.setEmulatedMedia", &parameters);
    }

    // A real window cannot be as narrow as a phone.
    fn set_size(&self, width: u32, height: u32) {
        let parameters =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.send_to_devtools("Emulation.setDeviceMetricsOverride", &parameters);
    }

    /// Runs JavaScript; returns what it returns.
    pub fn execute(&self, script: &str) -> Value {
        self.run(script, self.client.execute(script, Vec::new()))
    }

    /// Returns the value of a JavaScript expression, in which `get` and `all` find elements by their selector.
    pub fn value(&self, expression: &str) -> Value {
        self.execute(&format!("{SELECT} return {expression};"))
    }

    /// Returns the text of the element with this selector.
    pub fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("get({selector:?})?.textContent"));
        let text = text.as_str();
        text.unwrap_or_else(|| panic!("there is no {selector}"))
            .trim()
            .to_owned()
    }

    /// Looks now and after every change of the page until such an expression is neither false nor null; returns its
    /// value.
    ///
    /// # Panics
    /// When that takes longer than [`PATIENCE`].
    pub fn wait_for(&self, expression: &str) -> Value {
        let script = format!(
            "{SELECT}
            const done = arguments[arguments.length - 1];
            const look = () => {expression};
            const first = look();
            if (first) return done(first);
            const observer = new MutationObserver(() => {{
                const found = look();
                if (!found) return;
                observer.disconnect();
                done(found);
            }});
            observer.observe(document,
                {{subtree: true, childList: true, attributes: true, characterData: true}});"
        );
        let found = self.client.execute_async(&script, Vec::new());
        let error = match self.try_run(expression, found) {
            Ok(found) => return found,
            Err(error) => error,
        };
        let page = self.value("document.body.innerText");
        let page = page.as_str().unwrap_or_default();
        panic!("{expression}: {error}; the page shows:\n{page}");
    }

    /// Waits for an element with this selector.
    pub fn wait_for_element(&self, selector: &str) {
        self.wait_for(&format!("get({selector:?}) !== null"));
    }

    /// Saves a picture of the whole page as `target/page/NAME.png`.
    pub fn save_screenshot(&self, name: &str, view: View) {
        self.set_view(view);
        let height = self.value("document.documentElement.scrollHeight");
        let height = height.as_u64().and_then(|height| height.try_into().ok());
        self.set_size(view.width, height.expect("a height"));
        let picture = self.run("take a screenshot", self.client.screenshot());
        self.set_view(view);
        let folder = project("target/page");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{name}.png")), picture).expect("a file");
    }

    /// Returns the links and buttons that are shown.
    pub fn controls(&self) -> Vec<Control> {
        let controls = self.value(
            "all('a, button, summary, [tabindex], [role=button]')
                .filter((it) => it.checkVisibility()).map((it) => [it, it.outerHTML])",
        );
        let controls = controls.as_array().expect("an array").iter();
        let control = |pair: &Value| {
            // An object with one member, whose name means that this is an element's id.
            let mut ids = pair[0].as_object().expect("an element").values();
            let id = ids.next().and_then(Value::as_str).expect("an id");
            let label = self.send(Method::GET, &format!("element/{id}/computedlabel"), None);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            Control {
                html: text(&pair[1]),
                label: text(&label),
            }
        };
        controls.map(control).collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.send(Method::POST, "se/log", Some(json!({ "type": kind })));
        entries.as_array().expect("an array").clone()
    }

    /// Checks that the page has sent requests only to where it came from, and ends the browser.
    ///
    /// # Panics
    /// If there is a dialog, was a request elsewhere, or is an error or a warning in the console. Failed requests count
    /// only if the server was always there.
    pub fn close(self, server: Server) {
        // Fails if there is a dialog.
        self.value("document.title");
        let request = |entry: Value| {
            let message = entry["message"].as_str().expect("text");
            let event: Value = serde_json::from_str(message).expect("JSON");
            let event = &event["message"];
            let parameters = &event["params"];
            let url = match event["method"].as_str()? {
                "Network.requestWillBeSent" => &parameters["request"]["url"],
                "Network.webSocketCreated" => &parameters["url"],
                _ => return None,
            };
            Some(url.as_str().expect("a URL").to_owned())
        };
        let requests: BTreeSet<_> = self
            .log("performance")
            .into_iter()
            .filter_map(request)
            .collect();
        assert!(requests.contains(&self.origin), "{requests:?}");
        let mut elsewhere = requests;
        // The browser's own first page has the scheme chrome.
        let own = [&self.origin, "data:", "chrome:"];
        elsewhere.retain(|url| !own.iter().any(|start| url.starts_with(start)));
        assert!(elsewhere.is_empty(), "{elsewhere:?}");

        let mut messages = self.log("browser");
        messages.retain(|it| {
            let is_expected = server == Server::WasAway && it["source"] == "network";
            ["SEVERE", "WARNING"]
                .map(Some)
                .contains(&it["level"].as_str())
                && !is_expected
        });
        assert!(messages.is_empty(), "{messages:#?}");
        assert!(!self.driver.has_ended(), "chromedriver crashed");
    }
}

/// Whether the server of the page was always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// It was.
    WasThere,
    /// It was not, so that requests have failed.
    WasAway,
}

/// Starts chromedriver, which starts browsers in its own process group.
fn chromedriver(folder: &TempDir) -> Process {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0");
    // What the browser keeps beside its profile goes there as well.
    for variable in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        command.env(variable, folder.path());
    }
    Process::spawn_script(&mut command)
}

fn capabilities(folder: &TempDir) -> Value {
    let profile = folder.path().join("profile");
    let arguments = [
        "--headless=new",
        // Root has no sandbox, nor has a container; the pages are our own.
        "--no-sandbox",
        // A container has little shared memory.
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
        // No name has an address, so that the browser's own services reach nobody.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        &format!("--user-data-dir={}", profile.display()),
    ];
    json!({
        "goog:chromeOptions": {
            "args": arguments,
            "perfLoggingPrefs": { "enableNetwork": true, "enablePage": false },
        },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "timeouts": { "script": PATIENCE.as_millis() },
        // A dialog fails the next command.
        "unhandledPromptBehavior": "ignore",
    })
}
