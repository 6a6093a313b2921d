//! Wires the parts of the program: command line, log, signals, election, COMMAND, health and HTTP. The part
//! that ends first decides the exit code.

use super::{
    cli::{self, Part, RunOptions, Task, Work},
    descriptors::{self, Plan},
    exec::{self, Children},
    exit_code,
    health::Health,
    http::{self, ReplicaServer},
    log::{self, LOG_TIMEOUT, SHORT_LOG_TIMEOUT},
    notify::{Notifier, Watchdog},
    ops,
    presence::PresenceMonitor,
    render::{fail_over_denied, failure_reason, job_denied, not_recorded},
    report::Reporter,
    signals::{self, Received, Signals, TIME_OF_ONE_REQUEST},
    workload::{Ended, Workload},
};
use crate::{
    clock,
    config::{Cluster, Config},
    election::Election,
    etcd,
    printable::Printable,
    protocol::Event,
};
use anyhow::{Context, anyhow};
use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::SignalKind;
use tracing::{error, info, warn};

/// A fail-over limit below this is worth a warning: a busy etcd sometimes takes that long.
const SHORT_FAIL_OVER: Duration = Duration::from_millis(500);

/// Runs the program from its command line to its exit code.
#[must_use]
pub fn run() -> ExitCode {
    // If that fails, signals that were blocked stay so.
    let _ = signals::unblock_all();
    let helper = exec::run_if_guard(env::args_os());
    if let Some(exit) = helper.or_else(|| exec::run_if_health_runner(env::args_os())) {
        return exit;
    }
    let code = match cli::parse() {
        Task::Run(options) => run_daemon(*options),
        Task::Etcd {
            command,
            cluster,
            leader_key,
        } => {
            let plan = Plan {
                endpoints: cluster.endpoints().len(),
                has_command: command.runs_command(),
                has_health: false,
                has_http: command.serves_http(),
            };
            let ready = descriptors::check(&plan).and_then(|()| check_files(&cluster, ops::warn));
            let running = ops::run_etcd_command(*command, &cluster, &leader_key);
            code_of_command(ready.and_then(|()| block_on(running)))
        }
        Task::Local(command) => code_of_command(ops::run_local_command(&command)),
    };
    code.into()
}

/// Returns the exit code of a command for operators, and prints its error if it failed.
fn code_of_command(result: anyhow::Result<u8>) -> u8 {
    result.unwrap_or_else(|error| {
        // If standard error is closed, the exit code has to do.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        exit_code::ERROR
    })
}

/// Runs the daemon and returns its exit code.
fn run_daemon(options: RunOptions) -> u8 {
    if matches!(options.work, Work::Release(_)) {
        exec::name_revoking_process();
    }
    let (has_command, takes_part) = match &options.work {
        Work::TakePart(part) => (part.command.is_some(), true),
        Work::Release(_) => (false, false),
    };
    // Standard output is COMMAND's, even after its daemon has died.
    let logs_to_stdout = takes_part && !has_command;
    let log = log::start(options.log_format, options.log_filter, logs_to_stdout);
    if let Some(error) = options.invalid_rust_log {
        let error = Printable(error.as_bytes());
        warn!("RUST_LOG is ignored: {error}");
    }
    let files = check_files(options.config.cluster(), |text| warn!("{text}"));
    let outcome = files.and_then(|()| match options.work {
        Work::TakePart(part) => run_election(options.config, part),
        Work::Release(lease) => {
            block_on(exec::revoke_lease(options.config, lease)).map(|()| Outcome::Withdrawn)
        }
    });
    let (code, log_timeout) = match outcome {
        Ok(Outcome::Withdrawn) => (exit_code::SUCCESS, LOG_TIMEOUT),
        Ok(Outcome::Ended(code)) => (code, LOG_TIMEOUT),
        Ok(Outcome::Signalled(signal)) => (exit_code::of_signal(signal), SHORT_LOG_TIMEOUT),
        Err(error) => {
            error!("{error:#}");
            let code = if has_command {
                exit_code::OWN_FAILURE
            } else {
                exit_code::ERROR
            };
            (code, LOG_TIMEOUT)
        }
    };
    log.finish(log_timeout);
    code
}

/// How a daemon ended that did not fail.
enum Outcome {
    /// It withdrew from the election, or did what it was started for.
    Withdrawn,
    /// It ended by itself, with this exit code: COMMAND's own, or the code if COMMAND did not run.
    Ended(u8),
    /// A second signal to stop arrived before it had withdrawn.
    Signalled(SignalKind),
}

