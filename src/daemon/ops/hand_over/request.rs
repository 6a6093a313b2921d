//! Sends the request to hand a term to a chosen candidate, and follows it until that candidate
//! acts.

use super::choice::Listed;
use crate::{
    config::LeaderKey,
    daemon::{
        exit_code,
        ops::{ask::Asker, print, sent::Sent, step_down::read_once_more},
        render::{HISTORY_WENT_BACK, required_role, state_sentence},
    },
    etcd::Values,
    observer::{ElectionState, Leader},
    printable::Printable,
    protocol::{FencingToken, Seat, Situation, Transaction, View},
    record::SeatRecord,
};
use anyhow::{Context, bail};
use std::time::Duration;
use tokio::time::sleep;

/// How often the command looks whether the candidate acts: an `Observer` reports the two keys only, and
/// a read costs etcd no raft entry.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The request to hand a term over.
pub(super) struct Request<'a> {
    pub asker: &'a Asker,
    pub leader_key: &'a LeaderKey,
    /// Who is asked.
    pub leader: &'a Leader,
    pub leader_seat: Option<&'a Seat>,
    pub to: Listed<'a>,
    pub transaction: Transaction,
}

/// How a request to hand over stands.
enum Progress {
    /// The candidate acts, or has acted, in this term.
    Acts(FencingToken),
    /// Somebody else leads in a later term.
    OtherLeads,
    /// The candidate has no seat any more.
    Gone,
    /// None of these yet.
    Open,
}

