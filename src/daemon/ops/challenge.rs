//! `challenge`: asks the leader to show that it is alive, and waits for its response or for the next leader.

use super::{
    ask::Asker,
    print,
    sent::Sent,
    step_down::{is_next, read_once_more, read_with_alarms, require_leader},
};
use crate::{
    clock,
    config::{Cluster, LeaderKey},
    daemon::{
        cli::ChallengeArgs,
        exit_code,
        render::{HISTORY_WENT_BACK, alarms_clause, required_role, state_sentence},
    },
    etcd::Values,
    observer::{ElectionState, Leader},
    printable::Printable,
    protocol::{Entry, FailOverLimit, Moment, Situation, Transaction, View},
};
use anyhow::{Context, bail};
use std::time::Duration;
use tokio::time::sleep;

/// The name in a challenge of this command, for people who look at the key.
const CHALLENGER: &str = "leader-election challenge";

/// How often the command looks at the keys: a read costs etcd no raft entry, and a leader responds within a
/// fifth of its limit, which is 40 ms at least.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Reads the election's keys with the challenge.
const LOOK: Transaction = Transaction::READ.about_challenge(true);

/// Challenges the leader, and waits until it has responded or another term has begun.
///
/// # Errors
/// If the leader cannot be challenged, neither happens in time, or etcd is unreachable or refuses.
pub(super) async fn run(
    cluster: &Cluster,
    leader_key: &LeaderKey,
    args: ChallengeArgs,
) -> anyhow::Result<u8> {
    let asker = Asker::new(cluster, leader_key, args.timeout);
    let ((view, _), alarms) = asker
        .ask(async |connection, limit| read_with_alarms(connection, limit, false).await)
        .await?;
    let state = ElectionState::of(&view);
    let sentence = state_sentence(&state, leader_key);
    if state.situation == Situation::Ending {
        bail!("nothing was done, because the term is about to end: {sentence}");
    }
    let Some(leader) = state.leader else {
        print(&sentence)?;
        return Ok(exit_code::NOTHING_FOUND);
    };
    let name = Printable(&leader.name);
    require_leader(&leader, args.if_leader)?;
    let Some(acting) = view.acting.as_ref().filter(|_| leader.acts) else {
        bail!("nothing was done, because this leader cannot be challenged: {sentence}");
    };
    let Some(limit) = leader.fail_over else {
        bail!(
            "the term of '{name}' has no fail-over limit (--fail-over), so that it does not respond to a challenge; \
             nothing was done; if it has failed, nobody else leads before its lease expires"
        );
    };
    let challenge = Challenge {
        asker: &asker,
        leader_key,
        leader: &leader,
        acting,
        limit,
        begun: clock::now(),
    };
    let shown = challenge.send(&alarms).await?;
    challenge.wait(&view, shown).await
}

/// A challenge to the leader of a term.
struct Challenge<'a> {
    asker: &'a Asker,
    leader_key: &'a LeaderKey,
    leader: &'a Leader,
    /// The key `leader/acting` of the term.
    acting: &'a Entry,
    /// The fail-over limit of the term.
    limit: FailOverLimit,
    begun: Moment,
}

/// How a challenge stands.
enum Progress {
    /// The leader has responded, and leads.
    Responded,
    /// Somebody leads in a later term.
    Next,
    /// Neither yet.
    Open,
}

