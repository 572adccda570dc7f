//! Packs the outputs and logs of a share into a few large files, with an index, for the object store.
//!
//! What lies in an outputs directory was made by the plan and is not trusted: directories are opened step
//! by step without following links, and only regular files with one name are read. What is left out is
//! counted and told.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use groundswell_common::ids::InstanceId;
use groundswell_common::outputs::IndexEntry;
use groundswell_common::quotas::Quotas;
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use sha2::{Digest as _, Sha256};

/// A pack that has reached this size is closed.
const PACK_BYTES: u64 = 256 << 20;
/// How deep directories are followed.
const DEPTH: usize = 32;
/// How many files that were left out are named.
const NAMED: usize = 20;
const COMPRESSION: i32 = 3;

/// The files the worker itself keeps beside an instance's outputs directory.
pub(crate) const OWN_FILES: [&str; 3] = ["stdout.log", "stderr.log", "metrics.lp"];

/// One instance's directories.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Its group.
    pub(crate) group: String,
    /// Its number within the group.
    pub(crate) in_group: u32,
    /// Its number within the run.
    pub(crate) instance: InstanceId,
    /// Its directory in the spool: `outputs/` and [`OWN_FILES`].
    pub(crate) directory: PathBuf,
}

/// What was packed.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// The packs: key in the object store, and file on this host.
    pub(crate) packs: Vec<(String, PathBuf)>,
    /// Every file. `pack` is a key.
    pub(crate) files: Vec<IndexEntry>,
    /// What was left out, each a sentence for people.
    pub(crate) skipped: Vec<String>,
}

/// Packs everything of `sources` into files in `directory`. Blocks; call it where that is allowed.
///
/// # Errors
/// When a pack cannot be written. What cannot be *read* is left out and told.
pub(crate) fn pack(
    sources: &[Source],
    directory: &Path,
    prefix: &str,
    quotas: Quotas,
) -> io::Result<Packed> {
    let mut packer = Packer {
        directory,
        prefix,
        quotas,
        open: None,
        packed: Packed::default(),
        left_out: BTreeMap::new(),
    };
    for source in sources {
        packer.instance(source)?;
    }
    packer.finish()
}

struct Packer<'a> {
    directory: &'a Path,
    prefix: &'a str,
    quotas: Quotas,
    open: Option<OpenPack>,
    packed: Packed,
    left_out: BTreeMap<String, u64>,
}

struct OpenPack {
    file: File,
    key: String,
    length: u64,
}

/// What one instance may still leave.
struct Allowance {
    files: u64,
    bytes: u64,
}

