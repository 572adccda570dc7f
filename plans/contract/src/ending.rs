//! Instances that end, each in another way.

use std::process::ExitCode;

use groundswell_sdk::prelude::*;
use tokio::task::yield_now;

/// The case whose exit code contradicts its outcome.
pub(crate) const EXIT_NONZERO: &str = "exit-nonzero";
/// Its exit code.
const NONZERO: u8 = 7;
/// Taken at once.
const CHUNK: usize = 1 << 20;
/// Whoever may take so much is not limited; the machine is not to suffer from it.
const ENOUGH: usize = 4096;

/// The exit code of this process: what the SDK says, but for one case.
pub(crate) fn exit_code(said: ExitCode) -> ExitCode {
    let contradicts = std::env::var("TEST_CASE").is_ok_and(|case| case == EXIT_NONZERO);
    if contradicts { ExitCode::from(NONZERO) } else { said }
}

/// Succeeds.
pub(crate) async fn succeed(cx: Ctx) -> Result {
    cx.signal_and_wait("together").await?;
    Ok(())
}

/// Ends with exit code 0 and without an outcome.
#[expect(clippy::disallowed_methods, reason = "nothing is to happen after it")]
pub(crate) async fn exit_silently(cx: Ctx) -> Result {
    cx.signal_and_wait("together").await?;
    std::process::exit(0)
}

/// Takes memory until somebody ends it.
pub(crate) async fn take_all_memory(cx: Ctx) -> Result {
    cx.signal_and_wait("together").await?;
    let mut taken = Vec::new();
    while taken.len() < ENOUGH {
        // What is not written to is not there.
        taken.push(vec![1_u8; CHUNK]);
        yield_now().await;
    }
    Err(format!("{} MiB were there to be taken: give the group less `memory`", taken.len()).into())
}

/// Waits for somebody who never comes. It has no timeout of its own: the run's ends it.
pub(crate) async fn stall(cx: Ctx) -> Result {
    cx.barrier("somebody-else").count(u64::from(cx.instances()) + 1).await?;
    Ok(())
}

/// Panics.
pub(crate) async fn panic(cx: Ctx) -> Result {
    cx.signal_and_wait("together").await?;
    panic!("asked to panic")
}

/// Is ended by a signal that it sends itself.
pub(crate) async fn abort(cx: Ctx) -> Result {
    cx.signal_and_wait("together").await?;
    std::process::abort()
}
