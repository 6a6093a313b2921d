//! Carries out what the machine asks for, and returns the results to the machine. It decides nothing
//! about the election.

mod actions;

use super::{Leadership, NotRecorded, PutError, claim::Claim, history::History};
use crate::{
    backoff::{self, Jitter},
    clock::{self, Alarm},
    config::Config,
    etcd::{Connection, Target},
    protocol::{
        CallId, Entry, Event, Failure, FencingToken, Input, LeaseId, Machine, Moment, Presence,
        Role, Settings, Status, Term,
    },
    wall_clock,
};
use std::{io, sync::Arc, time::SystemTime};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};

/// What the holders of a candidate and its leaderships ask for.
#[derive(Debug)]
pub(super) enum Command {
    Withdraw,
    /// To lead no more, and why.
    StandBack(String),
    StandForward,
    /// What is known of the leader of a term from outside etcd.
    Presence(FencingToken, Presence),
    Stopped(Term),
    /// The same, with a wait until the lease is released.
    Resigned {
        term: Term,
        resigned: oneshot::Sender<()>,
    },
    /// What acted has completed the job that runs once.
    Completed {
        term: Term,
        recorded: oneshot::Sender<Result<Entry, NotRecorded>>,
    },
    /// To put a key, if the term goes on.
    Put {
        term: Term,
        key: String,
        value: Vec<u8>,
        responded: oneshot::Sender<Result<(), PutError>>,
    },
    /// To show that this loop is not stuck.
    Respond(oneshot::Sender<()>),
}

/// The result of a task.
#[allow(clippy::large_enum_variant, reason = "nearly all are inputs")]
enum Message {
    Input(Input),
    Connected {
        call: CallId,
        result: Result<Box<Connection>, Failure>,
    },
}

pub(super) struct Driver {
    config: Config,
    target: Arc<Target>,
    /// Since when this candidate takes part, by the wall clock.
    joined: SystemTime,
    /// Why it stands back, if it does; `None`: nobody has said whether it can lead.
    health: Option<Result<(), String>>,
    machine: Machine,
    alarm: Alarm,
    jitter: Jitter,
    back_off: Option<(CallId, Moment)>,
    connection: Option<Box<Connection>>,
    attempts: Vec<(CallId, AbortHandle)>,
    /// Of the call under way.
    call_tasks: Vec<AbortHandle>,
    /// Of tries on connections before this one.
    overdue_tasks: Vec<AbortHandle>,
    /// Of what is asked for beside the call under way.
    beside_tasks: Vec<AbortHandle>,
    watch_task: Option<AbortHandle>,
    tasks: JoinSet<()>,
    /// In boxes, because a channel has room for many from the start.
    results_sent: mpsc::UnboundedSender<Box<Message>>,
    results: mpsc::UnboundedReceiver<Box<Message>>,
    /// For leaderships. Weak, so that `commands` ends when the candidate and all of them are gone.
    commands_sent: mpsc::WeakUnboundedSender<Command>,
    commands: mpsc::UnboundedReceiver<Command>,
    leaderships: mpsc::UnboundedSender<Leadership>,
    /// The last leadership that was passed on, and who has claimed it.
    passed_on: Option<(Term, Claim)>,
    /// Those that wait until others can lead after a term.
    resigning: Vec<(LeaseId, oneshot::Sender<()>)>,
    /// Who waits until the job is recorded.
    completing: Option<oneshot::Sender<Result<Entry, NotRecorded>>>,
    events: Option<mpsc::UnboundedSender<Event>>,
    status: watch::Sender<Status>,
    pub(super) history: History,
}

