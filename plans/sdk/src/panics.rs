//! Makes a crash event of a panic: the hook notes where it was, since the task that ends with it only has the message.

use std::backtrace::Backtrace;
use std::collections::VecDeque;
use std::sync::{Mutex, Once, PoisonError};

use tokio::task::JoinError;

use crate::outcome::Outcome;

/// Panics that are remembered.
const KEPT: usize = 16;

struct Noted {
    message: String,
    place: String,
    stacktrace: String,
}

static NOTED: Mutex<VecDeque<Noted>> = Mutex::new(VecDeque::new());

/// Has panics noted from here on. They are still printed.
pub(crate) fn note() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let noted = Noted {
                message: text(panic.payload()),
                place: panic.location().map(ToString::to_string).unwrap_or_default(),
                stacktrace: Backtrace::force_capture().to_string(),
            };
            let mut all = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
            all.truncate(KEPT - 1);
            all.push_front(noted);
            drop(all);
            print(panic);
        }));
    });
}

fn text(payload: &(dyn std::any::Any + Send)) -> String {
    let str = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    str.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// The outcome of a task that panicked.
pub(crate) fn crash(err: JoinError) -> Outcome {
    let message = match err.try_into_panic() {
        Ok(payload) => text(&*payload),
        Err(err) => err.to_string(),
    };
    let noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    match noted.iter().find(|noted| noted.message == message) {
        Some(noted) => Outcome::Crash {
            error: format!("panicked at {}: {message}", noted.place),
            stacktrace: noted.stacktrace.clone(),
        },
        None => Outcome::Crash { error: format!("panicked: {message}"), stacktrace: String::new() },
    }
}
