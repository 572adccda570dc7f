//! Writes down which instances are connected to the sync, for the worker's next life: an instance whose connection
//! was cut by the end of this one may fail because of that.
//!
//! A file of records, five bytes each, appended without waiting for the disk: it has to survive the process, not
//! the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use groundswell_common::ids::InstanceId;

/// Its name in the spool of a share.
pub(crate) const FILE: &str = ".connections";

const OPENED: u8 = b'+';
const CLOSED: u8 = b'-';
/// All connections were cut by the end of a worker.
const CUT: u8 = b'!';
const RECORD: usize = 5;

/// Where connections are written down; nowhere when the file cannot be had.
#[derive(Debug, Default)]
pub(super) struct Connections(Option<File>);

impl Connections {
    pub(super) fn append_to(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).ok())
    }

    pub(super) fn opened(&mut self, instance: InstanceId) {
        self.add(OPENED, instance);
    }

    pub(super) fn closed(&mut self, instance: InstanceId) {
        self.add(CLOSED, instance);
    }

    fn add(&mut self, what: u8, instance: InstanceId) {
        let written = self.0.as_mut().map(|file| file.write_all(&record(what, instance)));
        // A file with a hole would be worse than one that ends early.
        if matches!(written, Some(Err(_))) {
            self.0 = None;
        }
    }
}

/// Instances that were connected when an earlier life of the worker ended and have not connected since. To be asked
/// once in each life: from here on all connections of earlier ones are cut.
pub(crate) fn cut(path: &Path) -> BTreeSet<InstanceId> {
    let cut = read(&std::fs::read(path).unwrap_or_default());
    let mut file = Connections::append_to(path);
    file.add(CUT, InstanceId(0));
    cut
}

fn read(records: &[u8]) -> BTreeSet<InstanceId> {
    let mut open = BTreeMap::<u32, u32>::new();
    let mut cut = BTreeSet::new();
    for record in records.chunks_exact(RECORD) {
        let [what, id @ ..] = record else { continue };
        let id = u32::from_le_bytes(id.try_into().expect("a record's length"));
        let count = open.entry(id).or_default();
        match *what {
            OPENED => {
                *count += 1;
                cut.remove(&InstanceId(id));
            }
            CLOSED => *count = count.saturating_sub(1),
            _ => cut.extend(still_open(&std::mem::take(&mut open))),
        }
    }
    cut.extend(still_open(&open));
    cut
}

fn still_open(open: &BTreeMap<u32, u32>) -> impl Iterator<Item = InstanceId> {
    open.iter().filter(|(_, count)| **count > 0).map(|(id, _)| InstanceId(*id))
}

fn record(what: u8, instance: InstanceId) -> [u8; RECORD] {
    let [a, b, c, d] = instance.0.to_le_bytes();
    [what, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_cut_off_until_it_connects_again_whoever_is_restarted_meanwhile() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        let [one, two, three] = [1, 2, 3].map(InstanceId);
        let mut first = Connections::append_to(&path);
        for id in [one, two, two, three] {
            first.opened(id);
        }
        first.closed(two);
        first.closed(three);
        assert_eq!(cut(&path), BTreeSet::from([one, two]));
        let mut second = Connections::append_to(&path);
        second.opened(two);
        second.closed(two);
        assert_eq!(cut(&path), BTreeSet::from([one]), "the first still has not come back");
        assert_eq!(cut(&path), BTreeSet::from([one]));
    }

    #[test]
    fn nobody_is_cut_off_where_nothing_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(cut(&dir.path().join("no/such/file")).is_empty());
    }
}