/// Checks that the files for TLS and the password can be read: at the start, an unreadable file is an
/// error; later, it is a failure that is retried. Warns of a password that may not be what was meant.
fn check_files(cluster: &Cluster, warn: impl FnOnce(&str)) -> anyhow::Result<()> {
    let checked = etcd::check_files(cluster);
    let oddity = checked.map_err(|failure| anyhow!(failure_reason(&failure)))?;
    if let Some(oddity) = oddity {
        warn(&format!("Check {oddity}."));
    }
    Ok(())
}

fn run_election(config: Config, part: Part) -> anyhow::Result<Outcome> {
    descriptors::check(&Plan {
        endpoints: config.cluster().endpoints().len(),
        has_command: part.command.is_some(),
        has_health: part.health.is_some(),
        has_http: part.http.is_some(),
    })?;
    if part.health.is_some() {
        exec::check_command("sh".as_ref()).context("'sh' must run the health command")?;
    }
    let checked = part
        .command
        .as_ref()
        .map(|command| exec::check_command(&command.program));
    if let Some(Err(error)) = checked {
        error!("{error}");
        return Ok(Outcome::Ended(error.exit_code()));
    }
    block_on(take_part(config, part))
}

/// Runs a future on a runtime of one thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Blocking threads resolve names and read files. If these hang, they must not use up the
        // machine.
        .max_blocking_threads(8)
        .build()
        .context("could not start the runtime")?;
    let result = runtime.block_on(work);
    // Dropping the runtime would wait for a name resolution that hangs.
    runtime.shutdown_background();
    result
}

/// Logs who starts. Returns the name and the endpoints as they are logged.
fn announce(config: &Config) -> (String, Vec<String>) {
    let name = Printable(config.name().as_str().as_bytes()).to_string();
    let endpoints: Vec<_> = (config.cluster().endpoints().iter())
        .map(ToString::to_string)
        .collect();
    info!(name, "Starting the server '{name}'");
    info!(name, "Connecting to etcd at '{}'", endpoints.join(","));
    warn_of_short_fail_over(config, &name);
    (name, endpoints)
}

/// Warns of a fail-over limit that a busy etcd does not always keep.
fn warn_of_short_fail_over(config: &Config, name: &str) {
    let limit = config.fail_over();
    if let Some(limit) = limit.filter(|limit| limit.as_duration() < SHORT_FAIL_OVER) {
        warn!(
            name,
            "--fail-over {limit} is short: a busy etcd may cost the leader its term; 1s is recommended."
        );
    }
}

async fn take_part(config: Config, part: Part) -> anyhow::Result<Outcome> {
    let mut signals =
        Signals::new(part.command.is_some()).context("could not listen to signals")?;
    let (name, endpoints) = announce(&config);
    let listener = match part.http {
        Some(address) => Some(http::listen(address).await?),
        None => None,
    };
    let children = children_of(&part)?;
    let mut health = Health::new(&name, part.health, &children)
        .context("could not get ready to run the health command")?;
    let mut election = Election::new(config.clone());
    let mut events = election.events();
    let mut candidate = election
        .join()
        .context("could not take part in the election")?;
    let mut outputs = Outputs {
        notifier: Notifier::from_environment(),
        reporter: Reporter::new(name, endpoints, &config),
        server: listener.map(|listener| {
            ReplicaServer::new(listener, &config, candidate.status(), candidate.terms())
        }),
    };
    let mut presence = PresenceMonitor::start(candidate.status());
    let mut watchdog = Watchdog::from_environment(candidate.liveness());
    let mut workload = Workload::new(part.command, &config, &candidate, children)?;
    let mut stop_requested = None;
    let is_over = |(request, _)| clock::now().since(request) >= TIME_OF_ONE_REQUEST;
    let mut election_runs = true;
    let mut outcome = Ok(Outcome::Withdrawn);
    while election_runs || workload.is_running() {
        tokio::select! {
            // Signals come first: one that goes to the whole process group ends COMMAND as well, and
            // that end must count as requested.
            biased;
            signal = signals.next() => match signal {
                Received::Forward(signal) => workload.forward_signal(signal),
                Received::Stop(signal) if stop_requested.is_some_and(is_over) => {
                    workload.kill().await;
                    return Ok(Outcome::Signalled(signal));
                }
                Received::Stop(_) if stop_requested.is_some() => {}
                Received::Stop(signal) => {
                    stop_requested = Some((clock::now(), signal));
                    outputs.notifier.report_stopping();
                    candidate.begin_withdrawal();
                    health.begin_stop();
                }
            },
            () = watchdog.passed(), if election_runs => outputs.notifier.report_alive(),
            event = events.next(), if election_runs => match event {
                Some(event) => {
                    // What COMMAND has come to, or an error, counts for more.
                    if matches!(outcome, Ok(Outcome::Withdrawn)) {
                        outcome = outcome_of(&event, &config).unwrap_or(outcome);
                    }
                    outputs.report(event);
                }
                None => election_runs = false,
            },
            Some(leadership) = candidate.elected(), if election_runs => {
                if let Err(error) = workload.start(leadership) {
                    outcome = Err(anyhow!(error).context("could not start a guard for COMMAND"));
                    candidate.begin_withdrawal();
                }
            }
            change = health.changed(), if election_runs => {
                let change = change.context("could not watch over the health command")?;
                outputs.report_health(change.as_ref().err());
                change.map_or_else(
                    |reason| candidate.stand_back(reason),
                    |()| candidate.stand_forward(),
                );
            }
            news = presence.next(), if election_runs => {
                let (term, presence) = news.context("could not watch the leader")?;
                candidate.report_presence(term, presence);
            }
            ended = workload.ended() => {
                let (ended, leadership) = ended.context("could not watch over COMMAND")?;
                if let Some(ended) = outcome_of_work(&ended, stop_requested.is_some(), &config) {
                    outcome = ended;
                    candidate.begin_withdrawal();
                }
                drop(leadership);
            }
            error = outputs.serve_http() => {
                outputs.server = None;
                outcome = Err(error.context("could not go on serving HTTP"));
                candidate.begin_withdrawal();
            }
        }
    }
    // Giving the lease back may take longer than the service manager's watchdog waits.
    outputs.notifier.report_stopping();
    candidate.withdraw().await.context("the election ended")?;
    health.stop().await;
    match (outcome, stop_requested) {
        // The job is not done, and in `leader-election --once ID -- ./migrate && exec ./server`, the
        // server must not start.
        (Ok(Outcome::Withdrawn), Some((_, signal))) if config.job().is_some() => {
            Ok(Outcome::Ended(exit_code::of_signal(signal)))
        }
        (outcome, _) => outcome,
    }
}

