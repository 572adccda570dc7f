//! The moment at which the plan's first line ran.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

static BEGIN: OnceLock<(Instant, Duration)> = OnceLock::new();

/// Notes that this is the moment.
pub(crate) fn note() {
    both();
}

/// How long ago it was.
pub(crate) fn elapsed() -> Duration {
    both().0.elapsed()
}

/// When it was, counted from 1970 by the host's clock.
pub(crate) fn at() -> Duration {
    both().1
}

fn both() -> (Instant, Duration) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    *BEGIN.get_or_init(|| (Instant::now(), now()))
}