impl Challenge<'_> {
    /// Sends the challenge, unless one stands or there is an alarm; returns the challenge that stands, `None` if
    /// the term is over.
    ///
    /// # Errors
    /// If the leader is not challenged, or that is not known.
    async fn send(&self, alarms: &[String]) -> anyhow::Result<Option<Entry>> {
        let name = Printable(&self.leader.name);
        let alarm = alarms_clause(alarms);
        let request = match alarm {
            // A full database refuses the request, and not the response to a challenge that stands.
            Some(_) => LOOK,
            None => Transaction::challenge(self.acting),
        };
        let values = Values::challenge(CHALLENGER);
        let sent = Sent::default();
        let response = self
            .asker
            .ask(async |connection, limit| {
                // A leader that has responded is not to be challenged again.
                let transaction = if sent.may_be_carried_out() {
                    &LOOK
                } else {
                    &request
                };
                let response = connection.transact(transaction, &values, limit).await;
                let outcome = response.inspect_err(|failure| sent.record(failure))?;
                Ok((outcome.succeeded && transaction.writes(), outcome.view))
            })
            .await;
        let (was_written, view, error) = match response {
            Ok((was_written, view)) => (was_written, view, None),
            Err(error) if sent.may_be_carried_out() => match self.look().await {
                Ok(view) => (false, view, Some(error)),
                Err(_) => return Err(error.context(self.unknown())),
            },
            Err(error) => return Err(error.context(self.refusal(&sent))),
        };
        let Some(challenge) = view.challenge.clone().filter(|_| self.stands(&view)) else {
            return match (alarm, error) {
                _ if !self.stands(&view) => Ok(None),
                (Some(clause), _) => bail!(
                    "{clause}; nothing was done, because a challenge needs room in the database, and it is not known \
                     whether '{name}' is alive"
                ),
                (_, Some(error)) if !sent.is_under_way() => Err(error.context(self.refusal(&sent))),
                (_, Some(error)) => Err(error.context(self.unknown())),
                (_, None) => bail!("{}", self.unknown()),
            };
        };
        let already = if was_written { "" } else { " already" };
        print(&format!(
            "'{name}' is challenged{already}, token {}, with a fail-over limit of {}.",
            self.leader.token, self.limit
        ))?;
        Ok(Some(challenge))
    }

    /// Waits until the leader has responded to the challenge, or another term has begun.
    ///
    /// # Errors
    /// If neither happens in time, or that is not known.
    async fn wait(&self, before: &View, challenge: Option<Entry>) -> anyhow::Result<u8> {
        let name = Printable(&self.leader.name);
        let unknown = || format!("it is not known whether '{name}' has responded");
        // A response of etcd's linearizable reads is never older than an earlier one.
        let is_older =
            |view: &View| view.cluster_id != before.cluster_id || view.revision < before.revision;
        let (view, progress) = self
            .asker
            .ask(async |connection, limit| {
                loop {
                    let outcome = connection.transact(&LOOK, &Values::default(), limit).await;
                    let view = outcome?.view;
                    let progress = self.progress(&view, challenge.as_ref());
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
        match progress {
            Progress::Responded => {
                let took = clock::now().since(self.begun).as_millis();
                print(&format!(
                    "'{name}' leads and has responded. That took {took} ms at most."
                ))?;
                Ok(exit_code::SUCCESS)
            }
            Progress::Next => {
                let state = ElectionState::of(&view);
                print(&state_sentence(&state, self.leader_key))?;
                Ok(exit_code::SUCCESS)
            }
            Progress::Open => {
                let limit = humantime::format_duration(self.asker.limit());
                let not_seen = format!("'{name}' was not seen to respond within {limit}");
                let found = read_once_more(self.asker, self.leader_key)
                    .await
                    .with_context(|| not_seen.clone())?;
                let state = found.sentences(self.leader_key);
                let stands = match view.challenge {
                    Some(_) if self.stands(&view) => {
                        " The challenge stands: a candidate that sees it takes over, unless the leader responds \
                         first."
                    }
                    _ => "",
                };
                bail!("{not_seen}, and nobody else began to lead: {state}{stands}")
            }
        }
    }

    fn progress(&self, view: &View, challenge: Option<&Entry>) -> Progress {
        if is_next(&ElectionState::of(view), self.leader) {
            return Progress::Next;
        }
        // Another challenge may stand by now: each is written only while there is none.
        let created = |entry: &Entry| entry.create_revision;
        let is_gone = challenge.map(created) != view.challenge.as_ref().map(created);
        let leader = view.leader.as_ref();
        let leads = leader.is_some_and(|key| key.mod_revision == self.leader.token.get());
        if leads && self.stands(view) && is_gone {
            Progress::Responded
        } else {
            Progress::Open
        }
    }

    /// Returns true iff `leader/acting` is that of the term.
    fn stands(&self, view: &View) -> bool {
        let acting = view.acting.as_ref();
        acting.is_some_and(|acting| {
            (acting.mod_revision, acting.lease) == (self.acting.mod_revision, self.acting.lease)
        })
    }

    async fn look(&self) -> anyhow::Result<View> {
        let looking = self.asker.ask(async |connection, limit| {
            connection.transact(&LOOK, &Values::default(), limit).await
        });
        Ok(looking.await?.view)
    }

    fn unknown(&self) -> String {
        let name = Printable(&self.leader.name);
        format!(
            "it is not known whether '{name}' was challenged; look at the status, then repeat the command"
        )
    }

    /// Returns a clause that says what failed, and what to do if the user's role does not permit it.
    fn refusal(&self, sent: &Sent) -> String {
        let name = Printable(&self.leader.name);
        let advice = if sent.is_denied() {
            let key = Printable(self.leader_key.as_str().as_bytes());
            let advice = required_role(self.leader_key);
            format!(" (the etcd user may not read and write the key '{key}/challenge'; {advice})")
        } else {
            String::new()
        };
        format!("could not challenge '{name}', and nothing was done{advice}")
    }
}