/// Returns the outcome if this event decides it.
fn outcome_of(event: &Event, config: &Config) -> Option<anyhow::Result<Outcome>> {
    match event {
        Event::JobDone { .. } => Some(Ok(Outcome::Ended(exit_code::SUCCESS))),
        Event::GaveUp { .. } => Some(Ok(Outcome::Ended(exit_code::NOT_ELECTED))),
        Event::JobDenied { failure } => Some(Err(job_denied(failure, config))),
        Event::FailOverDenied { failure } => Some(Err(fail_over_denied(failure, config))),
        _ => None,
    }
}

/// Returns the outcome if this end of the work of a term decides it.
fn outcome_of_work(
    ended: &Ended,
    stop_requested: bool,
    config: &Config,
) -> Option<anyhow::Result<Outcome>> {
    match ended {
        Ended::Exited(_) if stop_requested => None,
        Ended::Stopped => None,
        Ended::Exited(code) | Ended::Held(code) => Some(Ok(Outcome::Ended(*code))),
        Ended::Completed(Ok(_)) => Some(Ok(Outcome::Ended(exit_code::SUCCESS))),
        Ended::Completed(Err(error)) => Some(Err(not_recorded(*error, config))),
    }
}

/// Returns how this process treats its children. Without a COMMAND and a health command, it has none of its own.
fn children_of(part: &Part) -> anyhow::Result<Children> {
    if part.command.is_none() && part.health.is_none() {
        return Ok(Children::default());
    }
    let what = part
        .command
        .as_ref()
        .map_or("the health command", |_| "COMMAND");
    Children::adopt().with_context(|| format!("could not get ready to run {what}"))
}

/// Where events are reported: the service manager, the log and HTTP clients.
struct Outputs {
    notifier: Notifier,
    reporter: Reporter,
    server: Option<ReplicaServer>,
}

impl Outputs {
    fn report(&mut self, event: Event) {
        self.notifier.report(&event);
        if let Some(server) = &self.server {
            server.record(&event);
        }
        self.reporter.report(event);
    }

    /// Reports why this replica is not healthy, or that it is.
    fn report_health(&self, reason: Option<&String>) {
        if let Some(server) = &self.server {
            server.record_health(reason.map(String::as_str));
        }
    }

    /// Serves HTTP, if an address is given, until that fails. Cancel safe.
    async fn serve_http(&mut self) -> anyhow::Error {
        match &mut self.server {
            Some(server) => server.serve().await.into(),
            None => std::future::pending().await,
        }
    }
}
