//! What instances have printed, merged by time, of a run that is over.

use axum::Json;
use axum::extract::{Path, State};
use groundswell_common::outputs::{self, IndexEntry};
use groundswell_common::run::RunStatus;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::artifacts::Instances;
use super::ask::{Caller, Params};
use super::failure::Failure;
use super::{Shared, Web};

/// Lines an answer has when nothing is said.
const USUAL: usize = 1_000;
/// Lines an answer has at most.
const MOST: usize = 5_000;
/// Files that are read for one answer.
const FILES: usize = 256;
/// How much of one file is read.
const FILE_BYTES: usize = 16 << 20;
/// How much of one line is shown.
const LINE_BYTES: usize = 4 << 10;
/// How large a regular expression may be once it is compiled.
const REGEX_BYTES: usize = 1 << 20;

/// The files that instances print into.
const STDOUT: [&str; 2] = ["stdout.log", "run.out"];
const STDERR: [&str; 2] = ["stderr.log", "run.err"];

/// Which lines are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    group: Option<String>,
    instance: Option<String>,
    stream: Option<String>,
    q: Option<String>,
    regex: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    limit: Option<usize>,
    next: Option<usize>,
}

/// A line that an instance has printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LogLine {
    at_ms: Option<u64>,
    instance: u32,
    group: String,
    in_group: u32,
    stderr: bool,
    line: String,
}

/// Lines of a run.
#[derive(Debug, Serialize)]
pub(super) struct Logs {
    lines: Vec<LogLine>,
    next: Option<String>,
    left_out: usize,
}

/// What decides about lines, once the parameters are read.
struct Filter {
    text: Option<String>,
    regex: Option<Regex>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

impl Filter {
    fn new(wanted: &Wanted) -> Result<Self, Failure> {
        let compile = |pattern: &String| {
            regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build().map_err(|err| {
                Failure::invalid(
                    &format!("`regex` is not one: {err}"),
                    "the syntax is that of the crate regex",
                )
            })
        };
        Ok(Self {
            text: wanted.q.as_ref().map(|text| text.to_lowercase()),
            regex: wanted.regex.as_ref().map(compile).transpose()?,
            since_ms: wanted.since_ms,
            until_ms: wanted.until_ms,
        })
    }

    fn takes(&self, line: &LogLine) -> bool {
        let in_time = match line.at_ms {
            Some(at) => {
                self.since_ms.is_none_or(|since| at >= since)
                    && self.until_ms.is_none_or(|until| at < until)
            }
            None => self.since_ms.is_none() && self.until_ms.is_none(),
        };
        in_time
            && self.text.as_ref().is_none_or(|text| line.line.to_lowercase().contains(text))
            && self.regex.as_ref().is_none_or(|regex| regex.is_match(&line.line))
    }
}

pub(super) async fn list(
    State(web): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Logs>, Failure> {
    let limit = wanted.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::invalid(&format!("`limit` is 1 to {MOST}"), ""));
    }
    let names = names(wanted.stream.as_deref())?;
    let instances = Instances::new(wanted.group.clone(), wanted.instance.as_deref())?;
    let filter = Filter::new(&wanted)?;
    let status = web.run(&caller, &run).await?;
    if !status.phase.is_over() {
        let help = "the topic `logs:` of /api/v1/events has them live";
        return Err(Failure::unavailable("logs are stored at the end of the run", help));
    }
    let (mut lines, left_out) = web.lines(&status, &names, &instances).await?;
    lines.retain(|line| filter.takes(line));
    let from = wanted.next.unwrap_or(0);
    let next = from.saturating_add(limit);
    let next = (next < lines.len()).then(|| next.to_string());
    let lines = lines.into_iter().skip(from).take(limit).collect();
    Ok(Json(Logs { lines, next, left_out }))
}

/// The files that are wanted, and whether they are of stderr.
fn names(stream: Option<&str>) -> Result<Vec<(&'static str, bool)>, Failure> {
    let (out, err) = (STDOUT.map(|name| (name, false)), STDERR.map(|name| (name, true)));
    match stream {
        None => Ok([out, err].concat()),
        Some("stdout") => Ok(out.to_vec()),
        Some("stderr") => Ok(err.to_vec()),
        Some(other) => {
            Err(Failure::invalid(&format!("`{other}` is no stream"), "it is stdout or stderr"))
        }
    }
}

