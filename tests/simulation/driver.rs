//! What a process does for its machine: it brings it inputs, carries out its actions, and minds
//! what acts.

use super::{
    MILLI, SECOND, Time,
    checks::Violation,
    network::Asked,
    node::{Actor, Beside, Call, Child, Looked, Watch, nanos},
    plan::Kind,
    trace::{action_text, input_text},
    world::{Event, ToNode, World},
};
use crate::protocol::{
    Action, CallId, Event as Said, Input, LeaseId, Machine, Moment, Role, Term, Transaction,
};
use std::time::Duration;

impl World {
    pub fn deliver(&mut self, node: usize, what: ToNode) -> Result<(), Violation> {
        let to = &mut self.nodes[node];
        let input = match what {
            ToNode::Alarm(alarm) => {
                if to.alarm == alarm {
                    to.alarm_at = None;
                    return self.handle(node, None);
                }
                return Ok(());
            }
            ToNode::Input(input) => {
                match &input {
                    Input::Granted { call, .. } => {
                        to.call
                            .take_if(|under_way| *under_way == Call::Grant(*call));
                    }
                    Input::Transacted { call, .. } if to.call == Some(Call::Try(*call)) => {
                        to.awaits_transaction = false;
                    }
                    Input::Transacted { call, .. } if to.call == Some(Call::Look(*call)) => {
                        to.call = None;
                    }
                    Input::Executed { call, .. } => {
                        to.beside.retain(|beside| *beside != Beside::Execute(*call));
                    }
                    Input::LeaseTime { call, .. } => {
                        to.beside
                            .retain(|beside| *beside != Beside::LeaseTime(*call));
                    }
                    Input::Revoked { call, .. } => {
                        to.beside.retain(|beside| *beside != Beside::Revoke(*call));
                    }
                    Input::WatchEnded { watch } => {
                        to.watch.take_if(|open| open.id == *watch);
                        self.checks
                            .watch_ended(node, self.now, self.plan.ttl * SECOND);
                    }
                    _ => {}
                }
                input
            }
            ToNode::Connected { call, result } => {
                let attempts = to.attempts.iter();
                let Some(place) = attempts.clone().position(|(id, _)| *id == call) else {
                    return Ok(());
                };
                let (_, member) = to.attempts.swap_remove(place);
                if result.is_ok() {
                    to.connect(member);
                    self.checks.connected(node, self.now);
                }
                let result = result.map_err(|kind| self.failure(kind));
                Input::Connected { call, result }
            }
            ToNode::KeptAlive { stream, answer } => {
                let mut former = to.former.iter();
                if let Some(former) = former.find(|former| former.stream == Some(stream)) {
                    let (call, result) = (former.call, Ok(answer));
                    let input = Input::KeptAlive { call, result };
                    return self.handle(node, Some(input));
                }
                let Some(open) = to.stream.as_mut().filter(|open| open.id == stream) else {
                    return Ok(());
                };
                let Some(call) = to.awaits.take() else {
                    open.unread.push_back(answer);
                    return Ok(());
                };
                let result = Ok(answer);
                Input::KeptAlive { call, result }
            }
            ToNode::Stopped(term) => {
                let records = to.completed.is_some_and(|(completed, _)| completed == term);
                if records && !to.so_far.is_reported {
                    // What has completed its job does not stop by itself as well.
                    return Ok(());
                }
                to.child.take_if(|child| child.term == term);
                Input::Stopped { term }
            }
            ToNode::JobEnds(term, succeeds) => return self.end_job(node, term, succeeds),
            ToNode::Kill(at) => {
                self.kill(node, at);
                return Ok(());
            }
        };
        self.handle(node, Some(input))
    }

