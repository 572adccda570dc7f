//! Reads what the instances of a share have measured out of the files they left. Blocks; call it where that is allowed.
//!
//! The files were made by the plan and are not trusted: links are not followed, memory is bounded by the number of
//! series and the longest line, and a line that cannot be read is counted and told.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::Path;

use groundswell_common::kpi::lines::LONGEST_LINE;
use groundswell_common::kpi::{Reader, SeriesSet};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::outputs::Source;

/// How much of one file is read.
const MOST_BYTES: u64 = 1 << 30;
/// How many instances with bad lines are named.
const NAMED: usize = 3;
/// The files of an instance with measures, and whether they are diagnostics.
const FILES: [(&str, bool); 2] = [("results.out", false), ("diagnostics.out", true)];

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The series of the share.
    pub(crate) series: SeriesSet,
    /// What people should know, each a sentence.
    pub(crate) warnings: Vec<String>,
}

/// Reads the files of all instances; stdout too, when lines there count.
pub(crate) fn read(sources: &[Source], from_stdout: bool) -> Found {
    let mut series = SeriesSet::default();
    let (mut bad_lines, mut bad, mut warnings) = (0, Vec::new(), Vec::new());
    for source in sources {
        let mut reader = Reader::new(&mut series, &source.group);
        for (name, diagnostic) in FILES {
            let Some(file) = open(&source.directory.join("outputs"), name) else { continue };
            let read = each_line(file, |line| match line {
                Ok(text) => reader.file_line(text, diagnostic),
                Err(why) => reader.bad_line(why),
            });
            warnings.extend(read.err().map(|err| in_part(source, name, &err)));
        }
        if let Some(file) = from_stdout.then(|| File::open(source.directory.join("stdout.log"))) {
            // What is printed is text of any kind.
            let read = file.and_then(|file| {
                each_line(file, |line| reader.stdout_line(line.unwrap_or_default()))
            });
            warnings.extend(read.err().map(|err| in_part(source, "stdout", &err)));
        }
        if let (lines @ 1.., Some(why)) = reader.end() {
            bad_lines += lines;
            bad.push(format!("{}[{}] ({why})", source.group, source.in_group));
        }
    }
    if !bad.is_empty() {
        let (named, all) = (bad[..bad.len().min(NAMED)].join(", "), bad.len());
        let others = if all > NAMED { format!(" and {} more", all - NAMED) } else { String::new() };
        warnings
            .push(format!("{bad_lines} lines of metrics cannot be read: those of {named}{others}"));
    }
    Found { series, warnings }
}

fn in_part(source: &Source, name: &str, err: &io::Error) -> String {
    format!("`{}/{}/{name}` was read in part only: {err}", source.group, source.in_group)
}

/// Opens a regular file of an outputs directory.
fn open(outputs: &Path, name: &str) -> Option<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(outputs, flags, Mode::empty()).ok()?;
    // Non-blocking, so that a named pipe does not hold everything up.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = openat(root.as_fd(), name, flags, Mode::empty()).ok()?;
    let stat = fstat(&opened).ok()?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    (kind == SFlag::S_IFREG).then(|| File::from(opened))
}

/// Hands each line of a file over, or why it is none.
fn each_line(file: File, mut take: impl FnMut(Result<&str, &'static str>)) -> io::Result<()> {
    let too_long = file.metadata()?.len() > MOST_BYTES;
    let mut reader = BufReader::with_capacity(64 << 10, file.take(MOST_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        match line.last() {
            None => break,
            Some(b'\n') => {}
            Some(_) if line.len() >= LONGEST_LINE => {
                skip_line(&mut reader)?;
                take(Err("longer than 256 KiB"));
                continue;
            }
            // An instance that was killed may leave half a line.
            Some(b'}') => {}
            Some(_) => break,
        }
        take(std::str::from_utf8(&line).map(str::trim_end).map_err(|_| "not UTF-8"));
    }
    if too_long { Err(io::Error::other("it is larger than 1 GiB")) } else { Ok(()) }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (length, end) = (buffer.len(), buffer.iter().position(|byte| *byte == b'\n'));
        reader.consume(end.map_or(length, |at| at + 1));
        if end.is_some() || length == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use groundswell_common::ids::InstanceId;
    use groundswell_common::kpi::Stat;

    use super::*;

    fn source(dir: &Path, number: u32) -> Source {
        let directory = dir.join(number.to_string());
        std::fs::create_dir_all(directory.join("outputs")).unwrap();
        Source {
            group: "all".to_owned(),
            in_group: number,
            instance: InstanceId(number),
            directory,
        }
    }

    fn point(name: &str, value: u32) -> String {
        format!("{{\"type\":\"point\",\"name\":\"{name}\",\"measures\":{{\"value\":{value}}}}}\n")
    }

    #[test]
    fn files_and_stdout_of_all_instances_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let sources = [source(dir.path(), 0), source(dir.path(), 1)];
        for (source, value) in sources.iter().zip([1, 2]) {
            std::fs::write(source.directory.join("outputs/results.out"), point("t", value))
                .unwrap();
            std::fs::write(source.directory.join("outputs/diagnostics.out"), point("lag", value))
                .unwrap();
            std::fs::write(source.directory.join("stdout.log"), "hello\nkpi spoken=3 s\n").unwrap();
        }
        let found = |from_stdout| {
            let read = read(&sources, from_stdout);
            assert_eq!(read.warnings, Vec::<String>::new());
            let of = |(key, values): (
                &groundswell_common::kpi::SeriesKey,
                &groundswell_common::kpi::Distribution,
            )| {
                (key.name.clone(), key.diagnostic, values.stat(Stat::Sum).unwrap())
            };
            read.series.iter().map(of).collect::<Vec<_>>()
        };
        let files = [("lag".to_owned(), true, 3.0), ("t".to_owned(), false, 3.0)];
        assert_eq!(found(false), files);
        assert_eq!(found(true)[1], ("spoken".to_owned(), false, 6.0));
    }

    #[test]
    fn bad_lines_are_counted_links_are_not_followed_and_half_a_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let sources: Vec<Source> = (0..5).map(|number| source(dir.path(), number)).collect();
        for source in &sources {
            let long = "x".repeat(3 * LONGEST_LINE);
            let text = format!("oops\n{long}\n{}{{\"type\":\"poi", point("t", 1));
            std::fs::write(source.directory.join("outputs/results.out"), text).unwrap();
        }
        let secret = dir.path().join("secret");
        std::fs::write(&secret, point("secret", 1)).unwrap();
        std::os::unix::fs::symlink(&secret, sources[0].directory.join("outputs/diagnostics.out"))
            .unwrap();
        nix::unistd::mkfifo(&sources[1].directory.join("outputs/diagnostics.out"), Mode::S_IRWXU)
            .unwrap();
        let read = read(&sources, false);
        let names: Vec<_> =
            read.series.iter().map(|(key, values)| (key.name.as_str(), values.count())).collect();
        assert_eq!(names, [("t", 5)]);
        let why = "not a metric in JSON";
        assert_eq!(
            read.warnings,
            [format!(
                "10 lines of metrics cannot be read: those of all[0] ({why}), all[1] ({why}), all[2] ({why}) and 2 more"
            )]
        );
    }
}
