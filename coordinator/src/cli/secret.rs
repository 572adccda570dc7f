//! Secrets that the command line makes go into files for their owners' eyes only.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::Trouble;
use super::exit::Exit;

/// Writes a secret. A file that is there stays.
pub(crate) fn keep(path: &Path, secret: &str) -> Result<(), Trouble> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{secret}"));
    written.map_err(|err| {
        let help = if err.kind() == std::io::ErrorKind::AlreadyExists {
            "secrets are not overwritten: remove it first, or name another file"
        } else {
            ""
        };
        Trouble::new(Exit::Usage, format!("failed to write `{}`: {err}", path.display()), help)
    })
}

/// Removes a secret that is of no use.
pub(crate) fn discard(path: &Path) {
    // It is of no use also where it cannot be removed.
    let _gone = std::fs::remove_file(path);
}