impl Request<'_> {
    /// Sends the request; returns false if the term is over and it is not known whether that is due to
    /// the request.
    ///
    /// # Errors
    /// If nothing was done, or it is not known whether anything was.
    pub async fn send(&self) -> anyhow::Result<bool> {
        let values = Values::choose(self.leader.token, self.to.lease);
        let sent = Sent::default();
        let response = self
            .asker
            .ask(async |connection, limit| {
                let transaction = &self.transaction;
                let response = connection.transact(transaction, &values, limit).await;
                response.inspect_err(|failure| sent.record(failure))
            })
            .await;
        let (name, to) = (Printable(&self.leader.name), &self.to);
        let error = match response {
            Ok(response) if response.succeeded || self.is_asked(&response.view) => return Ok(true),
            Ok(response) => {
                let view = &response.view;
                let may_be_due_to_it = sent.may_be_carried_out() || self.is_elected(view);
                if may_be_due_to_it && !self.stands(view) {
                    return Ok(false);
                }
                bail!("nothing was done, because {}", self.refusal(view));
            }
            Err(error) => error,
        };
        if sent.may_be_carried_out() {
            // If its database fills up just then, etcd carries a request out and refuses it nevertheless.
            let reading = self
                .asker
                .ask(async |connection, limit| connection.read_with_seats(limit).await);
            match reading.await {
                Ok(view) if self.is_asked(&view) => return Ok(true),
                Ok(view) if !self.stands(&view) => return Ok(false),
                Ok(_) if !sent.is_under_way() => {}
                _ => {
                    return Err(error.context(format!(
                        "it is not known whether '{name}' was asked to hand over to {to}; look at the \
                         status before you repeat the command"
                    )));
                }
            }
        }
        let advice = if sent.is_denied() {
            format!(" (the etcd user: {})", required_role(self.leader_key))
        } else {
            String::new()
        };
        Err(error.context(format!(
            "could not ask '{name}' to hand over to {to}, and nothing was done{advice}"
        )))
    }

    /// Returns a clause that says why the request was refused: what differs from what was read before.
    fn refusal(&self, view: &View) -> String {
        let to = &self.to;
        let state = ElectionState::of(view);
        if !self.stands(view) || state.situation != Situation::Led {
            let name = Printable(&self.leader.name);
            let state = state_sentence(&state, self.leader_key);
            return format!("the term of '{name}' ended meanwhile: {state}");
        }
        let seats = view.seats.as_ref();
        match seats.and_then(|seats| seats.of(to.lease)) {
            Some(_) => format!("{to} rewrote its seat meanwhile; repeat the command"),
            None => format!("{to} withdrew or died meanwhile"),
        }
    }

    /// Waits until the candidate acts.
    ///
    /// # Errors
    /// If it does not lead next, or does not act in time.
    pub async fn wait(&self, before: &View) -> anyhow::Result<u8> {
        let (name, to) = (Printable(&self.leader.name), &self.to);
        let unknown = || format!("it is not known whether {to} leads next");
        // A response of etcd's linearizable reads is never older than an earlier one.
        let is_older =
            |view: &View| view.cluster_id != before.cluster_id || view.revision < before.revision;
        let (view, progress) = self
            .asker
            .ask(async |connection, limit| {
                loop {
                    let view = connection.read_with_seats(limit).await?;
                    let progress = self.progress(&view);
                    let left = self.asker.left();
                    if !matches!(progress, Progress::Open) || is_older(&view) || left.is_zero() {
                        return Ok((view, progress));
                    }
                    sleep(LOOK_EVERY.min(left)).await;
                }
            })
            .await
            .with_context(unknown)?;
        if is_older(&view) {
            bail!("{HISTORY_WENT_BACK}, so that {}", unknown());
        }
        let state = state_sentence(&ElectionState::of(&view), self.leader_key);
        match progress {
            Progress::Acts(_) if self.is_elected(&view) => {
                print(&state)?;
                Ok(exit_code::SUCCESS)
            }
            Progress::Acts(token) => {
                print(&format!(
                    "{to} began to act, token {token}, and no longer leads. {state}"
                ))?;
                Ok(exit_code::SUCCESS)
            }
            Progress::Gone => bail!("{to} withdrew or died meanwhile: {state}"),
            Progress::OtherLeads => bail!("{to} does not lead next: {state}{}", self.hint()),
            Progress::Open => {
                let limit = humantime::format_duration(self.asker.limit());
                let not_seen = format!("{to} was not seen to act within {limit}");
                let found = read_once_more(self.asker, self.leader_key)
                    .await
                    .with_context(|| not_seen.clone())?;
                let state = found.sentences(self.leader_key);
                let request = if self.is_asked(&view) {
                    format!(" The request stands until '{name}' has finished or {to} is gone.")
                } else {
                    String::new()
                };
                bail!("{not_seen}: {state}{request}")
            }
        }
    }

    fn progress(&self, view: &View) -> Progress {
        let seats = view.seats.as_ref();
        let seat = seats.and_then(|seats| seats.of(self.to.lease));
        if let Some(token) = seat.and_then(|seat| seat.acts)
            && token > self.leader.token
        {
            return Progress::Acts(token);
        }
        if self.is_elected(view) {
            return Progress::Open;
        }
        let leads = Leader::of(view.leader.as_ref(), view.acting.as_ref());
        match (seat, leads) {
            (None, _) => Progress::Gone,
            (_, Some(next)) if next.token > self.leader.token => Progress::OtherLeads,
            _ => Progress::Open,
        }
    }

    /// Returns whether `KEY/next` asks for this term to be handed to the candidate.
    fn is_asked(&self, view: &View) -> bool {
        let seats = view.seats.as_ref();
        let chosen = seats.and_then(|seats| seats.chosen_for(self.leader.token));
        chosen == Some(self.to.lease)
    }

    /// Returns whether the term that is to be handed over has not begun to end.
    fn stands(&self, view: &View) -> bool {
        let leader = view.leader.as_ref();
        leader.is_some_and(|leader| {
            leader.mod_revision == self.leader.token.get()
                && leader.lease == Some(self.leader.lease)
        })
    }

    /// Returns whether the candidate is elected in a later term.
    fn is_elected(&self, view: &View) -> bool {
        let leads = Leader::of(view.leader.as_ref(), view.acting.as_ref());
        leads.is_some_and(|next| next.lease == self.to.lease && next.token > self.leader.token)
    }

    /// Returns a sentence that says why the old leader may not have done what it was asked to do.
    fn hint(&self) -> String {
        let name = Printable(&self.leader.name);
        let Some(seat) = self.leader_seat else {
            return format!(
                " '{name}' had no seat: it may run an older version, which ignores whom it is asked to \
                 hand over to."
            );
        };
        let version = SeatRecord::decode(&seat.entry.value).version;
        let own = env!("CARGO_PKG_VERSION");
        match version.filter(|version| version != own) {
            Some(version) => {
                let version = Printable(version.as_bytes());
                format!(" '{name}' runs version {version}, and this is version {own}.")
            }
            None => format!(" '{name}' did not hand over: its lease expired, or its log says why."),
        }
    }
}
