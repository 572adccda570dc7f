//! Prints an error with its causes on one line.

use std::error::Error;
use std::fmt;

/// Displays an error followed by its sources, joined by `: `.
///
/// A source that its parent has already spelled out is left out: some crates,
/// async-nats among them, both print their source and return it.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut source = self.0.source();
        while let Some(err) = source {
            let text = err.to_string();
            if !shown.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            source = err.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("disk full")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to write `a`")]
    struct Plain(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("failed to write `a`: {0}")]
    struct Repeating(#[source] Inner);

    #[test]
    fn each_cause_is_told_once() {
        assert_eq!(Chain(&Plain(Inner)).to_string(), "failed to write `a`: disk full");
        assert_eq!(Chain(&Repeating(Inner)).to_string(), "failed to write `a`: disk full");
    }
}
