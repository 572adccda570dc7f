//! Follows the one message that says what this worker should be doing.
//!
//! It is read by direct get at the start, whenever the connection may have missed a copy, and whenever a
//! heartbeat's answer names another one; the republished copy brings it at once otherwise.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::StreamExt as _;
use groundswell_common::bus::{Bus, decode};
use groundswell_common::chain::Chain;
use groundswell_common::ids::WorkerId;
use groundswell_common::messages::Desired;
use groundswell_common::subjects;
use groundswell_common::timing::REQUEST_TIMEOUT;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// How long a server of a cluster may be behind its others.
const BEHIND: Duration = Duration::from_millis(100);

/// The desired state and where it is in the stream. The default is that there is none yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    /// Its sequence in the stream; 0 is none.
    pub(crate) sequence: u64,
    /// The state.
    pub(crate) desired: Desired,
}

/// Follows for ever.
pub(crate) async fn follow(
    bus: Bus,
    worker: WorkerId,
    mut named: watch::Receiver<u64>,
    seen: watch::Sender<Seen>,
) {
    loop {
        let mut copies = match bus.client().subscribe(subjects::assigned(&worker)).await {
            Ok(copies) => copies,
            Err(err) => {
                warn!(error = %err, "cannot subscribe to assignments");
                sleep(REQUEST_TIMEOUT).await;
                continue;
            }
        };
        // After subscribing, so that nothing falls between.
        read(&bus, &worker, &seen).await;
        loop {
            tokio::select! {
                copy = copies.next() => match copy {
                    Some(copy) => take_copy(&seen, copy.headers.as_ref(), &copy.payload),
                    None => break,
                },
                Ok(()) = named.changed() => {}
            }
            let wanted = *named.borrow_and_update();
            if wanted != 0 && wanted != seen.borrow().sequence {
                read(&bus, &worker, &seen).await;
                if seen.borrow().sequence < wanted {
                    // The server that answered has not got it yet.
                    sleep(BEHIND).await;
                    read(&bus, &worker, &seen).await;
                }
            }
        }
    }
}

fn take_copy(seen: &watch::Sender<Seen>, headers: Option<&HeaderMap>, payload: &[u8]) {
    let sequence = headers
        .and_then(|headers| headers.get("Nats-Sequence"))
        .and_then(|value| value.as_str().parse().ok());
    let Some(sequence) = sequence else {
        debug!("an assignment's copy has no sequence");
        return;
    };
    take(seen, sequence, payload);
}

/// Reads the kept message; none is no error.
async fn read(bus: &Bus, worker: &WorkerId, seen: &watch::Sender<Seen>) {
    let mut pause = Duration::from_millis(50);
    loop {
        match timeout(REQUEST_TIMEOUT, direct_get(bus, worker)).await {
            Ok(Ok(Some((sequence, payload)))) => return take(seen, sequence, &payload),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => debug!(error, "assignment not read"),
            Err(_) => debug!("assignment not read in time"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(REQUEST_TIMEOUT);
    }
}

async fn direct_get(bus: &Bus, worker: &WorkerId) -> Result<Option<(u64, bytes::Bytes)>, String> {
    use async_nats::jetstream::stream::DirectGetErrorKind;

    let stream = bus
        .jetstream()
        .get_stream_no_info(subjects::ASSIGN_STREAM)
        .await
        .map_err(|err| Chain(&err).to_string())?;
    match stream.direct_get_last_for_subject(subjects::assign(worker)).await {
        Ok(message) => Ok(Some((message.sequence, message.payload))),
        Err(err) if err.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(err) => Err(Chain(&err).to_string()),
    }
}

/// Takes a state in, unless a later one is here already. A copy may be late, and a direct get is answered by any
/// server of a cluster, also by one that is behind. Sequences begin anew only with another leader: whoever makes
/// the stream is one.
fn take(seen: &watch::Sender<Seen>, sequence: u64, payload: &[u8]) {
    let desired: Desired = match decode(payload) {
        Ok(desired) => desired,
        Err(err) => {
            warn!(error = %err, sequence, "assignment is not readable");
            return;
        }
    };
    seen.send_if_modified(|seen| {
        if (desired.term, sequence) < (seen.desired.term, seen.sequence) {
            debug!(term = desired.term, sequence, "an older assignment ignored");
            return false;
        }
        let next = Seen { sequence, desired };
        let changed = *seen != next;
        *seen = next;
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundswell_common::bus::encode;

    #[test]
    fn a_former_leader_a_late_copy_and_a_server_that_is_behind_change_nothing() {
        let (seen, _) = watch::channel(Seen::default());
        let state = |term| encode(&Desired { term, shares: Vec::new() });
        let headers = |sequence: u64| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Sequence", sequence.to_string().as_str());
            headers
        };
        take_copy(&seen, Some(&headers(7)), &state(3));
        assert_eq!((seen.borrow().sequence, seen.borrow().desired.term), (7, 3));
        take_copy(&seen, Some(&headers(9)), &state(2));
        assert_eq!(seen.borrow().sequence, 7, "a lower term");
        take_copy(&seen, Some(&headers(6)), &state(3));
        assert_eq!(seen.borrow().sequence, 7, "a late copy");
        take(&seen, 6, &state(3));
        assert_eq!(seen.borrow().sequence, 7, "a server that is behind");
        take(&seen, 1, &state(4));
        assert_eq!(seen.borrow().sequence, 1, "a stream that was made anew");
    }
}
