//! The value of `KEY/next`: the term to hand over. The key is bound to the lease of the candidate
//! that leads next.

use crate::protocol::FencingToken;
use serde_json::Value;

/// The request to hand a term to a chosen candidate, as far as it can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextRecord {
    /// The fencing token of the term that is to be handed over. In a later term, the key says nothing.
    pub token: Option<FencingToken>,
}

impl NextRecord {
    /// Returns the value of the key: a JSON object. The lease is for people; the key's own lease counts.
    #[cfg(any(test, feature = "daemon"))]
    pub fn encode(token: FencingToken, lease: crate::protocol::LeaseId) -> String {
        serde_json::json!({ "token": token.get(), "lease": lease.to_string() }).to_string()
    }

    /// Reads the value of a key, which may be anything; a field that cannot be read is `None`.
    pub fn decode(value: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(value).unwrap_or_default();
        Self {
            token: object["token"].as_i64().map(FencingToken::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::LeaseId;

    #[test]
    fn what_is_written_can_be_read() {
        let token = FencingToken::new(i64::MAX);
        let value = NextRecord::encode(token, LeaseId::new(7));
        assert_eq!(NextRecord::decode(value.as_bytes()).token, Some(token));
        for unreadable in [&b"\xff"[..], b"7", br#"{"token":"7"}"#] {
            assert_eq!(NextRecord::decode(unreadable).token, None);
        }
    }
}
