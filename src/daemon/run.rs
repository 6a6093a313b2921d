//! Wires command line, log, signals, election and COMMAND; the first to end decides the exit code.

use super::{
    cli::{self, Task, Work},
    exec::{self, Ended, Wrapper, release},
    http::Server,
    log,
    notify::Notifier,
    ops,
    report::Reporter,
    signals::{self, Received, Signals},
};
use crate::{
    config::{Cluster, Config},
    election::{Candidate, Election, Leadership},
    etcd,
    printable::Printable,
    protocol::Event,
};
use anyhow::{Context, anyhow};
use rustix::io::Errno;
use std::{env, ffi::OsString, io, net::SocketAddr, process::ExitCode, time::Duration};
use tokio::{net::TcpListener, signal::unix::SignalKind, time::timeout};
use tracing::{error, info, warn};

/// Runs the program from its command line to its exit code.
#[must_use]
pub fn run() -> ExitCode {
    if let Some(exit) = exec::run_if_asked(env::args_os()) {
        return exit;
    }
    let options = match cli::parse() {
        Task::Run(options) => *options,
        Task::Etcd {
            command,
            cluster,
            leader_key,
        } => return ops::run_etcd_command(command, &cluster, &leader_key),
        Task::Local(command) => return ops::run_local_command(&command),
    };
    let has_command = matches!(
        options.work,
        Work::TakePart {
            command: Some(_),
            ..
        }
    );
    // COMMAND has standard output, also when its daemon is gone.
    let stdout_is_ours = matches!(options.work, Work::TakePart { command: None, .. });
    let log = log::start(options.log_format, options.log, stdout_is_ours);
    if let Some(error) = options.invalid_rust_log {
        let error = Printable(error.as_bytes());
        warn!("RUST_LOG is ignored: {error}");
    }
    let files = check_files(options.config.cluster());
    let end = files.and_then(|()| match options.work {
        Work::TakePart { command, http } => run_election(options.config, command, http),
        Work::Release(lease) => block_on(release(options.config, lease)).map(|()| End::Withdrawn),
    });
    let (exit, patience) = match end {
        Ok(End::Withdrawn) => (ExitCode::SUCCESS, LAST_WORDS),
        Ok(End::CommandEnded(code)) => (code.into(), LAST_WORDS),
        Ok(End::Signalled(signal)) => (signals::exit_code(signal), LAST_WORD),
        Err(error) => {
            error!("{error:#}");
            let code = if has_command { OUR_FAILURE } else { 1 };
            (code.into(), LAST_WORDS)
        }
    };
    log.finish(patience);
    exit
}

/// How long a slow reader of the log is waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The same, after a second signal.
const LAST_WORD: Duration = Duration::from_millis(50);
/// How long it may take to kill all, after a second signal.
const LAST_BLOW: Duration = Duration::from_secs(1);
/// The exit code that tells our failures from COMMAND's, as `env` and `timeout` have it.
const OUR_FAILURE: u8 = 125;

/// How taking part ended.
enum End {
    Withdrawn,
    /// COMMAND ended by itself, or could not be run.
    CommandEnded(u8),
    /// A second signal came before that.
    Signalled(SignalKind),
}

/// What cannot be read now is a mistake; later it is taken for one that somebody mends.
pub(super) fn check_files(cluster: &Cluster) -> anyhow::Result<()> {
    etcd::check_files(cluster)
        .map_err(|failure| anyhow!("{}", Printable(failure.message.as_bytes())))
}

fn run_election(
    config: Config,
    command: Option<Vec<OsString>>,
    http: Option<SocketAddr>,
) -> anyhow::Result<End> {
    if let Some(Err((code, reason))) = command.as_ref().map(|command| exec::check(&command[0])) {
        error!("{reason}");
        return Ok(End::CommandEnded(code));
    }
    block_on(take_part(config, command, http))
}

pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Names are resolved and files read there; what hangs must not fill the machine.
        .max_blocking_threads(8)
        .build()
        .context("could not start the runtime")?;
    let end = runtime.block_on(work);
    // A resolver that hangs would be waited for.
    runtime.shutdown_background();
    end
}

