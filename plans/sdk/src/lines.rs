//! Files of JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Nanoseconds since 1970, as every line has them.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A file that is made when its first line is written, and appended to: an earlier life of the instance may have
/// begun it. A line that cannot be written is no reason to stop a test.
#[derive(Debug)]
pub(crate) struct LineFile {
    path: Option<PathBuf>,
    file: Option<BufWriter<File>>,
    left: u64,
}

impl LineFile {
    pub(crate) fn open(path: Option<PathBuf>, max_bytes: u64) -> Self {
        Self { path, file: None, left: max_bytes }
    }

    /// Appends a line, while there is room.
    pub(crate) fn write(&mut self, line: &Value) {
        if self.file.is_none()
            && let Some(path) = self.path.take()
        {
            let file = OpenOptions::new().create(true).append(true).open(path);
            self.file = file.ok().map(BufWriter::new);
        }
        let Some(file) = &mut self.file else { return };
        let mut text = line.to_string();
        text.push('\n');
        let Some(left) = self.left.checked_sub(text.len() as u64) else {
            self.left = 0;
            return;
        };
        self.left = left;
        if file.write_all(text.as_bytes()).is_err() {
            self.file = None;
        }
    }

    pub(crate) fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            // What cannot be written now is tried again with the next line.
            let _ = file.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_to_its_limit_and_keeps_what_an_earlier_life_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        for life in 0..2 {
            let mut file = LineFile::open(Some(path.clone()), 5);
            file.write(&Value::from(life));
            file.write(&Value::from(100 + life));
            file.write(&Value::from(7));
            file.flush();
        }
        // The second of each life is too long for what is left, and nothing follows it.
        assert_eq!(std::fs::read_to_string(path).unwrap(), "0\n1\n");
    }
}