    /// Gives a machine an input, or the time alone, and carries out what follows.
    pub fn handle(&mut self, node: usize, input: Option<Input>) -> Result<(), Violation> {
        let input = input.map(|input| self.as_seen_by(node, input));
        let now = self.now;
        let acted = self.nodes[node].acts(now);
        let (had, role) = (self.nodes[node].term(), self.nodes[node].role);
        self.nodes[node].role_before = role;
        let text = self.trace.is_some().then(|| match &input {
            Some(input) => input_text(input),
            None => "time passes".to_owned(),
        });
        if let Some(input) = &input {
            self.take_health(node, input);
        }
        let to = &mut self.nodes[node];
        let time = to.clock.read(now);
        let Some(machine) = &mut to.machine else {
            return Ok(());
        };
        match input {
            Some(input) => {
                self.checks.reports.show(node, &input);
                if let Input::Transacted {
                    call,
                    result: Ok(_),
                } = &input
                {
                    let looked = if to.so_far.probes == Some(*call) {
                        Looked::Permission
                    } else {
                        Looked::Keys
                    };
                    to.so_far.looked = looked.max(to.so_far.looked);
                }
                if matches!(input, Input::Withdraw | Input::Abandoned) {
                    self.checks.withdraws[node] = true;
                }
                if matches!(input, Input::Abandoned) {
                    to.abandoned = true;
                    to.child = None;
                }
                machine.handle(time, input);
            }
            None => machine.handle_timeout(time),
        }
        if let Some(text) = text {
            self.note(|world| format!("node {}  {text}", node + 1) + &world.belief(node));
        }
        self.carry_out(node)?;
        self.begin_to_wait(node, role);
        self.check_revival(node, had, acted)
    }

    pub fn carry_out(&mut self, node: usize) -> Result<(), Violation> {
        loop {
            let to = &mut self.nodes[node];
            let Some(machine) = &mut to.machine else {
                return Ok(());
            };
            to.role = machine.status().role;
            if let Some(action) = machine.poll_action() {
                if self.trace.is_some() && !matches!(action, Action::Disconnect) {
                    self.note(|_| format!("node {}    {}", node + 1, action_text(&action)));
                }
                self.act(node, action)?;
            } else if let Some(said) = machine.poll_event() {
                self.check_event(node, &said)?;
                self.check_handover_event(node, &said)?;
                self.check_yield(node, &said)?;
                self.check_still_acts(node, &said)?;
                self.check_job_event(node, &said)?;
                self.check_wait_event(node, &said)?;
                self.end_recording(node, &said);
                if let Said::Lost { term, .. } = said
                    && self.plan.actor == Actor::Asks
                    && self.nodes[node].untaken != Some(term)
                    && self.nodes[node].completed.is_none()
                    && !self.nodes[node].abandoned
                {
                    self.stop_in_time(node, term);
                }
                if matches!(said, Said::Withdrawn { .. }) {
                    self.crash(node);
                    let back = self.comes_back(node);
                    self.push(back, Event::Start { node });
                    return Ok(());
                }
            } else {
                break;
            }
        }
        self.set_alarm(node);
        self.mind_child(node);
        self.note_acting_alone(node);
        self.check_single_try(node)?;
        self.check_stands_back(node)?;
        self.check_acting(node)
    }

    pub fn set_alarm(&mut self, node: usize) {
        let late = if self.plan.actor == Actor::Asks && self.rng.u8(..) == 0 {
            self.rng.u64(0..50 * MILLI)
        } else {
            0
        };
        let now = self.now;
        let to = &mut self.nodes[node];
        let wanted = to.machine.as_ref().and_then(Machine::poll_timeout);
        if wanted != to.alarm_at {
            to.alarm_at = wanted;
            to.alarm += 1;
            if let Some(wanted) = wanted {
                let (at, alarm) = (to.clock.when(wanted).max(now) + late, to.alarm);
                self.schedule_input(at, node, ToNode::Alarm(alarm));
            }
        }
    }