impl Web {
    /// All lines of the chosen instances in their order, and how many files were not read.
    async fn lines(
        &self,
        status: &RunStatus,
        names: &[(&'static str, bool)],
        instances: &Instances,
    ) -> Result<(Vec<LogLine>, usize), Failure> {
        let (files, _) = self.files(&self.record(&status.run).await?).await?;
        let stream = |file: &IndexEntry| {
            names.iter().find(|(name, _)| *name == file.path).map(|(_, stderr)| *stderr)
        };
        let chosen: Vec<(IndexEntry, bool)> = files
            .into_iter()
            .filter(|file| instances.takes(file))
            .filter_map(|file| stream(&file).map(|stderr| (file, stderr)))
            .collect();
        let left_out = chosen.len().saturating_sub(FILES);
        let mut all = Vec::new();
        for (file, stderr) in chosen.into_iter().take(FILES) {
            let content = outputs::read_file(&self.objects, &file).await?;
            let read = &content[..content.len().min(FILE_BYTES)];
            all.extend(lines_of(&file, stderr, read, status.submitted_ms));
        }
        Ok((merged(all), left_out))
    }
}

/// The lines of one file. One without a time of its own has that of the line before.
fn lines_of(
    file: &IndexEntry,
    stderr: bool,
    content: &[u8],
    submitted_ms: u64,
) -> Vec<(Option<u64>, LogLine)> {
    let mut before = None;
    let text = String::from_utf8_lossy(content);
    text.lines()
        .map(|line| {
            let at_ms = time_of(line, submitted_ms);
            before = at_ms.or(before);
            let line = LogLine {
                at_ms,
                instance: file.instance.0,
                group: file.group.clone(),
                in_group: file.in_group,
                stderr,
                line: cut(line),
            };
            (before, line)
        })
        .collect()
}

/// What a line in JSON says of its time, in milliseconds since the submission.
fn time_of(line: &str, submitted_ms: u64) -> Option<u64> {
    #[derive(Deserialize)]
    struct Stamped {
        ts: i64,
    }

    let Stamped { ts } =
        line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten()?;
    let unix_ms = u64::try_from(ts / 1_000_000).ok()?;
    Some(unix_ms.saturating_sub(submitted_ms))
}

fn cut(line: &str) -> String {
    if line.len() <= LINE_BYTES {
        return line.to_owned();
    }
    let end = (0..=LINE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &line[..end])
}

/// By time; those without any come first. Lines of one file stay in their order.
fn merged(mut lines: Vec<(Option<u64>, LogLine)>) -> Vec<LogLine> {
    let untimed = |at: &Option<u64>, line: &LogLine| at.is_none().then_some(line.instance);
    lines.sort_by_key(|(at, line)| (*at, untimed(at, line)));
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use groundswell_common::ids::InstanceId;

    use super::*;

    fn file(instance: u32) -> IndexEntry {
        IndexEntry {
            group: "all".to_owned(),
            in_group: instance,
            instance: InstanceId(instance),
            path: "stdout.log".to_owned(),
            pack: String::new(),
            offset: 0,
            stored: 0,
            size: 0,
            sha256: String::new(),
            mode: 0o644,
        }
    }

    #[test]
    fn lines_go_by_their_time_and_stay_behind_those_of_their_file() {
        let stamped = |ms: u64, word: &str| format!(r#"{{"ts":{},"m":"{word}"}}"#, ms * 1_000_000);
        let first = [stamped(1_010, "b"), "and more of b".to_owned(), stamped(1_030, "d")];
        let second = ["no time at all".to_owned(), stamped(1_005, "a"), stamped(1_020, "c")];
        let of = |instance, lines: &[String]| {
            lines_of(&file(instance), false, lines.join("\n").as_bytes(), 1_000)
        };
        let all = [of(0, &first), of(1, &second)].concat();
        let merged = merged(all);
        let words: Vec<&str> =
            merged.iter().map(|line| line.line.split("\"m\":").last().unwrap_or("")).collect();
        let wanted = ["no time at all", "\"a\"}", "\"b\"}", "and more of b", "\"c\"}", "\"d\"}"];
        assert_eq!(words, wanted);
        assert_eq!(merged[1].at_ms, Some(5));
        assert_eq!(merged[3].at_ms, None);
    }

    #[test]
    fn long_lines_are_cut_where_a_letter_ends() {
        let line = "ü".repeat(LINE_BYTES);
        let cut = cut(&line);
        assert!(cut.len() <= LINE_BYTES + '…'.len_utf8());
        assert!(cut.ends_with("ü…"));
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let wanted = Wanted { regex: Some("(".to_owned()), ..Wanted::default() };
        assert!(Filter::new(&wanted).is_err());
        assert!(names(Some("stdin")).is_err());
    }
}
