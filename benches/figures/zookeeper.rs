//! Elections by `ZooKeeper` and kazoo, its client for Python.

use crate::{contest::Method, ours};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};
use support::{free_port, poll_until, process::Process};
use tempfile::TempDir;

pub const KAZOO: &str = "ZooKeeper, kazoo's `Election`";

/// What a candidate prints when it leads, and when it waits.
const LEADS: &str = "leads";
const WAITS: &str = "waits";

/// Sessions of four seconds are the shortest that the server grants by default, with its tick of two seconds.
const CANDIDATE: &str = r#"
import signal, sys, threading, time
from kazoo.client import KazooClient

server, path, name = sys.argv[1:]
client = KazooClient(hosts=server, timeout=4.0)
client.start()
election = client.Election(path, name)

def stop(*_):
    sys.exit()

# In one piece: both threads write lines.
def write_line(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

def report():
    while name not in election.contenders():
        time.sleep(0.02)
    write_line("waits")

def lead():
    write_line("leads")
    threading.Event().wait()

signal.signal(signal.SIGTERM, stop)
threading.Thread(target=report, daemon=True).start()
try:
    election.run(lead)
finally:
    client.stop()
"#;

/// A `ZooKeeper` server with its data in a temporary folder.
pub struct ZooKeeper {
    port: u16,
    _server: Process,
    _folder: TempDir,
}

impl ZooKeeper {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let data = folder.path().join("data");
        let settings = format!(
            "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n\
             4lw.commands.whitelist=ruok\n",
            data.display()
        );
        let file = folder.path().join("zoo.cfg");
        fs::write(&file, settings).expect("a file");
        let mut server = Command::new("java");
        // Where Debian has it.
        server.args(["-cp", "/usr/share/java/zookeeper.jar"]);
        server.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain");
        server.arg(file).stdin(Stdio::null());
        let server = Process::spawn("ZooKeeper", server);
        poll_until("ZooKeeper answers", || is_ready(port).then_some(()));
        Self {
            port,
            _server: server,
            _folder: folder,
        }
    }
}

fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        // While it starts, it may accept a connection and never answer.
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"ruok")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer == "imok")
}

impl Method for ZooKeeper {
    fn name(&self) -> &'static str {
        KAZOO
    }

    fn compared_with(&self) -> Option<&'static str> {
        Some(ours::PLAIN)
    }

    fn candidate(&self, election: &str, name: &str) -> Command {
        // Debian's interpreter, which finds Debian's packages.
        let mut candidate = Command::new("/usr/bin/python3");
        let server = format!("127.0.0.1:{}", self.port);
        candidate.args(["-c", CANDIDATE, &server, &format!("/{election}"), name]);
        candidate.stdin(Stdio::null());
        candidate
    }

    fn leads(&self) -> &'static str {
        LEADS
    }

    fn wait_until_it_follows(&self, _election: &str, candidate: &mut Process, _count: usize) {
        candidate.wait_for_next(WAITS);
    }
}
