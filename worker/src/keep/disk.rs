//! How full the worker's file systems are, and what follows from it. The looking is at the end; the rest is pure.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::trees;

/// At which share of a file system in use something is done, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Images that nobody uses are given up.
    pub give_up_images_pct: u8,
    /// The worker takes nothing new.
    pub take_nothing_pct: u8,
    /// The share that has written most is ended.
    pub end_share_pct: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { give_up_images_pct: 85, take_nothing_pct: 90, end_share_pct: 95 }
    }
}

/// So much a file system has to be below a watermark before what was done at it is over, in per cent: one that is
/// exactly as full as a watermark would otherwise change its mind all the time.
const SLACK_PCT: f64 = 1.0;

/// What a file system's use asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    Fine,
    /// To give up images.
    GiveUpImages,
    /// And to take nothing new.
    TakeNothing,
    /// And to end a share.
    EndShare,
}

/// How full one file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// A directory on it.
    pub(crate) path: PathBuf,
    /// Bytes in use.
    pub(crate) used: u64,
    /// Bytes that may still be used.
    pub(crate) left: u64,
}

impl Watermarks {
    /// The level of a use, coming from the level before.
    pub(crate) fn level(&self, usage: &Usage, before: Level) -> Level {
        let marks = [
            (Level::EndShare, self.end_share_pct),
            (Level::TakeNothing, self.take_nothing_pct),
            (Level::GiveUpImages, self.give_up_images_pct),
        ];
        let used = usage.used_pct();
        let reached = |(level, mark): &(Level, u8)| {
            let mark = f64::from(*mark);
            used >= if before >= *level { mark - SLACK_PCT } else { mark }
        };
        marks.into_iter().find(reached).map_or(Level::Fine, |(level, _)| level)
    }

    /// How many bytes have to go until nothing is to be done any more.
    pub(crate) fn excess(&self, usage: &Usage) -> u64 {
        let aim = (f64::from(self.give_up_images_pct) - SLACK_PCT) / 100.0;
        #[expect(clippy::cast_precision_loss, reason = "a byte more or less is no matter")]
        let excess = usage.used as f64 - aim * usage.size() as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is not negative"
        )]
        let excess = excess.max(0.0).ceil() as u64;
        excess
    }
}

impl Usage {
    /// What instances and the worker share: blocks that only root may use do not count, as `df` has it.
    fn size(&self) -> u64 {
        self.used.saturating_add(self.left)
    }

    pub(crate) fn used_pct(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a byte more or less is no matter")]
        let part = self.used as f64 / self.size().max(1) as f64;
        part * 100.0
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, used) = (self.path.display(), self.used_pct());
        write!(
            f,
            "the file system of `{path}` is {used:.1} % full, {} of {} are left",
            size(self.left),
            size(self.size())
        )
    }
}

/// Bytes as people read them: `512 MiB`, `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// How full the file systems are that some directories are on, each once. One that cannot be looked at is left out.
pub(crate) fn look(directories: &[PathBuf]) -> Vec<Usage> {
    let mut usages: BTreeMap<u64, Usage> = BTreeMap::new();
    for path in directories {
        let Ok(device) = fs::metadata(path).map(|meta| meta.dev()) else { continue };
        let Ok(found) = statvfs(path) else { continue };
        let block = found.fragment_size();
        let blocks = found.blocks().saturating_sub(found.blocks_free());
        let (used, left) = (blocks * block, found.blocks_available() * block);
        usages.entry(device).or_insert_with(|| Usage { path: path.clone(), used, left });
    }
    usages.into_values().collect()
}

/// Bytes that a directory takes on its disk. What goes away meanwhile does not count.
pub(crate) fn taken_by(directory: &Path) -> u64 {
    trees::measure(directory, trees::Most::ANY).blocks
}

/// Removes a directory by another name first, so that nobody ever sees a half of it.
pub(crate) fn remove_at_once(directory: &Path, aside: &Path) -> io::Result<()> {
    match fs::rename(directory, aside) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    fs::remove_dir_all(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(used: u64) -> Usage {
        Usage { path: "/var".into(), used, left: 1000 - used }
    }

    #[test]
    fn a_level_is_left_a_little_below_where_it_is_entered() {
        use Level::{EndShare, Fine, GiveUpImages, TakeNothing};

        let marks = Watermarks::default();
        let levels: Vec<Level> = [849, 850, 845, 839, 900, 895, 889, 950, 945, 930]
            .into_iter()
            .scan(Fine, |before, used| {
                *before = marks.level(&usage(used), *before);
                Some(*before)
            })
            .collect();
        let wanted = [
            Fine,
            GiveUpImages,
            GiveUpImages,
            Fine,
            TakeNothing,
            TakeNothing,
            GiveUpImages,
            EndShare,
            EndShare,
            TakeNothing,
        ];
        assert_eq!(levels, wanted);
    }

    #[test]
    fn the_excess_is_what_has_to_go_until_all_is_well_again() {
        let marks = Watermarks::default();
        assert_eq!(marks.excess(&usage(900)), 60);
        assert_eq!(marks.level(&usage(840 - 1), Level::EndShare), Level::Fine);
        assert_eq!(marks.excess(&usage(100)), 0);
    }

    #[test]
    fn people_read_the_numbers() {
        let usage = Usage { path: "/srv".into(), used: 19 << 30, left: 1 << 30 };
        let said = "the file system of `/srv` is 95.0 % full, 1.0 GiB of 20.0 GiB are left";
        assert_eq!(usage.to_string(), said);
        assert_eq!((size(12), size(1 << 29)), ("12 B".to_owned(), "512 MiB".to_owned()));
    }

    #[test]
    fn a_directory_takes_what_its_files_hold_and_not_what_they_claim() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/full"), vec![1; 1 << 20]).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        sparse.sync_all().unwrap();
        let taken = taken_by(dir.path());
        assert!(((1 << 20)..(4 << 20)).contains(&taken), "{taken}");
        assert_eq!(look(&[dir.path().to_owned(), dir.path().join("a")]).len(), 1);
    }
}