impl Driver {
    pub fn new(
        config: Config,
        commands_sent: mpsc::WeakUnboundedSender<Command>,
        commands: mpsc::UnboundedReceiver<Command>,
        leaderships: mpsc::UnboundedSender<Leadership>,
        events: Option<mpsc::UnboundedSender<Event>>,
    ) -> io::Result<(Self, watch::Receiver<Status>)> {
        let settings = Settings {
            ttl: config.ttl(),
            grace: config.grace(),
            stop_timeout: config.stop_timeout(),
            endpoints: config.cluster().endpoint_count(),
            wait: config.wait(),
            runs_once: config.job().is_some(),
            priority: config.priority(),
            priority_delay: config.priority_delay(),
            stands_back: config.stands_back().is_some(),
            fail_over: config.fail_over(),
            first_lease: backoff::draw_lease(),
        };
        let machine = Machine::new(settings, clock::now());
        let (status, status_received) = watch::channel(machine.status());
        let (results_sent, results) = mpsc::unbounded_channel();
        let driver = Self {
            target: Target::of_candidate(&config),
            joined: wall_clock::now(),
            health: config.stands_back().map(|reason| Err(reason.to_owned())),
            history: History::start(&config),
            config,
            machine,
            alarm: Alarm::new()?,
            jitter: Jitter::new(),
            back_off: None,
            connection: None,
            attempts: Vec::new(),
            call_tasks: Vec::new(),
            overdue_tasks: Vec::new(),
            beside_tasks: Vec::new(),
            watch_task: None,
            tasks: JoinSet::new(),
            results_sent,
            results,
            commands_sent,
            commands,
            leaderships,
            passed_on: None,
            resigning: Vec::new(),
            completing: None,
            events,
            status,
        };
        Ok((driver, status_received))
    }

    /// Runs until the candidate has withdrawn.
    ///
    /// # Errors
    /// If a task died, after withdrawing in order, or if the system's timer fails.
    pub async fn run(mut self) -> io::Result<()> {
        let mut is_abandoned = false;
        let mut outcome = Ok(());
        loop {
            if self.publish() {
                // Its successor may lead within a millisecond. The task that logs the events, in the same thread, runs
                // first, so that the log never shows two leaders at once.
                tokio::task::yield_now().await;
            }
            self.start_actions();
            if matches!(self.machine.status().role, Role::Withdrawn) {
                self.history.finish().await;
                return outcome;
            }
            let back_off = self.back_off.map(|(_, until)| until);
            let wake = self
                .machine
                .poll_timeout()
                .into_iter()
                .chain(back_off)
                .min();
            tokio::select! {
                Some(message) = self.results.recv() => self.take_in(*message),
                command = self.commands.recv(), if !is_abandoned => {
                    is_abandoned = command.is_none();
                    self.handle_command(command);
                }
                Some(ended) = self.tasks.join_next() => match ended {
                    Err(error) if error.is_panic() => {
                        outcome = Err(io::Error::other(format!("a task died: {error}")));
                        self.machine.handle(clock::now(), Input::Withdraw);
                    }
                    _ => {}
                },
                result = self.alarm.wait_until(wake) => {
                    result?;
                    self.wake_up();
                }
            }
        }
    }

    fn take_in(&mut self, message: Message) {
        let now = clock::now();
        let input = match message {
            Message::Input(input) => input,
            Message::Connected { call, result } => {
                let Some(place) = self.attempts.iter().position(|(id, _)| *id == call) else {
                    return;
                };
                self.attempts.swap_remove(place);
                // What has run out before is over first: it may ask to disconnect, and not from this.
                self.machine.handle_timeout(now);
                self.carry_out();
                let result = result.map(|connection| {
                    if connection.authentication_is_off() {
                        self.machine.handle(now, Input::AuthenticationOff);
                    }
                    self.use_connection(connection);
                });
                Input::Connected { call, result }
            }
        };
        self.machine.handle(now, input);
    }

