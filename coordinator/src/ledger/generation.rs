//! Notices that NATS has lost the control state.
//!
//! The first coordinator that leads names the control state, its generation. Each one keeps the name in a file of
//! its own beside NATS. Where the file and NATS do not agree, what NATS has is not what this coordinator knew: its
//! runs, tokens and cordons are gone or from another time. Going on would call lost runs unknown and make a new
//! first token, so people have to say that it is meant.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use async_nats::jetstream::kv;

use super::{LedgerError, unreachable};

const KEY: &str = "generation";

/// The file that knows the control state's name, and whether it may be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationFile {
    /// Where it is.
    pub path: PathBuf,
    /// Begin anew where NATS knows another name or none.
    pub bootstrap: bool,
}

impl GenerationFile {
    /// Checks that NATS has what this coordinator knew.
    pub(super) async fn check(&self, store: &kv::Store) -> Result<(), LedgerError> {
        let known = self.read()?;
        let found = read(store).await?;
        match known {
            Some(known) if found.as_ref() != Some(&known) && !self.bootstrap => {
                Err(LedgerError::Forgotten { path: self.path.clone(), known, found })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// As the leader: checks once more, names a control state that has no name, and keeps the name.
    pub(super) async fn settle(&self, store: &kv::Store) -> Result<(), LedgerError> {
        self.check(store).await?;
        let name = match read(store).await? {
            Some(name) => name,
            None => {
                let name = format!("{:016x}", rand::random::<u64>());
                let created = store.create(KEY, name.clone().into()).await;
                created.map_err(|err| unreachable("write", KEY, err))?;
                name
            }
        };
        self.write(&name).map_err(|source| self.unusable(source))
    }

    fn read(&self) -> Result<Option<String>, LedgerError> {
        match fs::read_to_string(&self.path) {
            Ok(name) => Ok(Some(name.trim().to_owned())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.unusable(source)),
        }
    }

    /// The name is there as a whole or not at all.
    fn write(&self, name: &str) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(file, "{name}")?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }

    fn unusable(&self, source: io::Error) -> LedgerError {
        LedgerError::Generation { path: self.path.clone(), source }
    }
}

async fn read(store: &kv::Store) -> Result<Option<String>, LedgerError> {
    let value = store.get(KEY).await.map_err(|err| unreachable("read", KEY, err))?;
    Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
}
