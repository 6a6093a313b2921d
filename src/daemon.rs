//! The program: wires command line, log, signals and election; the first to end decides the exit.

mod cli;
mod commands;
mod log;
mod notify;
mod report;
mod signals;

use crate::{
    config::{Cluster, Config},
    election::{Election, Leadership},
    etcd,
    printable::Printable,
    protocol::LossReason,
};
use anyhow::{Context, anyhow};
use cli::Task;
use notify::Notifier;
use report::Reporter;
use signals::Signals;
use std::{process::ExitCode, time::Duration};
use tracing::{error, info, warn};

/// Runs the program from its command line to its exit code.
#[must_use]
pub fn run() -> ExitCode {
    let options = match cli::parse() {
        Task::TakePart(options) => *options,
        Task::Command(command) => return commands::run(*command),
    };
    let log = log::start(options.log_format, options.log);
    if let Some(error) = options.unfit_rust_log {
        let error = Printable(error.as_bytes());
        warn!("RUST_LOG is ignored: {error}");
    }
    let files = check_files(options.config.cluster());
    match files.and_then(|()| block_on(take_part(options.config))) {
        Ok(End::Withdrawn) => {
            log.finish(LAST_WORDS);
            ExitCode::SUCCESS
        }
        Ok(End::Signalled(signal)) => {
            log.finish(LAST_WORD);
            signal.exit_code()
        }
        Err(error) => {
            error!("{error:#}");
            log.finish(LAST_WORDS);
            ExitCode::FAILURE
        }
    }
}

/// How long a slow reader of the log is waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The same, after a second signal.
const LAST_WORD: Duration = Duration::from_millis(50);

/// How taking part ended.
enum End {
    Withdrawn,
    /// A second signal came before that.
    Signalled(signals::Received),
}

/// What cannot be read now is a mistake; later it is taken for one that somebody mends.
fn check_files(cluster: &Cluster) -> anyhow::Result<()> {
    etcd::check_files(cluster)
        .map_err(|failure| anyhow!("{}", Printable(failure.message.as_bytes())))
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
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

async fn take_part(config: Config) -> anyhow::Result<End> {
    let mut signals = Signals::new().context("could not listen to signals")?;
    let name = Printable(config.name().as_str().as_bytes()).to_string();
    let endpoints: Vec<_> = (config.cluster().endpoints().iter())
        .map(ToString::to_string)
        .collect();
    info!(name, "Starting the server '{name}'");
    info!(name, "Connecting to etcd at '{}'", endpoints.join(","));

    let mut notifier = Notifier::from_environment();
    let mut reporter = Reporter::new(name, endpoints, &config);
    let mut election = Election::new(config);
    let mut events = election.events();
    let mut candidate = election
        .join()
        .context("could not take part in the election")?;
    let mut held: Option<Leadership> = None;
    let mut stopping = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    notifier.note(&event);
                    reporter.report(event);
                }
                None => break,
            },
            Some(leadership) = candidate.campaign() => held = Some(leadership),
            // Nothing of ours acts beyond saying so: it has stopped once it is told.
            _ = lost(&mut held) => held = None,
            signal = signals.next() => {
                if stopping {
                    return Ok(End::Signalled(signal));
                }
                stopping = true;
                notifier.stopping();
                candidate.withdraw();
            }
        }
    }
    drop(held);
    candidate.finished().await.context("the election ended")?;
    Ok(End::Withdrawn)
}

/// Waits until the leadership held is lost; for ever while there is none.
async fn lost(held: &mut Option<Leadership>) -> LossReason {
    match held {
        Some(leadership) => leadership.lost().await,
        None => std::future::pending().await,
    }
}
