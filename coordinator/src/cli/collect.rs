//! `collect`: the outputs of a run as the archive Testground users know, or one file of them.
//!
//! The archive is a gzip tar; its first entry is `<run>/`, then each instance has a directory
//! `<run>/<group>/<number>/`, also one that wrote nothing: scripts count instances that way.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use groundswell_common::ids::RunId;
use groundswell_common::objects::Objects;
use groundswell_common::run::RunRecord;
use tar::{Builder, EntryType, Header};

use super::args::Collect;
use super::exit::Exit;
use super::parts::{self, OutputFile};
use super::{Done, Session, Trouble, find};

pub(crate) async fn run(session: &Session, args: &Collect) -> Done {
    let found = find::run(session, &args.run).await?;
    let objects = found.objects(session).await?;
    let run = &found.status.run;
    if !found.status.phase.is_over() {
        return Err(Trouble::new(
            Exit::NothingSelected,
            format!("{} is going on; its outputs are stored at its end", found.status.name),
            format!("wait for it: coordinator wait {}", found.status.name),
        ));
    }
    if let Some(wanted) = &args.file {
        one_file(session, &objects, run, wanted).await?;
        return Ok(Exit::Passed);
    }
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{run}.tgz")));
    archive(session, &objects, run, &output).await?;
    Ok(Exit::Passed)
}

async fn one_file(
    session: &Session,
    objects: &Objects,
    run: &RunId,
    wanted: &str,
) -> Result<(), Trouble> {
    let (_, files) = stored(objects, run).await?;
    let name = |file: &OutputFile| format!("{}/{}/{}", file.group, file.in_group, file.path);
    let wanted = wanted.trim_start_matches(&format!("{run}/"));
    let Some(file) = files.iter().find(|file| name(file) == wanted) else {
        let known: Vec<String> = files.iter().take(5).map(name).collect();
        let help = format!("group/number/path, for example: {}", known.join(", "));
        return Err(Trouble::new(
            Exit::NothingSelected,
            format!("no file `{wanted}` in {run}"),
            help,
        ));
    };
    let content = parts::read_output(objects, file).await.map_err(failed)?;
    session.out.bytes(&content).map_err(|err| Trouble::from_error(Exit::Infra, &err))
}

/// Writes the archive of a run to `output`; `-` is stdout.
pub(crate) async fn archive(
    session: &Session,
    objects: &Objects,
    run: &RunId,
    output: &Path,
) -> Result<(), Trouble> {
    let (record, files) = stored(objects, run).await?;
    let unwritable = |err: io::Error| {
        Trouble::new(Exit::Infra, format!("failed to write `{}`: {err}", output.display()), "")
    };
    if output == Path::new("-") {
        let mut packed = Vec::new();
        pack(&mut packed, objects, &record, &files, &unwritable).await?;
        return session.out.bytes(&packed).map_err(unwritable);
    }
    // Beside the target, so that the rename is one step and nobody sees half an archive.
    let dir = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = tempfile::NamedTempFile::new_in(dir).map_err(unwritable)?;
    pack(part.as_file(), objects, &record, &files, &unwritable).await?;
    let file: File = part.persist(output).map_err(|err| unwritable(err.error))?;
    // A temporary file is private; an archive is an ordinary file.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.set_permissions(mode).map_err(unwritable)?;
    if session.out.json {
        session.out.json(&serde_json::json!({
            "v": 1, "type": "collected", "run": run, "file": output, "files": files.len(),
        }));
    }
    session.out.note(format_args!("created file: {}", output.display()));
    Ok(())
}

async fn stored(objects: &Objects, run: &RunId) -> Result<(RunRecord, Vec<OutputFile>), Trouble> {
    let record = find::record(objects, run).await?.ok_or_else(|| {
        let message = format!("the record of {run} is not in {}", objects.url());
        Trouble::new(Exit::NothingSelected, message, "is --objects the store the run used?")
    })?;
    let mut files = parts::outputs(objects, &record).await.map_err(failed)?;
    files.sort_by(|a, b| (&a.group, a.in_group, &a.path).cmp(&(&b.group, b.in_group, &b.path)));
    Ok((record, files))
}

fn failed(err: anyhow::Error) -> Trouble {
    Trouble::from_error(Exit::Infra, err.as_ref())
}

async fn pack(
    to: impl Write,
    objects: &Objects,
    record: &RunRecord,
    files: &[OutputFile],
    unwritable: &impl Fn(io::Error) -> Trouble,
) -> Result<(), Trouble> {
    let run = &record.status.run;
    let seconds = record.status.finished_ms.unwrap_or(record.status.submitted_ms) / 1000;
    let mut tar = Builder::new(GzEncoder::new(to, Compression::fast()));
    directory(&mut tar, &format!("{run}/"), seconds).map_err(unwritable)?;
    for (group, counts) in &record.status.groups {
        for number in 0..counts.want {
            let dir = format!("{run}/{group}/{number}");
            directory(&mut tar, &format!("{dir}/"), seconds).map_err(unwritable)?;
            for file in files.iter().filter(|f| f.group == *group && f.in_group == number) {
                let content = parts::read_output(objects, file).await.map_err(failed)?;
                // Whatever the plan set, the owner of an archive can read what is in it.
                let mode = file.mode & 0o777 | 0o400;
                let mut header = header(EntryType::Regular, mode, seconds);
                header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
                let path = format!("{dir}/{}", file.path);
                tar.append_data(&mut header, path, content.as_ref()).map_err(unwritable)?;
            }
        }
    }
    let gzip = tar.into_inner().map_err(unwritable)?;
    gzip.finish().map_err(unwritable)?.flush().map_err(unwritable)
}

fn directory(tar: &mut Builder<impl Write>, path: &str, seconds: u64) -> io::Result<()> {
    let mut header = header(EntryType::Directory, 0o755, seconds);
    header.set_size(0);
    tar.append_data(&mut header, path, io::empty())
}

fn header(kind: EntryType, mode: u32, seconds: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(seconds);
    header
}
