//! An HTTP client, and servers that a test runs beside the daemon.

use super::{PATIENCE, poll_until};
use serde_json::Value;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use ureq::Agent;
use ureq::http::request::Builder;
use ureq::http::{HeaderMap, Request};

static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        // Not the machine's: the servers run on the machine itself.
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
});

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub code: u16,
    headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Response {
    /// Returns a header's value, if there is that header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request without a body.
///
/// # Errors
/// If there is no response.
pub fn try_request(address: &str, method: &str, path: &str) -> Result<Response, ureq::Error> {
    run(Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}")))
}

fn run(request: Builder) -> Result<Response, ureq::Error> {
    let mut response = AGENT.run(request.body(())?)?;
    Ok(Response {
        code: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.body_mut().read_to_string()?,
    })
}

/// Sends a request without a body.
///
/// # Panics
/// If there is no response.
pub fn request(address: &str, method: &str, path: &str) -> Response {
    try_request(address, method, path).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Gets this path.
///
/// # Panics
/// If there is no response.
pub fn get(address: &str, path: &str) -> Response {
    request(address, "GET", path)
}

/// Gets this path in a format that the `Accept` header names.
///
/// # Panics
/// If there is no response.
pub fn get_accepting(address: &str, path: &str, accept: &str) -> Response {
    let uri = format!("http://{address}{path}");
    run(Request::get(uri).header("accept", accept))
        .unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Gets a JSON object.
///
/// # Panics
/// If there is no response or no JSON in it.
pub fn get_json(address: &str, path: &str) -> Value {
    get(address, path).json()
}

/// Gets the path again and again until its status code is this one. Before that, the server may
/// not listen yet.
pub fn wait_for_code(address: &str, path: &str, code: u16) {
    poll_until(&format!("{path} is {code}"), || {
        let response = try_request(address, "GET", path).ok()?;
        (response.code == code).then_some(())
    });
}

/// Reads until the server closes the connection. Returns the status code of the response, if there
/// was one.
///
/// # Panics
/// If the server does not close the connection.
pub fn read_code(stream: TcpStream) -> Option<u16> {
    read_response(stream).split(' ').nth(1)?.parse().ok()
}

/// Reads until the server closes the connection. Returns what it sent.
///
/// # Panics
/// If the server does not close the connection.
pub fn read_response(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut response = Vec::new();
    if let Err(error) = stream.read_to_end(&mut response) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "it stays open");
    }
    String::from_utf8_lossy(&response).into_owned()
}

/// A server of another program, which is killed at the end of the test.
pub struct Server(Child);

impl Server {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(
            quiet
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/run.sh")),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
