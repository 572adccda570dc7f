//! Shows how a run gets on: bars on a terminal, plain lines elsewhere, JSON lines for programs.

use std::io::IsTerminal as _;

use groundswell_common::messages::LogLines;
use groundswell_common::run::{RunEvent, RunPhase, RunStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::{Global, ProgressKind};
use super::out::{Out, Paint, to_json};
use super::summary::{exposed, took, totals};

/// How many groups have a row of their own.
const ROWS: usize = 8;

/// Shows one run.
pub(crate) struct Progress {
    out: Out,
    view: View,
    warnings: usize,
    exposed: usize,
}

enum View {
    Bar(Bars),
    Plain {
        phase: Option<RunPhase>,
        doing: String,
    },
    /// On stdout when `--json` asked for it: then it is data.
    Json {
        stdout: bool,
    },
    Quiet,
}

impl Progress {
    /// The way the flags ask for.
    pub(crate) fn new(out: Out, global: &Global) -> Self {
        let view = match global.progress {
            _ if out.json => View::Json { stdout: true },
            ProgressKind::Json => View::Json { stdout: false },
            ProgressKind::Quiet => View::Quiet,
            _ if out.quiet => View::Quiet,
            ProgressKind::Bar => View::Bar(Bars::new()),
            ProgressKind::Auto if std::io::stderr().is_terminal() => View::Bar(Bars::new()),
            ProgressKind::Auto | ProgressKind::Plain => {
                View::Plain { phase: None, doing: String::new() }
            }
        };
        Self { out, view, warnings: 0, exposed: 0 }
    }

    /// Shows the run's state.
    pub(crate) fn status(&mut self, status: &RunStatus) {
        match &mut self.view {
            View::Bar(bars) => bars.show(&self.out, status),
            View::Plain { phase, doing } => {
                if *phase != Some(status.phase) {
                    *phase = Some(status.phase);
                    doing.clone_from(&status.doing);
                    plain(&self.out, "phase", &phase_line(status));
                } else if *doing != status.doing && !status.doing.is_empty() {
                    doing.clone_from(&status.doing);
                    if self.out.verbose {
                        plain(&self.out, "doing", &status.doing);
                    }
                }
            }
            View::Json { stdout } => {
                line(&self.out, *stdout, &json!({ "v": 1, "type": "status", "status": status }));
            }
            View::Quiet => {}
        }
        let new: Vec<String> = status.warnings.iter().skip(self.warnings).cloned().collect();
        self.warnings = self.warnings.max(status.warnings.len());
        new.iter().for_each(|warning| self.warning(warning));
        let new: Vec<String> = exposed(status).skip(self.exposed).collect();
        self.exposed = self.exposed.max(status.exposed.len());
        new.iter().for_each(|line| self.note(line.trim_start()));
    }

    /// Shows that nothing has changed for a while.
    pub(crate) fn heartbeat(&mut self, status: &RunStatus) {
        if matches!(self.view, View::Plain { .. }) {
            plain(&self.out, "progress", &phase_line(status));
        }
    }

    /// Moves what moves on its own: the time.
    pub(crate) fn tick(&mut self) {
        if let View::Bar(bars) = &self.view {
            bars.phase.tick();
        }
    }

    /// Shows an event of the run.
    pub(crate) fn event(&mut self, event: &RunEvent) {
        match &self.view {
            View::Json { stdout } => {
                line(&self.out, *stdout, &json!({ "v": 1, "type": "event", "event": event }));
            }
            View::Bar(_) | View::Plain { .. } if self.out.verbose => {
                self.note(&format!("{:>9}  {}  {}", took(event.at_ms), event.kind, event.text))
            }
            View::Bar(_) | View::Plain { .. } | View::Quiet => {}
        }
    }

    /// Shows what an instance printed.
    pub(crate) fn log(&mut self, log: &LogLines) {
        if let View::Json { stdout } = self.view {
            line(&self.out, stdout, &json!({ "v": 1, "type": "log", "log": log }));
            return;
        }
        for text in log_lines(log) {
            self.note(&text);
        }
    }

    /// Tells something between the bars or lines.
    pub(crate) fn note(&self, text: &str) {
        match &self.view {
            View::Bar(bars) => bars.above(text),
            View::Plain { .. } => self.out.note(text),
            View::Json { .. } | View::Quiet => {}
        }
    }

    /// Tells what this process does because it was asked to end. Shown in every way but JSON on stdout.
    pub(crate) fn urgent(&self, text: &str) {
        match &self.view {
            View::Bar(bars) => bars.above(text),
            View::Plain { .. } | View::Json { .. } | View::Quiet => self.out.say(text),
        }
    }

    fn warning(&self, text: &str) {
        let text = format!("{} {text}", self.out.paint(Paint::Warning, "warning:"));
        if matches!(self.view, View::Bar(_) | View::Plain { .. }) {
            self.note(&text);
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(&mut self) {
        if let View::Bar(bars) = &self.view {
            bars.clear();
        }
    }
}

/// The lines of a message with the instance in front.
pub(crate) fn log_lines(log: &LogLines) -> impl Iterator<Item = String> + '_ {
    let mark = if log.stderr { '!' } else { '|' };
    log.lines.iter().map(move |line| format!("{}[{:03}] {mark} {line}", log.group, log.in_group))
}

fn line(out: &Out, stdout: bool, value: &serde_json::Value) {
    if stdout { out.json(value) } else { out.say(to_json(value)) }
}

/// A plain line: when, what, details.
pub(crate) fn plain(out: &Out, what: &str, details: &str) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    out.note(format_args!("{now} {what:<8}  {details}"));
}

fn phase_line(status: &RunStatus) -> String {
    let counts = totals(status);
    let mut text = format!(
        "run={} phase={} ready={}/{} running={} ended={}",
        status.name,
        status.phase,
        counts.ready,
        counts.want,
        counts.running,
        counts.ended()
    );
    let bad = counts.bad();
    if bad > 0 {
        text.push_str(&format!(" unsuccessful={bad}"));
    }
    if !status.doing.is_empty() {
        text.push_str(&format!(" doing={}", to_json(&status.doing)));
    }
    text
}

/// A line for the phase, a header, and a row for each group.
struct Bars {
    all: MultiProgress,
    phase: ProgressBar,
    rows: Vec<ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let phase = all.add(ProgressBar::new(0));
        Self { all, phase, rows: Vec::new() }
    }

    fn show(&mut self, out: &Out, status: &RunStatus) {
        let counts = totals(status);
        let (done, of) = match status.phase {
            RunPhase::Running | RunPhase::Collecting => (counts.ended(), counts.want),
            RunPhase::Submitted
            | RunPhase::Queued
            | RunPhase::Reserved
            | RunPhase::Preparing
            | RunPhase::Starting
            | RunPhase::Finished
            | RunPhase::Cleaned => (counts.ready, counts.want),
        };
        let template = "  {prefix} [{bar:28}] {pos}/{len}  {elapsed}  {wide_msg}";
        let style = ProgressStyle::with_template(template)
            .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("■■□"));
        self.phase.set_style(style);
        self.phase.set_length(u64::from(of));
        self.phase.set_position(u64::from(done));
        self.phase.set_prefix(out.paint(Paint::Bold, &format!("{:<10}", status.phase.as_str())));
        self.phase.set_message(status.doing.clone());
        let rows = group_rows(status);
        while self.rows.len() < rows.len() {
            let style = ProgressStyle::with_template("  {msg}");
            let row = self.all.add(ProgressBar::new(0));
            row.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.rows.push(row);
        }
        for (bar, text) in self.rows.iter().zip(rows) {
            bar.set_message(text);
        }
    }

    fn above(&self, text: &str) {
        let _ = self.all.println(text);
    }

    fn clear(&self) {
        let _ = self.all.clear();
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

/// The table of groups: those with failures first when there are too many.
fn group_rows(status: &RunStatus) -> Vec<String> {
    let width = status.groups.iter().map(|(id, _)| id.chars().count()).max().unwrap_or(0).max(5);
    let mut groups: Vec<_> = status.groups.iter().collect();
    if groups.len() > ROWS {
        groups.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.bad()));
    }
    let mut rows = vec![format!(
        "{:<width$}  {:>6} {:>6} {:>6} {:>6} {:>6}",
        "group", "want", "ready", "run", "ok", "fail"
    )];
    rows.extend(groups.iter().take(ROWS).map(|(id, counts)| {
        format!(
            "{id:<width$}  {:>6} {:>6} {:>6} {:>6} {:>6}",
            counts.want,
            counts.ready,
            counts.running,
            counts.success,
            counts.bad()
        )
    }));
    if groups.len() > ROWS {
        rows.push(format!("… and {} more groups", groups.len() - ROWS));
    }
    rows
}
