//! What an instance has too much of on the disk, seen while it runs and when it has ended.

use std::path::PathBuf;

use groundswell_common::quotas::Quotas;

use crate::keep::disk::size;
use crate::trees::{Held, Most, measure};

/// An instance's directories, and how much they may hold.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    /// Its directory in the spool.
    pub(crate) directory: PathBuf,
    /// What is allowed.
    pub(crate) quotas: Quotas,
}

impl Allowance {
    /// What is too much on the disk of an instance that runs. What a sparse file claims harms nobody yet.
    pub(crate) async fn while_it_runs(&self) -> Option<String> {
        let outputs = self.held("outputs", self.outputs()).await;
        let on_disk = Held { apparent: 0, ..outputs };
        if let Some(excess) = excess("outputs", on_disk, self.outputs()) {
            return Some(excess);
        }
        let most = Most { files: u64::MAX, bytes: self.quotas.temp_bytes };
        let temp = Held { apparent: 0, ..self.held("temp", most).await };
        excess("temp", temp, most)
    }

    /// What is too much in the outputs of an instance that has ended.
    pub(crate) async fn at_its_end(&self) -> Option<String> {
        excess("outputs", self.held("outputs", self.outputs()).await, self.outputs())
    }

    fn outputs(&self) -> Most {
        Most { files: self.quotas.outputs_files, bytes: self.quotas.outputs_bytes }
    }

    async fn held(&self, name: &str, most: Most) -> Held {
        let path = self.directory.join(name);
        let measured = tokio::task::spawn_blocking(move || measure(&path, most));
        measured.await.unwrap_or_default()
    }
}

/// Says what `held` is more than; `name` is the directory's, and begins those of its quotas.
fn excess(name: &str, held: Held, most: Most) -> Option<String> {
    let Most { files, bytes } = most;
    if held.files > files {
        return Some(format!(
            "quota: more than {files} files are in its directory `/{name}` (`{name}_files`)"
        ));
    }
    if held.bytes() > bytes {
        let (held, bytes) = (size(held.bytes()), size(bytes));
        return Some(format!(
            "quota: {held} are in its directory `/{name}`, more than {bytes} (`{name}_bytes`)"
        ));
    }
    (held.hidden > 0).then(|| {
        format!("quota: in its directory `/{name}` others are nested too deep to be looked at")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excess_names_the_quota() {
        let most = Most { files: 10, bytes: 1 << 20 };
        let of = |held| excess("outputs", held, most);
        let fits = Held { files: 10, apparent: 1 << 20, blocks: 1 << 20, hidden: 0 };
        assert_eq!(of(fits), None);
        let cases = [
            (
                Held { files: 11, ..fits },
                "more than 10 files are in its directory `/outputs` (`outputs_files`)",
            ),
            (
                Held { apparent: 1 << 40, ..fits },
                "1.0 TiB are in its directory `/outputs`, more than 1.0 MiB (`outputs_bytes`)",
            ),
            (Held { hidden: 1, ..fits }, "nested too deep"),
        ];
        for (held, says) in cases {
            let said = of(held).expect("too much");
            assert!(said.contains(says), "{said}");
        }
    }

    #[tokio::test]
    async fn a_sparse_file_is_too_much_only_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["outputs", "temp"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::File::create(dir.path().join(name).join("sparse"))
                .unwrap()
                .set_len(1 << 40)
                .unwrap();
        }
        let quotas = Quotas { temp_bytes: 1 << 20, ..Quotas::default() };
        let allowance = Allowance { directory: dir.path().to_owned(), quotas };
        assert_eq!(allowance.while_it_runs().await, None);
        assert!(allowance.at_its_end().await.expect("too much").contains("1.0 TiB"));
        std::fs::write(dir.path().join("temp/full"), vec![1; 2 << 20]).unwrap();
        assert!(allowance.while_it_runs().await.expect("too much").contains("temp_bytes"));
    }
}
