//! The candidates' seats, for processes that only observe: reads them together with the two keys,
//! and watches them.

use super::{Connection, Values};
use crate::{
    clock,
    protocol::{Failure, FailureKind, Reads, Transaction, View},
};
use etcd_client::{WatchOptions, WatchStream};
use std::time::Duration;

/// A watch of the seats: it shows that something has changed, and not what.
///
/// It has a stream of its own, so that the watches of the two keys go on if etcd cancels it.
pub(crate) struct SeatsWatch {
    stream: WatchStream,
    connection: Connection,
}

impl Connection {
    /// Reads both keys, and the seats and `KEY/next` in the same transaction.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses, such as for a role that may read the two keys only.
    pub async fn read_with_seats(&self, limit: Duration) -> Result<View, Failure> {
        let transaction = Transaction::READ.reading(Reads::KeysAndSeats);
        // It writes nothing.
        let values = Values::default();
        let outcome = self.transact(&transaction, &values, limit).await?;
        Ok(outcome.view)
    }

    /// Does the same. If etcd refuses to show the seats, reads the keys alone, and also returns why.
    ///
    /// # Errors
    /// If etcd does not respond in time, or refuses to show the keys too.
    pub async fn read_with_seats_if_permitted(
        &self,
        limit: Duration,
    ) -> Result<(View, Option<Failure>), Failure> {
        let until = clock::now() + limit;
        match self.read_with_seats(limit).await {
            Ok(view) => Ok((view, None)),
            // Values that somebody wrote by hand may be too large for one response: that is refused too.
            Err(failure) if matches!(failure.kind, FailureKind::Denied | FailureKind::Refused) => {
                let view = self.read(until.since(clock::now())).await?;
                Ok((view, Some(failure)))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Watches the seats.
    pub async fn watch_seats(
        &self,
        from_revision: i64,
        limit: Duration,
    ) -> Result<SeatsWatch, Failure> {
        let (first, end) = self.target.keys.seat_range();
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(from_revision)
            .with_fragment();
        let mut watches = self.transport.client.watch_client();
        let opening = watches.watch(first, Some(options));
        Ok(SeatsWatch {
            stream: self.call(limit, "opening a watch", opening).await?,
            connection: self.clone(),
        })
    }
}

impl SeatsWatch {
    /// Waits until a seat was written or deleted; false if the watch has ended, for any reason. Cancel
    /// safe.
    pub async fn changed(&mut self) -> bool {
        let keys = &self.connection.target.keys;
        loop {
            let Ok(Some(response)) = self.stream.message().await else {
                return false;
            };
            if response.canceled() {
                return false;
            }
            let mut changed = response.events().iter().filter_map(|event| event.kv());
            if changed.any(|key_value| keys.is_seat(key_value.key())) {
                return true;
            }
        }
    }
}
