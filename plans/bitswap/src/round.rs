//! What all cases do in a round: seeds make files, leeches fetch them, and
//! everybody records what it counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use groundswell_bitswap::{Added, Cid, Fetch, Fetched, File};
use groundswell_sdk::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::kpi::{Snapshot, Tags, gini};
use crate::params::Setting;
use crate::rig::{Rig, Role};

/// A file that somebody has: which one, and how to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) key: u64,
    root: String,
    sha256: [u8; 32],
    pub(crate) size: u64,
}

impl Offer {
    /// The file's root.
    pub(crate) fn cid(&self) -> Result<Cid> {
        Ok(self.root.parse()?)
    }
}

/// The files of a round by their key.
pub(crate) type Offers = BTreeMap<u64, Offer>;

/// What an instance sent in a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sent {
    role: Role,
    pub(crate) data: u64,
    pub(crate) blocks: u64,
}

impl Rig {
    /// Makes the files with these keys, and puts them into the own store.
    pub(crate) fn make(&self, setting: &Setting, keys: &[u64]) -> Result<Vec<(u64, Added)>> {
        keys.iter().map(|key| Ok((*key, self.make_one(setting, *key)?))).collect()
    }

    fn make_one(&self, setting: &Setting, key: u64) -> Result<Added> {
        let block = self.params.block_bytes();
        let file = if self.params.input_data.is_empty() {
            let seed = self.params.seed ^ (key << 32) ^ (u64::from(setting.run) << 16);
            File::generate(seed ^ setting.size.0, setting.size.0, block)
        } else {
            File::open(&dataset_file(&self.params.input_data)?, block)?
        };
        Ok(file.add_to(self.bitswap.store()))
    }

    /// Tells everybody of own files, and hears of all.
    pub(crate) async fn offer(&self, round: &str, made: &[(u64, Added)]) -> Result<Offers> {
        let own = made.iter().map(|(key, added)| Offer {
            key: *key,
            root: added.root.to_string(),
            sha256: added.sha256,
            size: added.node.size(),
        });
        let own: Vec<_> = own.collect();
        let all = self.cx.exchange(&format!("offers-{round}"), &own).await?;
        let mut offers = Offers::new();
        for offer in all.into_iter().flat_map(|member| member.value) {
            let known = offers.entry(offer.key).or_insert_with(|| offer.clone());
            ensure!(*known == offer, "two instances made different files of key {}", offer.key);
        }
        Ok(offers)
    }

    /// Fetches a file and checks every byte of it.
    pub(crate) async fn get(&self, offer: &Offer, how: Fetch) -> Result<Fetched> {
        let fetched = self.bitswap.fetch_file(offer.cid()?, how).await?;
        self.verify(offer, &fetched);
        Ok(fetched)
    }

    /// Checks that a file is here as it was offered.
    pub(crate) fn verify(&self, offer: &Offer, fetched: &Fetched) {
        let whole = File::check(&fetched.node, self.bitswap.store());
        let missing = whole.as_ref().err().map_or(0, Vec::len);
        self.cx.check(
            whole == Ok(offer.sha256),
            format!("file {} is not what was offered; {missing} blocks are missing", offer.key),
        );
    }

    /// The one file of a round.
    pub(crate) fn only<'a>(&self, offers: &'a Offers, key: u64) -> Result<&'a Offer> {
        offers.get(&key).ok_or_else(|| format!("nobody offers the file with key {key}").into())
    }

    /// A round in which every leech fetches the same file at once.
    pub(crate) async fn plain_round(&self, name: &str, setting: &Setting) -> Result<Round> {
        let key = 0;
        self.fetch_round(name, setting, &[key], Some(key)).await
    }

    /// A round in which seeds have the files with `keys` and a leech fetches `wanted`.
    pub(crate) async fn fetch_round(
        &self,
        name: &str,
        setting: &Setting,
        keys: &[u64],
        wanted: Option<u64>,
    ) -> Result<Round> {
        let made = if self.is(Role::Seed) { self.make(setting, keys)? } else { Vec::new() };
        let offers = self.offer(name, &made).await?;
        let before = Snapshot::take(self).await?;
        let tags = Tags::of(setting);
        let mut fetched = None;
        self.cx
            .phase(&format!("transfer-{name}"), async {
                if let Some(key) = wanted.filter(|_| self.is(Role::Leech)) {
                    self.cx.stagger(self.params.request_stagger).await;
                    let offer = self.only(&offers, key)?;
                    let got = self.get(offer, self.params.fetch()).await?;
                    before.record_fetch(self, &got.report, offer.size, &tags).await?;
                    fetched = Some(got);
                }
                Ok(())
            })
            .await?;
        self.end_round(name, &before, &tags).await?;
        Ok(Round { fetched, offers })
    }

    /// Records the counters of a round, and how even the work was shared.
    pub(crate) async fn end_round(
        &self,
        name: &str,
        before: &Snapshot,
        tags: &Tags,
    ) -> Result<Vec<Sent>> {
        let counted = before.record(self, tags).await?;
        let own = Sent { role: self.me.role, data: counted.data_sent, blocks: counted.blks_sent };
        let all = self.cx.exchange(&format!("sent-{name}"), &own).await?;
        let all: Vec<_> = all.into_iter().map(|member| member.value).collect();
        if self.me.index == self.mates[0].index {
            let senders = all.iter().filter(|sent| sent.role != Role::Passive);
            tags.point(
                &self.cx,
                "upload_fairness",
                "ratio",
                gini(senders.map(|sent| sent.data).collect()),
            );
        }
        Ok(all)
    }

    /// Forgets the files of a round, so that the next one begins empty.
    pub(crate) fn clear(&self, round: &Round) {
        let mut names = Vec::new();
        for offer in round.offers.values() {
            names.extend(offer.root.parse::<Cid>());
        }
        for root in names {
            let store = self.bitswap.store();
            let node = store.get(&root).and_then(|block| block.read().ok());
            let node = node.and_then(|data| groundswell_bitswap::FileNode::decode(&data).ok());
            for (cid, _) in node.into_iter().flat_map(|node| node.blocks) {
                store.remove(&cid);
            }
            store.remove(&root);
        }
    }
}

/// How a round went.
#[derive(Debug)]
pub(crate) struct Round {
    /// What this instance fetched.
    pub(crate) fetched: Option<Fetched>,
    offers: Offers,
}

/// The first file of a dataset, or the file with this path.
fn dataset_file(name: &str) -> Result<PathBuf> {
    let listed = std::env::var("GROUNDSWELL_DATASETS").unwrap_or_else(|_| "{}".to_owned());
    let listed: BTreeMap<String, PathBuf> = serde_json::from_str(&listed)?;
    let path = listed.get(name).cloned().unwrap_or_else(|| PathBuf::from(name));
    ensure!(
        path.exists(),
        "`input_data` is `{name}`, which is neither a dataset of the group (there are: {}) nor a file",
        listed.keys().cloned().collect::<Vec<_>>().join(", ")
    );
    if path.is_dir() { first_file(&path) } else { Ok(path) }
}

fn first_file(dir: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.retain(|path| path.is_file());
    files.sort();
    files.into_iter().next().ok_or_else(|| format!("no file in `{}`", dir.display()).into())
}
