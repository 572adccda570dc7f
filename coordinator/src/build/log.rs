//! What a build prints, kept.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// How much of a log is kept, in bytes. A build that prints more has its end left out.
const LONGEST: u64 = 16 << 20;
const LEFT_OUT: &str = "… the rest is left out: a build's log is kept up to 16 MiB\n";

/// A build's log, in a file until it is stored.
#[derive(Debug)]
pub(super) struct BuildLog {
    file: Mutex<(tempfile::NamedTempFile, u64)>,
}

impl BuildLog {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: Mutex::new((tempfile::NamedTempFile::new()?, 0)) })
    }

    /// Adds a line. A disk that takes no more costs the log and not the build.
    pub(super) fn add(&self, line: &str) {
        let mut locked = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, written) = &mut *locked;
        let before = *written;
        *written += line.len() as u64 + 1;
        if *written <= LONGEST {
            let _ = writeln!(file, "{line}");
        } else if before <= LONGEST {
            let _ = file.write_all(LEFT_OUT.as_bytes());
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> std::path::PathBuf {
        let locked = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Path::new(locked.0.path()).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_kept_up_to_its_limit() {
        let log = BuildLog::new().expect("a file");
        log.add("first");
        let long = "x".repeat(1 << 20);
        for _ in 0..20 {
            log.add(&long);
        }
        let kept = std::fs::read_to_string(log.path()).expect("there");
        assert!(kept.starts_with("first\n") && kept.ends_with(LEFT_OUT));
        assert!(kept.len() as u64 <= LONGEST + LEFT_OUT.len() as u64);
        assert_eq!(kept.matches(LEFT_OUT).count(), 1);
    }
}
