//! Calls a coordinator by request and reply.

use std::time::Duration;

use async_nats::RequestErrorKind;
use groundswell_common::bus::{Bus, RequestError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use tracing::error;

use super::Trouble;
use super::exit::Exit;

/// How long a coordinator may be away, while a standby takes over for example.
const PATIENCE: Duration = Duration::from_secs(25);
/// After how long people are told what they wait for.
const SAY_SO: Duration = Duration::from_secs(3);

/// Calls the coordinator. A call that nobody got, or whose answer was lost, is repeated: every call means the same
/// when it comes twice, `submit` because of its key.
pub(crate) async fn call<R: DeserializeOwned>(
    bus: &Bus,
    name: &str,
    request: &(impl Serialize + Sync),
) -> Result<R, Trouble> {
    let began = Instant::now();
    let mut said = false;
    loop {
        let err = match bus.call::<R>(name, request).await {
            Ok(answer) => return answer.map_err(Trouble::from),
            Err(err) => err,
        };
        let again = match &err {
            RequestError::NoAnswer { .. } => true,
            RequestError::Unreadable { .. } | RequestError::Forbidden { .. } => false,
        };
        if !again || began.elapsed() > PATIENCE {
            return Err(unanswered(name, &err));
        }
        if !said && began.elapsed() > SAY_SO {
            said = true;
            error!(seconds = PATIENCE.as_secs(), "no coordinator answers, waiting for a standby");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn unanswered(name: &str, err: &RequestError) -> Trouble {
    if let RequestError::Forbidden { .. } = err {
        return Trouble::new(
            Exit::Unreachable,
            format!("these credentials do not allow `{name}`"),
            "use those of a role that may: `coordinator nkey --help` lists the roles",
        );
    }
    let RequestError::NoAnswer { source, .. } = err else {
        return Trouble::new(
            Exit::Unreachable,
            groundswell_common::chain::Chain(err).to_string(),
            "this `coordinator` and the one that serves the cluster may be of different versions",
        );
    };
    if source.kind() == RequestErrorKind::NoResponders {
        return Trouble::new(
            Exit::Unreachable,
            "NATS works, but no coordinator is serving there",
            "start one with `coordinator serve`, with the same --nats and an --objects URL",
        );
    }
    let help =
        if name == "submit" { "look with `coordinator ls` whether the run exists" } else { "" };
    Trouble::new(
        Exit::Unreachable,
        format!("the coordinator did not answer `{name}` in time"),
        help,
    )
}