async fn take_part(
    config: Config,
    command: Option<Vec<OsString>>,
    http: Option<SocketAddr>,
) -> anyhow::Result<End> {
    let mut signals = Signals::new(command.is_some()).context("could not listen to signals")?;
    let name = Printable(config.name().as_str().as_bytes()).to_string();
    let endpoints: Vec<_> = (config.cluster().endpoints().iter())
        .map(ToString::to_string)
        .collect();
    info!(name, "Starting the server '{name}'");
    info!(name, "Connecting to etcd at '{}'", endpoints.join(","));

    let listener = match http {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let mut election = Election::new(config.clone());
    let mut events = election.events();
    let mut candidate = election
        .join()
        .context("could not take part in the election")?;
    let mut audience = Audience {
        notifier: Notifier::from_environment(),
        reporter: Reporter::new(name, endpoints, &config),
        server: listener.map(|listener| Server::new(listener, &config, candidate.status())),
    };
    let mut actor = Actor::new(command, &config, &candidate)?;
    let mut asked_to_stop = false;
    let mut end = Ok(End::Withdrawn);
    let mut goes_on = true;
    while goes_on || actor.acts() {
        tokio::select! {
            // So that a COMMAND that was told to stop together with this is known to be.
            biased;
            signal = signals.next() => match signal {
                Received::PassOn(signal) => actor.pass_on(signal),
                Received::Stop(signal) if asked_to_stop => {
                    actor.kill().await;
                    return Ok(End::Signalled(signal));
                }
                Received::Stop(_) => {
                    asked_to_stop = true;
                    audience.notifier.report_stopping();
                    candidate.begin_withdrawal();
                }
            },
            event = events.next(), if goes_on => match event {
                Some(event) => audience.tell(event),
                None => goes_on = false,
            },
            Some(leadership) = candidate.elected(), if goes_on => {
                if let Err(error) = actor.begin(leadership) {
                    end = Err(anyhow!(error).context("could not start a guard for COMMAND"));
                    candidate.begin_withdrawal();
                }
            }
            ended = actor.ended() => {
                let (ended, leadership) = ended.context("could not watch over COMMAND")?;
                if let Some(code) = exit_code(ended) && !asked_to_stop {
                    end = Ok(End::CommandEnded(code));
                    candidate.begin_withdrawal();
                }
                drop(leadership);
            }
            died = audience.serve() => {
                audience.server = None;
                end = Err(died.context("could not go on serving HTTP"));
                candidate.begin_withdrawal();
            }
        }
    }
    candidate.withdraw().await.context("the election ended")?;
    end
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = TcpListener::bind(address).await;
    listening
        .with_context(|| format!("could not listen for HTTP at {address}; give another --http"))
}

/// Who is told what happens.
struct Audience {
    notifier: Notifier,
    reporter: Reporter,
    server: Option<Server>,
}

impl Audience {
    fn tell(&mut self, event: Event) {
        self.notifier.report(&event);
        if let Some(server) = &self.server {
            server.record(&event);
        }
        self.reporter.report(event);
    }

    /// Serves HTTP, where that is wanted, until it fails. Cancel safe.
    async fn serve(&mut self) -> anyhow::Error {
        match &mut self.server {
            Some(server) => server.serve().await.into(),
            None => std::future::pending().await,
        }
    }
}

/// The exit code of the whole program, where the end of COMMAND is its end too.
fn exit_code(ended: Ended) -> Option<u8> {
    match ended {
        Ended::AsTold | Ended::GuardDied | Ended::GuardLate => None,
        Ended::ByItself(code) => Some(code),
        Ended::NeverRan(error) => Some(match Errno::from_raw_os_error(error) {
            Errno::NOENT => 127,
            Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => OUR_FAILURE,
            _ => 126,
        }),
        Ended::GuardFailed => Some(OUR_FAILURE),
    }
}

/// What acts while this replica leads.
enum Actor {
    /// Nothing but saying so.
    Words(Option<Leadership>),
    Command(Box<Wrapper>),
}

impl Actor {
    fn new(
        command: Option<Vec<OsString>>,
        config: &Config,
        candidate: &Candidate,
    ) -> anyhow::Result<Self> {
        let Some(command) = command else {
            return Ok(Self::Words(None));
        };
        let wrapper = Wrapper::new(&command, config, candidate.status());
        let wrapper = wrapper.context("could not get ready to run COMMAND")?;
        Ok(Self::Command(Box::new(wrapper)))
    }

    fn acts(&self) -> bool {
        match self {
            // It has stopped once it is told.
            Self::Words(_) => false,
            Self::Command(wrapper) => wrapper.is_running(),
        }
    }

    fn begin(&mut self, leadership: Leadership) -> io::Result<()> {
        match self {
            Self::Words(held) => *held = Some(leadership),
            Self::Command(wrapper) => wrapper.start(leadership)?,
        }
        Ok(())
    }

    /// Waits until what acted has stopped. Cancel safe.
    async fn ended(&mut self) -> io::Result<(Ended, Leadership)> {
        match self {
            Self::Words(held) => {
                if let Some(leadership) = held {
                    leadership.lost().await;
                }
                match held.take() {
                    Some(leadership) => Ok((Ended::AsTold, leadership)),
                    None => std::future::pending().await,
                }
            }
            Self::Command(wrapper) => wrapper.ended().await,
        }
    }

    fn pass_on(&mut self, signal: SignalKind) {
        if let Self::Command(wrapper) = self {
            wrapper.pass_on(signal);
        }
    }

    /// Kills what acts, and waits for its end unless that cannot be had.
    async fn kill(&mut self) {
        if let Self::Command(wrapper) = self
            && wrapper.is_running()
        {
            wrapper.kill();
            // The lease runs out by itself, so that nobody is harmed if this fails.
            let _ = timeout(LAST_BLOW, wrapper.ended()).await;
        }
    }
}