    pub fn act(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        let now = self.now;
        let to = &mut self.nodes[node];
        let asked = match action {
            Action::Connect {
                call,
                endpoint,
                limit,
            } => {
                if to.attempts.iter().any(|(_, member)| *member == endpoint) {
                    return Err(self.violation(format!(
                        "node {} connects to one endpoint twice at once",
                        node + 1
                    )));
                }
                to.attempts.push((call, endpoint));
                return self.connect(node, call, endpoint, nanos(limit));
            }
            // It concerns people alone.
            Action::AskVersion { .. } => return Ok(()),
            Action::StopConnecting => {
                to.attempts.clear();
                return Ok(());
            }
            Action::Grant {
                call, lease, ttl, ..
            } => {
                self.check_look(node)?;
                let to = &mut self.nodes[node];
                to.call = Some(Call::Grant(call));
                let ttl = nanos(ttl.as_duration());
                Asked::Grant { call, lease, ttl }
            }
            Action::Try {
                call,
                lease,
                transaction,
                new_stream,
                ..
            } => {
                if transaction.is_campaign() {
                    self.check_campaign(node)?;
                }
                self.check_challenge(node, &transaction)?;
                self.keep_alive(node, call, lease, new_stream)?;
                Asked::Transaction { call, transaction }
            }
            Action::Look {
                call, transaction, ..
            } => {
                to.call = Some(Call::Look(call));
                if transaction == Transaction::probe() {
                    to.so_far.probes = Some(call);
                }
                Asked::Transaction { call, transaction }
            }
            Action::Execute { .. } | Action::AskLeaseTime { .. } | Action::Revoke { .. } => {
                return self.ask_beside(node, action);
            }
            Action::Watch {
                watch,
                from_revision,
                ..
            } => {
                self.checks.watches_no_more[node] = false;
                to.watch = Some(Watch::new(watch, to, from_revision));
                Asked::Watch {
                    watch,
                    from: from_revision,
                }
            }
            Action::Unwatch => {
                to.watch = None;
                self.checks.watches_no_more[node] = true;
                return Ok(());
            }
            Action::Disconnect => {
                to.disconnect();
                return Ok(());
            }
            Action::BackOff { call, at_most } => {
                let ready = now + nanos(at_most) * 10 / 9 + SECOND / 5;
                self.checks.is_not_ready(node, ready);
                self.checks.backed_off[node] = now;
                let time = self.rng.u64(0..=nanos(at_most));
                let mut at = now + self.nodes[node].clock.lasts(time);
                // Patience with an overloaded etcd is beyond the promise of when somebody leads.
                if at_most > Duration::from_secs(5) {
                    at = self.capped(at - now);
                }
                self.schedule_input(at, node, ToNode::Input(Input::BackedOff { call }));
                return Ok(());
            }
            Action::Lead { term, deadline } => return self.begin_term(node, term, deadline),
            Action::TakeBack { term } => {
                if to.untaken == Some(term) {
                    self.schedule_stopped(now, node, term);
                }
                return Ok(());
            }
        };
        self.ask(node, asked)
    }

    /// Asks for something beside the call under way.
    fn ask_beside(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        let (beside, asked) = match action {
            Action::Execute {
                call, transaction, ..
            } => (Beside::Execute(call), Asked::Execute { call, transaction }),
            Action::AskLeaseTime { call, lease, .. } => {
                (Beside::LeaseTime(call), Asked::LeaseTime { call, lease })
            }
            Action::Revoke { call, lease, .. } => {
                self.note_unused_lease(node, lease);
                (Beside::Revoke(call), Asked::Revoke { call, lease })
            }
            _ => return Ok(()),
        };
        self.nodes[node].beside.push(beside);
        self.ask(node, asked)
    }

    /// Sends the keepalive half of a try.
    fn keep_alive(
        &mut self,
        node: usize,
        call: CallId,
        lease: LeaseId,
        new_stream: bool,
    ) -> Result<(), Violation> {
        let now = self.now;
        let to = &mut self.nodes[node];
        to.call = Some(Call::Try(call));
        to.awaits_transaction = true;
        let stream = to.stream_for_keepalive(new_stream);
        let (stream, unread) = (stream.id, stream.unread.pop_front());
        to.awaits = Some(call);
        if let Some(answer) = unread {
            self.schedule_input(now, node, ToNode::KeptAlive { stream, answer });
        }
        let keep_alive = Asked::KeepAlive {
            call,
            stream,
            lease,
        };
        self.ask(node, keep_alive)
    }

