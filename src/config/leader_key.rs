//! The key of an election, and the keys below it.

use super::{InvalidText, JobId, check_text};
use crate::protocol::{FencingToken, SeatNumber};
use std::str::FromStr;

/// The key of an election: a text with the same restrictions as a [`Name`](super::Name). It cannot be a key that
/// may belong to another election.
///
/// An election owns its key, and all keys that begin with its key and a `/`. So a key must not end in
/// `/acting`, `/next` or `/challenge`, nor in `/candidates/X`, `/history/X` or `/done/X`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderKey(String);

impl LeaderKey {
    const ACTING: &str = "/acting";
    /// The endings of the other keys that an election may have.
    const RESERVED_ENDINGS: [&str; 3] = [Self::ACTING, "/next", "/challenge"];
    /// The folders, one level below its key, in which an election may have keys.
    const RESERVED_PARENTS: [&str; 3] = ["candidates", "history", "done"];

    /// Returns the key that holds the leader's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key whose existence shows that its holder may still be acting.
    #[must_use]
    pub fn acting(&self) -> String {
        format!("{}{}", self.0, Self::ACTING)
    }
}

impl Default for LeaderKey {
    fn default() -> Self {
        Self("leader".to_owned())
    }
}

impl FromStr for LeaderKey {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        let mut parts = text.rsplit('/').skip(1);
        // The first part of a key cannot be such a folder: no election's key precedes it.
        let parent = parts.next().filter(|_| parts.next().is_some());
        if Self::RESERVED_ENDINGS
            .iter()
            .any(|ending| text.ends_with(ending))
            || parent.is_some_and(|parent| Self::RESERVED_PARENTS.contains(&parent))
        {
            return Err(InvalidText::ReservedKey);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Candidates and terms.
impl LeaderKey {
    /// Returns the prefix of the candidates' seats.
    pub(crate) fn seats(&self) -> String {
        format!("{}/candidates/", self.as_str())
    }

    /// Returns the key of a seat.
    pub(crate) fn seat(&self, seat: SeatNumber) -> String {
        format!("{}{seat}", self.seats())
    }

    /// Returns which seat a key is, if it is one of this election.
    pub(crate) fn seat_of(&self, key: &[u8]) -> Option<SeatNumber> {
        let key = str::from_utf8(key).ok()?;
        let number = key.strip_prefix(&self.seats())?;
        let seat: SeatNumber = number.parse().ok()?;
        (self.seat(seat) == key).then_some(seat)
    }

    /// Returns the key that names the candidate to which the present term is to be handed.
    pub(crate) fn next(&self) -> String {
        format!("{}/next", self.as_str())
    }

    /// Returns the key that asks the leader to show that it is alive.
    pub(crate) fn challenge(&self) -> String {
        format!("{}/challenge", self.as_str())
    }

    /// Returns the prefix of the records of terms.
    pub(crate) fn history(&self) -> String {
        format!("{}/history/", self.as_str())
    }

    /// Returns the key of a term's record. Tokens have 20 digits, so that the keys sort by age.
    pub(crate) fn term(&self, token: FencingToken) -> String {
        format!("{}{:020}", self.history(), token.get())
    }

    /// Returns the token of the term whose record this key holds, if it is one of this election.
    pub(crate) fn token_of(&self, key: &[u8]) -> Option<FencingToken> {
        let key = str::from_utf8(key).ok()?;
        let token = key.strip_prefix(&self.history())?;
        let token = FencingToken::new(token.parse().ok()?);
        (self.term(token) == key).then_some(token)
    }
}

/// Jobs that run once.
impl LeaderKey {
    /// Returns the prefix of the keys that hold the records of jobs.
    #[must_use]
    pub fn done_prefix(&self) -> String {
        format!("{}/done/", self.as_str())
    }

    /// Returns the key that records that a job is done. It is the prefix and the job's ID. `/` and `%` in the ID
    /// are written as `%2F` and `%25`.
    ///
    /// Otherwise, with a `/` in the ID, the key could belong to another election.
    #[must_use]
    pub fn done(&self, job: &JobId) -> String {
        let id = job.as_str().replace('%', "%25").replace('/', "%2F");
        format!("{}{id}", self.done_prefix())
    }

    /// Returns the job whose record this key holds, if the key is a record of this election.
    #[must_use]
    pub fn job_of(&self, key: &[u8]) -> Option<JobId> {
        let key = str::from_utf8(key).ok()?;
        let id = key.strip_prefix(&self.done_prefix())?;
        let job: JobId = id.replace("%2F", "/").replace("%25", "%").parse().ok()?;
        (self.done(&job) == key).then_some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_could_belong_to_another_election_is_refused() {
        for reserved in [
            "x/acting",
            "x/next",
            "x/y/challenge",
            "x/candidates/00",
            "x/history/7",
            "x/done/job",
            "/done/job",
            "x/done/",
        ] {
            let parsed = reserved.parse::<LeaderKey>();
            assert_eq!(parsed, Err(InvalidText::ReservedKey), "{reserved}");
        }
        for free in [
            "done",
            "next",
            "x/done",
            "done/job",
            "history/leader",
            "x/candidates/y/z",
            "x/acting/y",
            "x/nextone",
        ] {
            assert!(free.parse::<LeaderKey>().is_ok(), "{free}");
        }
    }

    #[test]
    fn seats_and_terms_are_read_back_from_their_keys() {
        let election: LeaderKey = "a/b".parse().unwrap();
        for seat in SeatNumber::all() {
            let key = election.seat(seat);
            assert_eq!(election.seat_of(key.as_bytes()), Some(seat));
            assert_eq!(key.parse::<LeaderKey>(), Err(InvalidText::ReservedKey));
        }
        assert_eq!(
            election.seat(SeatNumber::all().next().unwrap()),
            "a/b/candidates/00"
        );
        for other in [
            "a/b/candidates/16",
            "a/b/candidates/1",
            "a/b/candidates/+1",
            "a/candidates/01",
        ] {
            assert_eq!(election.seat_of(other.as_bytes()), None, "{other}");
        }
        let token = FencingToken::new(42);
        let key = election.term(token);
        assert_eq!(key, "a/b/history/00000000000000000042");
        assert_eq!(election.token_of(key.as_bytes()), Some(token));
        for other in ["a/b/history/42", "a/b/history/", "a/b"] {
            assert_eq!(election.token_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn each_job_has_a_key_of_its_own_from_which_it_is_read_back() {
        let election: LeaderKey = "a/b".parse().unwrap();
        let jobs = ["migrate-42", "a/b", "a%2Fb", "a%b", "%25", "é 1", "done"];
        let keys = jobs.map(|job| election.done(&job.parse().unwrap()));
        assert_eq!(keys[0], "a/b/done/migrate-42");
        assert_eq!(keys[1], "a/b/done/a%2Fb");
        assert_eq!(keys[2], "a/b/done/a%252Fb");
        for (job, key) in jobs.iter().zip(&keys) {
            let found = election.job_of(key.as_bytes());
            assert_eq!(found.unwrap().as_str(), *job);
            // No other election can have this key.
            assert_eq!(key.parse::<LeaderKey>(), Err(InvalidText::ReservedKey));
        }
        for other in ["a/b", "a/b/done/", "a/b/done/x/y", "x/done/y", "a/b/done/%"] {
            assert_eq!(election.job_of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(election.job_of(b"a/b/done/\xff"), None);
    }
}
