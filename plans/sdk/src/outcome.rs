//! How an instance ends.

use std::process::ExitCode;

/// What a case returns: any error will do, and `Err("text".into())` as well.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The case returned `Ok`, and all its checks held.
    Success,
    /// The case returned an error, a check did not hold, or it was ended from outside.
    Failure(String),
    /// The case panicked.
    Crash {
        /// The panic's message and place.
        error: String,
        /// The calls that led there.
        stacktrace: String,
    },
}

impl Outcome {
    /// Whether it is a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success)
    }

    /// 0 for success, 1 for failure, 2 for a crash. The platform goes by the event; this is for people and scripts.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Success => ExitCode::SUCCESS,
            Self::Failure(_) => ExitCode::from(1),
            Self::Crash { .. } => ExitCode::from(2),
        }
    }
}

/// An error with all its causes, as one text. A cause that its parent has spelled out is left out.
pub(crate) fn told(err: &(dyn std::error::Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut shown = text.clone();
    let mut cause = err.source();
    while let Some(err) = cause {
        let next = err.to_string();
        if !shown.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        shown = next;
        cause = err.source();
    }
    text
}

/// Ends the case with an error unless a condition holds.
///
/// ```
/// # fn case(found: usize) -> groundswell_sdk::Result {
/// groundswell_sdk::ensure!(found > 0, "found {found} peers");
/// # Ok(())
/// # }
/// # assert_eq!(case(0).unwrap_err().to_string(), "found 0 peers");
/// ```
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return ::std::result::Result::Err(::std::format!($($message)+).into());
        }
    };
}