    /// What asks before it acts stops at a time of its choice, and reports it then.
    fn stop_in_time(&mut self, node: usize, term: Term) {
        let habit = if self.plan.kinds.contains(&Kind::Linger) {
            self.rng.u8(0..10)
        } else {
            0
        };
        let longest = match habit {
            0..6 => 20 * MILLI,
            6..9 => self.plan.ttl * SECOND,
            _ => 6 * self.plan.ttl * SECOND,
        };
        self.count_if(habit >= 6, Kind::Linger);
        let takes = self.rng.u64(0..longest);
        let at = self.capped(takes).max(self.now + takes.min(20 * MILLI));
        self.schedule_stopped(at, node, term);
    }

    pub fn begin_term(
        &mut self,
        node: usize,
        term: Term,
        deadline: Moment,
    ) -> Result<(), Violation> {
        self.check_term(node, term, deadline)?;
        self.checks.handovers.began[node] = self.now;
        self.check_stands_back(node)?;
        self.check_job(node, term)?;
        let untaken =
            self.plan.kinds.contains(&Kind::Untaken) && !self.quiet && self.rng.u8(0..3) == 0;
        self.count_if(untaken, Kind::Untaken);
        let to = &mut self.nodes[node];
        to.untaken = untaken.then_some(term);
        if untaken {
            return Ok(());
        }
        if to.actor == Actor::Child {
            to.child = Some(Child {
                term,
                asked_to_end: false,
                killed_at: None,
            });
        }
        self.plan_end_of_job(node, term);
        Ok(())
    }

    /// Tells a child to end when its term is being lost, and sets by when it is killed.
    pub fn mind_child(&mut self, node: usize) {
        let lingers = self.plan.kinds.contains(&Kind::Linger);
        let to = &mut self.nodes[node];
        let (Some(child), Role::Stopping { term, by, .. }) = (&mut to.child, to.role) else {
            return;
        };
        if child.killed_at != Some(by) {
            child.killed_at = Some(by);
            let at = to.clock.when(by).max(self.now);
            let was_asked = std::mem::replace(&mut child.asked_to_end, true);
            let grace = nanos(to.settings.grace);
            self.schedule_input(at, node, ToNode::Kill(by));
            if was_asked {
                return;
            }
            // Or else it has to be killed.
            let obeys = !lingers || self.rng.bool();
            self.count_if(!obeys, Kind::Linger);
            if obeys {
                // Some take all the time they have.
                let takes = self.rng.u64(0..=grace * 4 / 3).min(grace);
                let at = self.now + self.nodes[node].clock.lasts(takes);
                self.schedule_stopped(at, node, term);
            }
        }
    }

    /// The report that what acts has stopped; it may be sent again.
    pub fn schedule_stopped(&mut self, at: Time, node: usize, term: Term) {
        self.schedule_input(at, node, ToNode::Stopped(term));
        if self.repeats() {
            let again = self.rng.u64(0..10 * SECOND);
            self.schedule_input(at + again, node, ToNode::Stopped(term));
        }
    }

    /// Sends the signal that nothing survives; the kernel takes up to a tenth of the grace.
    pub fn kill(&mut self, node: usize, set: Moment) {
        let to = &self.nodes[node];
        let Some(Child {
            term, killed_at, ..
        }) = to.child
        else {
            return;
        };
        if killed_at == Some(set) {
            let longest = nanos(to.settings.grace) / 10;
            let takes = self.rng.u64(0..=longest * 4 / 3).min(longest);
            let at = self.now + to.clock.lasts(takes);
            self.note(|_| format!("node {}  child is killed", node + 1));
            self.schedule_stopped(at, node, term);
        }
    }
}
