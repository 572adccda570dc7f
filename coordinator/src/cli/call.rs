//! Calls a coordinator by request and reply.

use std::time::Duration;

use async_nats::RequestErrorKind;
use groundswell_common::api::Answer;
use groundswell_common::bus::{Bus, RequestError};
use groundswell_common::subjects;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::Trouble;
use super::exit::Exit;

/// How long a coordinator may be away, while a standby takes over for example.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls the coordinator. As long as nobody listens the call is repeated: nobody has got it. A call that was
/// sent and not answered is repeated too, except `submit`, which would make a second run.
pub(crate) async fn call<R: DeserializeOwned>(
    bus: &Bus,
    name: &str,
    request: &(impl Serialize + Sync),
) -> Result<R, Trouble> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let err = match bus.request::<Answer<R>>(subjects::api(name), request).await {
            Ok(answer) => return answer.map_err(Trouble::from),
            Err(err) => err,
        };
        let again = match &err {
            RequestError::NoAnswer { source, .. } => {
                source.kind() == RequestErrorKind::NoResponders || name != "submit"
            }
            RequestError::Unreadable { .. } => false,
        };
        if !again || Instant::now() > deadline {
            return Err(unanswered(name, &err));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn unanswered(name: &str, err: &RequestError) -> Trouble {
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
