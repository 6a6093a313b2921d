//! Jobs that run once, and the keys of their records.

use super::{InvalidText, LeaderKey, check_text};
use std::{fmt, str::FromStr};

/// The name of a job that runs once: a text as a [`Name`](super::Name) may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobId(String);

impl JobId {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl LeaderKey {
    /// Returns the prefix of the keys that record which jobs are done.
    #[must_use]
    pub fn done_prefix(&self) -> String {
        format!("{}/done/", self.as_str())
    }

    /// Returns the key that records that a job is done: the prefix and the job's ID, in which `/` and
    /// `%` are written as `%2F` and `%25`.
    ///
    /// A `/` in the key would make it one that another election may use.
    #[must_use]
    pub fn done(&self, job: &JobId) -> String {
        let id = job.as_str().replace('%', "%25").replace('/', "%2F");
        format!("{}{id}", self.done_prefix())
    }

    /// Returns the job of which a key is the record, if it is one of this election.
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
