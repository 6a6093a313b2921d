//! The role of this replica, as clients see it, and the changes of the role.

use crate::{
    printable::Printable,
    protocol::{Event, FencingToken, LossReason, Moment, Role},
};
use std::time::SystemTime;

/// How much of a leader's value is kept, in bytes: one character more than is shown, so that a
/// longer one is still known to be longer.
const KEPT_VALUE: usize = Printable::LONGEST + 4;

/// What a replica does at an instant, by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CurrentRole {
    Follower,
    Leader,
    Stopping,
}

impl CurrentRole {
    pub const ALL: [Self; 3] = [Self::Follower, Self::Leader, Self::Stopping];

    /// Returns the name that programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::Leader => "leader",
            Self::Stopping => "stopping",
        }
    }

    /// Returns what a replica with this role in the protocol does now.
    pub fn at(now: Moment, role: Role) -> Self {
        match role {
            Role::Follower => Self::Follower,
            Role::Leader { deadline, .. } if now < deadline => Self::Leader,
            Role::Leader { .. } | Role::Stopping { .. } | Role::Withdrawn => Self::Stopping,
        }
    }
}

/// A change that an event means for this replica.
#[derive(Clone)]
pub(super) enum RoleChange {
    /// It leads.
    Leads { token: FencingToken },
    /// It follows the leader with this value, or nobody leads.
    Follows { leader: Option<Box<[u8]>> },
    /// It stops leading.
    Stops {
        token: FencingToken,
        reason: LossReason,
    },
}

impl RoleChange {
    /// Returns the change that an event means, if it means one.
    pub fn from_event(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Leading { term, .. } => Self::Leads { token: term.token },
            Event::Following { leader } => {
                let kept = leader.value.len().min(KEPT_VALUE);
                Self::Follows {
                    leader: Some(leader.value[..kept].into()),
                }
            }
            Event::SomebodyStillActs | Event::LeaderGone => Self::Follows { leader: None },
            Event::Lost { term, reason } => Self::Stops {
                token: term.token,
                reason: *reason,
            },
            _ => return None,
        })
    }

    /// Returns the role that the replica has afterwards.
    pub const fn role(&self) -> CurrentRole {
        match self {
            Self::Leads { .. } => CurrentRole::Leader,
            Self::Follows { .. } => CurrentRole::Follower,
            Self::Stops { .. } => CurrentRole::Stopping,
        }
    }
}

/// A change and when it happened.
#[derive(Clone)]
pub(super) struct Transition {
    pub at: SystemTime,
    pub change: RoleChange,
}
