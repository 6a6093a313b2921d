//! Derives the state of an election from its two keys. Only this module decides who leads.

use super::{ElectionKey, Entry};

/// The state of an election, as its two keys show it. Each pair of keys has exactly one of these
/// states.
///
/// Commands, HTTP and the log use it, so that they cannot contradict each other about the same keys. A
/// replica may have received the event of one key, and not yet that of the other. Then, for a moment,
/// it may evaluate a pair of keys that never existed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// One transaction wrote both keys: a campaign, a hand-over or a take-over. Its candidate leads.
    Led,
    /// `leader` is bound to a lease, and `leader/acting` is absent or was not written in the same
    /// transaction. Either a client without this protocol leads, or a key of a term was overwritten or
    /// deleted and the term is about to end.
    LedWithoutActing,
    /// Nobody leads. Nobody can be elected while `leader/acting` exists, because its holder may still
    /// be acting.
    Ending,
    /// Nobody leads. Nobody can be elected until an operator deletes this key, because no lease ever
    /// removes it. If `leader/acting` exists, its holder may still be acting.
    Blocked(ElectionKey),
    /// Nobody leads or acts: the next campaign wins.
    Vacant,
}

impl Situation {
    /// Evaluates both keys.
    #[must_use]
    pub fn of(leader: Option<&Entry>, acting: Option<&Entry>) -> Self {
        match (leader, acting) {
            (Some(Entry { lease: None, .. }), _) => Self::Blocked(ElectionKey::Leader),
            (Some(leader), Some(acting))
                if (acting.lease, acting.mod_revision) == (leader.lease, leader.mod_revision) =>
            {
                Self::Led
            }
            (Some(_), _) => Self::LedWithoutActing,
            (None, Some(Entry { lease: None, .. })) => Self::Blocked(ElectionKey::Acting),
            (None, Some(_)) => Self::Ending,
            (None, None) => Self::Vacant,
        }
    }

    /// Returns true iff somebody leads.
    #[must_use]
    pub const fn is_led(self) -> bool {
        match self {
            Self::Led | Self::LedWithoutActing => true,
            Self::Ending | Self::Blocked(_) | Self::Vacant => false,
        }
    }
}