    /// Takes in a command; `None` once nobody is left to send any.
    fn handle_command(&mut self, command: Option<Command>) {
        let input = match command {
            Some(Command::Withdraw) => Input::Withdraw,
            Some(Command::StandBack(reason)) => {
                self.health = Some(Err(reason));
                Input::StandBack
            }
            Some(Command::StandForward) => {
                self.health = Some(Ok(()));
                Input::StandForward
            }
            Some(Command::Presence(of, presence)) => Input::Presence { of, presence },
            Some(Command::Stopped(term)) => Input::Stopped { term },
            Some(Command::Resigned { term, resigned }) => {
                self.resigning.push((term.lease, resigned));
                Input::Stopped { term }
            }
            Some(Command::Completed { recorded, .. }) if self.config.job().is_none() => {
                // It may be waited for no more.
                let _ = recorded.send(Err(NotRecorded::NoJob));
                return;
            }
            Some(Command::Completed { term, recorded }) => {
                self.completing = Some(recorded);
                Input::Completed { term }
            }
            Some(Command::Put {
                term,
                key,
                value,
                responded,
            }) => return self.put(term, key, value, responded),
            Some(Command::Respond(responded)) => {
                // It may be waited for no more.
                let _ = responded.send(());
                return;
            }
            None => Input::Abandoned,
        };
        self.machine.handle(clock::now(), input);
    }

    fn wake_up(&mut self) {
        let now = clock::now();
        if let Some((call, _)) = self.back_off.take_if(|(_, until)| now >= *until) {
            self.machine.handle(now, Input::BackedOff { call });
        } else {
            self.machine.handle_timeout(now);
        }
    }

    /// Publishes what has changed, and then carries out the machine's actions.
    fn carry_out(&mut self) {
        self.publish();
        self.start_actions();
    }

    fn start_actions(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.start(action);
        }
        // Dropping the sender ends the wait.
        let machine = &self.machine;
        self.resigning
            .retain(|(lease, _)| machine.holds_keys_of(*lease));
    }

    /// Publishes the status, and then the events that led to it. Returns true iff one of them says that this candidate
    /// stops leading.
    fn publish(&mut self) -> bool {
        self.publish_status();
        let mut stops_leading = false;
        while let Some(event) = self.machine.poll_event() {
            stops_leading |= matches!(
                event,
                Event::Lost { .. } | Event::Releasing { led: true, .. }
            );
            self.publish_event(event);
        }
        stops_leading
    }

    fn publish_event(&mut self, event: Event) {
        self.history.record(&event);
        let recorded = match &event {
            Event::Recorded { record } => Some(Ok(record.clone())),
            Event::NotRecorded { may_exist: false } => Some(Err(NotRecorded::TermOver)),
            Event::NotRecorded { may_exist: true } => Some(Err(NotRecorded::Unknown)),
            _ => None,
        };
        if let Some((completing, recorded)) = self
            .completing
            .take_if(|_| recorded.is_some())
            .zip(recorded)
        {
            // It may be waited for no more.
            let _ = completing.send(recorded);
        }
        if let Some(events) = &self.events {
            // Events may be ignored.
            let _ = events.send(event);
        }
    }

    fn publish_status(&mut self) {
        let status = self.machine.status();
        let machine = &self.machine;
        self.history
            .observe(&status, |lease| machine.is_given_up(lease));
        self.status.send_if_modified(|published| {
            let differs = *published != status;
            *published = status;
            differs
        });
    }

    /// Passes a leadership on to the candidate.
    fn pass_on(&mut self, term: Term) {
        let Some(commands) = self.commands_sent.upgrade() else {
            // The end of `commands` is about to say that the candidate is gone.
            return;
        };
        let claim = Claim::default();
        self.passed_on = Some((term, claim.clone()));
        // If the candidate receives no more, the leadership is dropped, which says that nothing acts.
        let _ = self.leaderships.send(Leadership {
            term,
            claim,
            status: self.status.subscribe(),
            commands,
        });
    }

    /// Takes a leadership back if nobody has taken it.
    fn take_back(&mut self, term: Term) {
        if let Some((_, claim)) = self.passed_on.take_if(|(of, _)| *of == term)
            && claim.take_back()
        {
            // As for any result of an action: the machine gets it after it has been asked for all.
            let _ = self
                .results_sent
                .send(Box::new(Message::Input(Input::Stopped { term })));
        }
    }
}
