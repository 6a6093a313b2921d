//! A client of HTTP, and programs that are others' clients.

use super::poll_until;
use serde_json::Value;
use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub code: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Sends these bytes, and reads until the end.
pub fn send(address: &str, request: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request)?;
    read(stream)
}

/// Reads an answer until its end.
pub fn read(mut stream: TcpStream) -> Result<Answer> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Answer {
        code: code.unwrap_or(0),
        head: head.to_lowercase(),
        body: body.to_owned(),
    })
}

/// Asks for this path.
pub fn ask(address: &str, method: &str, path: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    send(address, request.as_bytes()).expect("an answer")
}

/// Gets this path.
pub fn get(address: &str, path: &str) -> Answer {
    ask(address, "GET", path)
}

/// Gets a JSON object.
pub fn get_json(address: &str, path: &str) -> Value {
    let answer = get(address, path);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// Asks for the path until its status is this one.
pub fn wait_for_code(address: &str, path: &str, code: u16) {
    poll_until(&format!("{path} is {code}"), || {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        // Nobody may listen yet.
        let answer = send(address, request.as_bytes()).ok()?;
        (answer.code == code).then_some(())
    });
}

/// A server of somebody else's, which ends with the test.
pub struct Server(Child);

impl Server {
    /// Starts it.
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