impl Packer<'_> {
    fn instance(&mut self, source: &Source) -> io::Result<()> {
        for name in OWN_FILES {
            if let Ok(file) = File::open(source.directory.join(name)) {
                self.add(source, name.to_owned(), file, 0o644)?;
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(root) = nix::fcntl::open(&source.directory.join("outputs"), flags, Mode::empty())
        else {
            return Ok(());
        };
        let Quotas { outputs_files: files, outputs_bytes: bytes, .. } = self.quotas;
        let mut allowance = Allowance { files, bytes };
        self.walk(source, root, "", 0, &mut allowance)
    }

    fn walk(
        &mut self,
        source: &Source,
        directory: OwnedFd,
        path: &str,
        depth: usize,
        allowance: &mut Allowance,
    ) -> io::Result<()> {
        let Ok(mut listing) = Dir::from_fd(directory) else {
            self.leave_out(source, path, "is not readable");
            return Ok(());
        };
        let mut names: Vec<_> =
            listing.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
        names.sort();
        for name in names {
            if [c".", c".."].contains(&name.as_c_str()) {
                continue;
            }
            let Some(text) = plain(&name) else {
                self.leave_out(source, &name.to_string_lossy(), "has an odd name");
                continue;
            };
            let path = if path.is_empty() { text.to_owned() } else { format!("{path}/{text}") };
            self.entry(source, &listing, &name, path, depth, allowance)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        source: &Source,
        directory: &Dir,
        name: &CStr,
        path: String,
        depth: usize,
        allowance: &mut Allowance,
    ) -> io::Result<()> {
        // Non-blocking, so that a named pipe does not hold everything up.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let opened = openat(directory.as_fd(), name, flags, Mode::empty());
        let Ok(opened) = opened else {
            self.leave_out(source, &path, "is a link or not readable");
            return Ok(());
        };
        let Ok(stat) = fstat(&opened) else {
            self.leave_out(source, &path, "is not readable");
            return Ok(());
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR && depth < DEPTH {
            return self.walk(source, opened, &path, depth + 1, allowance);
        }
        let refused = if kind == SFlag::S_IFDIR {
            Some("is nested too deep")
        } else if kind != SFlag::S_IFREG {
            Some("is not a regular file")
        } else if stat.st_nlink != 1 {
            Some("has more than one name")
        } else if depth == 0 && OWN_FILES.contains(&path.as_str()) {
            Some("has a name that is taken by Groundswell's own file")
        } else if allowance.files == 0 {
            Some("is one too many")
        } else {
            None
        };
        if let Some(refused) = refused {
            self.leave_out(source, &path, refused);
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let Some(bytes) = allowance.bytes.checked_sub(size) else {
            self.leave_out(source, &path, "is too large");
            return Ok(());
        };
        *allowance = Allowance { files: allowance.files - 1, bytes };
        self.add(source, path, File::from(opened), stat.st_mode & 0o777)
    }

    fn leave_out(&mut self, source: &Source, path: &str, why: &str) {
        let Source { group, in_group, .. } = source;
        if self.packed.skipped.len() < NAMED {
            self.packed.skipped.push(format!("`{group}/{in_group}/{path}` {why}"));
            return;
        }
        *self.left_out.entry(why.to_owned()).or_default() += 1;
    }

    fn add(&mut self, source: &Source, path: String, file: File, mode: u32) -> io::Result<()> {
        let mut pack = match self.open.take() {
            Some(pack) if pack.length < PACK_BYTES => pack,
            _ => self.next_pack()?,
        };
        let mut content = Content { file, digest: Sha256::new(), size: 0, trouble: None };
        zstd::stream::copy_encode(&mut content, &mut pack.file, COMPRESSION)?;
        if let Some(trouble) = content.trouble.take() {
            // The frame holds what could be read; the pack stays in order.
            self.leave_out(source, &path, &format!("was read in part only: {trouble}"));
        }
        let end = pack.file.stream_position()?;
        self.packed.files.push(IndexEntry {
            group: source.group.clone(),
            in_group: source.in_group,
            instance: source.instance,
            path,
            pack: pack.key.clone(),
            offset: pack.length,
            stored: end - pack.length,
            size: content.size,
            sha256: sha256_text(content.digest),
            mode,
        });
        pack.length = end;
        self.open = Some(pack);
        Ok(())
    }

    fn next_pack(&mut self) -> io::Result<OpenPack> {
        let name = format!("pack-{}", self.packed.packs.len());
        let file = self.directory.join(&name);
        let key = format!("{}/{name}", self.prefix);
        self.packed.packs.push((key.clone(), file.clone()));
        Ok(OpenPack { file: File::create(file)?, key, length: 0 })
    }

    fn finish(mut self) -> io::Result<Packed> {
        if let Some(mut pack) = self.open.take() {
            pack.file.flush()?;
        }
        for (why, count) in self.left_out {
            self.packed.skipped.push(format!("{count} more files were left out: each {why}"));
        }
        Ok(self.packed)
    }
}

/// A file that is digested while it is read. A failure to read ends it early and is kept aside: it must
/// not look like a failure to write the pack.
struct Content {
    file: File,
    digest: Sha256,
    size: u64,
    trouble: Option<io::Error>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.file.read(buffer) {
            Ok(read) => read,
            Err(err) => {
                self.trouble = Some(err);
                0
            }
        };
        self.digest.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}

/// A name that is the same on every system and in every archive.
fn plain(name: &CStr) -> Option<&str> {
    let text = name.to_str().ok()?;
    let odd = text.chars().any(|c| c.is_control() || c == '\\' || c == '/');
    (!text.is_empty() && !odd).then_some(text)
}

fn sha256_text(digest: Sha256) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundswell_common::objects::{Objects, ObjectsConfig};
    use groundswell_common::outputs::read_file;

    fn source(root: &Path, in_group: u32) -> Source {
        let directory = root.join(in_group.to_string());
        std::fs::create_dir_all(directory.join("outputs/deep")).unwrap();
        std::fs::write(directory.join("stdout.log"), format!("hello from {in_group}")).unwrap();
        Source { group: "all".into(), in_group, instance: InstanceId(in_group), directory }
    }

    #[tokio::test]
    async fn what_is_packed_can_be_read_back_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let sources = [source(dir.path(), 0), source(dir.path(), 1)];
        std::fs::write(dir.path().join("1/outputs/deep/data"), vec![7_u8; 100_000]).unwrap();
        let packed = pack(&sources, dir.path(), "runs/x", Quotas::default()).unwrap();
        assert_eq!(packed.skipped, [""; 0]);
        let url = format!("file://{}", dir.path().join("store").display());
        let objects = Objects::open(&ObjectsConfig { url, ..ObjectsConfig::default() }).unwrap();
        for (key, file) in &packed.packs {
            objects.put_file(key, file).await.unwrap();
        }
        let mut names = Vec::new();
        for entry in &packed.files {
            let content = read_file(&objects, entry).await.unwrap();
            assert_eq!(content.len() as u64, entry.size);
            names.push(format!("{}/{}", entry.in_group, entry.path));
        }
        assert_eq!(names, ["0/stdout.log", "1/stdout.log", "1/deep/data"]);
    }

    #[test]
    fn links_pipes_second_names_and_odd_names_are_left_out_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let sources = [source(dir.path(), 0)];
        let outputs = dir.path().join("0/outputs");
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), outputs.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), outputs.join("directory")).unwrap();
        std::fs::hard_link(dir.path().join("secret"), outputs.join("second")).unwrap();
        nix::unistd::mkfifo(&outputs.join("pipe"), Mode::S_IRWXU).unwrap();
        std::fs::write(outputs.join("new\nline"), "x").unwrap();
        std::fs::write(outputs.join("stdout.log"), "forged").unwrap();
        std::fs::write(outputs.join("good"), "x").unwrap();
        let packed = pack(&sources, dir.path(), "runs/x", Quotas::default()).unwrap();
        let names: Vec<_> = packed.files.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(names, ["stdout.log", "good"]);
        assert_eq!(packed.skipped.len(), 6, "{:?}", packed.skipped);
    }

    #[test]
    fn what_is_over_the_quota_is_left_out_and_what_fits_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let sources = [source(dir.path(), 0)];
        let outputs = dir.path().join("0/outputs");
        for name in ["a", "c", "d", "e"] {
            std::fs::write(outputs.join(name), "12345").unwrap();
        }
        File::create(outputs.join("b")).unwrap().set_len(1 << 40).unwrap();
        let quotas = Quotas { outputs_files: 3, outputs_bytes: 100, ..Quotas::default() };
        let packed = pack(&sources, dir.path(), "runs/x", quotas).unwrap();
        let names: Vec<_> = packed.files.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(names, ["stdout.log", "a", "c", "d"]);
        assert_eq!(packed.skipped, ["`all/0/b` is too large", "`all/0/e` is one too many"]);
    }
}
