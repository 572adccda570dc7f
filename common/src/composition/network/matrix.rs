//! A square CSV of latencies between regions: names in the first row and the first column.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::regions::{Read, Regions, Way};
use super::shape::LONGEST;
use crate::composition::quantity;
use crate::diagnostic::{Diagnostic, SourceFile};

/// A field of a line and where it stands.
pub(super) type Cell<'a> = (Range<usize>, &'a str);

/// The lines of a CSV that are not empty and no comment, each as its cells.
pub(super) fn rows(text: &str) -> impl Iterator<Item = Vec<Cell<'_>>> {
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let at = start;
        start += line.len();
        let line = line.trim_end();
        (!line.trim().is_empty() && !line.starts_with('#')).then(|| cells(at, line))
    })
}

fn cells(at: usize, line: &str) -> Vec<Cell<'_>> {
    let mut cells = Vec::new();
    let (mut from, mut quoted) = (0, false);
    let ends = line.char_indices().filter(|(_, c)| match c {
        '"' => {
            quoted = !quoted;
            false
        }
        ',' | ';' | '\t' => !quoted,
        _ => false,
    });
    for end in ends.map(|(end, _)| end).chain([line.len()]) {
        let cell = &line[from..end];
        let text = cell.trim();
        let lead = cell.len() - cell.trim_start().len();
        let span = at + from + lead..at + from + lead + text.len();
        cells.push((span, text.trim_matches('"')));
        from = end + 1;
    }
    cells
}

/// A time in milliseconds, or with a unit of its own.
pub(super) fn milliseconds(text: &str) -> Option<Duration> {
    let time = match text.parse::<f64>() {
        Ok(number) => Duration::try_from_secs_f64(number / 1e3).ok(),
        Err(_) => quantity::duration(text),
    };
    time.filter(|time| *time <= LONGEST)
}

pub(super) fn read(
    source: &Arc<SourceFile>,
    round_trip: bool,
    wanted: &[String],
) -> Result<Read, Diagnostic> {
    let error = |span: Range<usize>, message: String, help: &str| {
        Diagnostic::error(source, span, message, help)
    };
    let mut lines = rows(&source.text);
    let header = lines.next().unwrap_or_default();
    let names = header.get(1..).unwrap_or_default();
    if names.is_empty() {
        let help = "write `,eu,us` in the first line and `eu,0,40` in each one below";
        return Err(Diagnostic::error(source, None, "the matrix has no regions", help));
    }
    let known: Vec<String> = names.iter().map(|(_, name)| (*name).to_owned()).collect();
    for (i, (span, name)) in names.iter().enumerate() {
        if known[..i].iter().any(|other| other == name) {
            let message = format!("region `{name}` is there twice");
            return Err(error(span.clone(), message, "give each region one column"));
        }
    }
    let mut regions = Regions::blank(wanted);
    let mut seen = vec![false; known.len()];
    for row in lines {
        let (span, name) = row.first().cloned().unwrap_or_default();
        let Some(number) = known.iter().position(|one| one == name) else {
            let message = format!("row `{name}` has no column");
            return Err(error(
                span,
                message,
                "a matrix is square: each region has a row and a column",
            ));
        };
        if std::mem::replace(&mut seen[number], true) {
            let message = format!("row `{name}` is there twice");
            return Err(error(span, message, "give each region one row"));
        }
        if row.len() != header.len() {
            let (have, need) = (row.len() - 1, names.len());
            let message = format!("row `{name}` has {have} latencies for {need} regions");
            return Err(error(span, message, "a matrix is square: one latency for each column"));
        }
        for ((span, cell), to) in row[1..].iter().zip(&known) {
            let (Some(i), Some(j)) = (regions.index(name), regions.index(to)) else { continue };
            if cell.is_empty() {
                let message = format!("no latency from `{name}` to `{to}`");
                return Err(error(
                    span.clone(),
                    message,
                    "write one in milliseconds, or with a unit",
                ));
            }
            let Some(latency) = milliseconds(cell) else {
                let message = format!("`{cell}` is not a latency from `{name}` to `{to}`");
                let help = "write milliseconds from 0 upwards, or a unit such as `1.5s`";
                return Err(error(span.clone(), message, help));
            };
            let latency = if round_trip { latency / 2 } else { latency };
            regions.set(i, j, Way { latency, ..Way::default() });
        }
    }
    if let Some(missing) = seen.iter().position(|seen| !seen) {
        let message = format!("region `{}` has a column but no row", known[missing]);
        let help = "a matrix is square: each region has a row and a column";
        return Err(error(names[missing].0.clone(), message, help));
    }
    Ok(Read { regions, known })
}
