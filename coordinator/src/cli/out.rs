//! Prints. Data goes to stdout, everything else to stderr, and nothing else in this crate prints.
//!
//! A reader that closes its end early (`coordinator ls | head`) is no error, so writes ignore that.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::args::{Format, Global, When};

/// How this process prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// JSON on stdout and nothing else there.
    pub(crate) json: bool,
    /// Colour on stderr.
    pub(crate) color: bool,
    /// Notes are left out.
    pub(crate) quiet: bool,
    /// More is told.
    pub(crate) verbose: bool,
}

/// A colour with a meaning; the text says the same without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Good,
    Bad,
    Warning,
    Dim,
    Bold,
}

impl Out {
    /// What the flags and the environment ask for.
    pub(crate) fn new(global: &Global) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let color = match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto if set("NO_COLOR") => false,
            When::Auto if set("CLICOLOR_FORCE") => true,
            When::Auto => {
                io::stderr().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb")
            }
        };
        Self { json: global.json, color, quiet: global.quiet, verbose: global.verbose > 0 }
    }

    /// Prints a line of data.
    pub(crate) fn data(&self, line: impl Display) {
        let _ = writeln!(io::stdout().lock(), "{line}");
    }

    /// Prints bytes of data as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }

    /// Prints one JSON document as a line of data.
    pub(crate) fn json(&self, value: &impl Serialize) {
        self.data(to_json(value));
    }

    /// Tells people something that is not data.
    pub(crate) fn note(&self, line: impl Display) {
        if !self.quiet {
            self.say(line);
        }
    }

    /// Tells people something even when they asked for quiet.
    pub(crate) fn say(&self, line: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Tells what went wrong and what to do.
    pub(crate) fn error(&self, message: &str, help: &str) {
        self.say(format_args!("{} {message}", self.paint(Paint::Bad, "error:")));
        if !help.is_empty() {
            self.say(format_args!("  {} {help}", self.paint(Paint::Dim, "help:")));
        }
    }

    /// Tells what should make people look twice.
    pub(crate) fn warning(&self, message: impl Display) {
        self.say(format_args!("{} {message}", self.paint(Paint::Warning, "warning:")));
    }

    /// The text in a colour, when there is colour.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Bad => "31;1",
            Paint::Warning => "33",
            Paint::Dim => "2",
            Paint::Bold => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Prints a list. `name` is the column printed alone by `-o name`; columns from `wide_from` on are left
    /// out of the plain table. `values` are the same rows as JSON.
    pub(crate) fn list<T: Serialize>(&self, list: &List<'_, T>, format: Format) {
        match if self.json { Format::Json } else { format } {
            Format::Json => self.json(&list.values),
            Format::Jsonl => list.values.iter().for_each(|value| self.json(value)),
            Format::Name => list.rows.iter().for_each(|row| self.data(&row[list.name])),
            Format::Csv => self.delimited(list, |row| {
                row.iter().map(|cell| csv_cell(cell)).collect::<Vec<_>>().join(",")
            }),
            Format::Md => {
                self.data(format_args!("| {} |", list.headers.join(" | ")));
                self.data(format_args!("|{}", "---|".repeat(list.headers.len())));
                for row in &list.rows {
                    let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
                    self.data(format_args!("| {} |", cells.join(" | ")));
                }
            }
            Format::Table => self.table(list, list.wide_from),
            Format::Wide => self.table(list, list.headers.len()),
        }
    }

    fn delimited<T>(&self, list: &List<'_, T>, line: impl Fn(&[String]) -> String) {
        let headers: Vec<String> = list.headers.iter().map(|h| (*h).to_lowercase()).collect();
        self.data(line(&headers));
        list.rows.iter().for_each(|row| self.data(line(row)));
    }

    fn table<T>(&self, list: &List<'_, T>, columns: usize) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(&list.headers[..columns]);
        for row in &list.rows {
            table.add_row(&row[..columns]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.data(line.trim_end());
        }
    }
}

/// Rows to print, and the same as JSON.
pub(crate) struct List<'a, T> {
    /// Column headers.
    pub(crate) headers: &'a [&'a str],
    /// Index of the column with the name.
    pub(crate) name: usize,
    /// Columns from here on are for `-o wide`.
    pub(crate) wide_from: usize,
    /// The rows.
    pub(crate) rows: Vec<Vec<String>>,
    /// The rows for programs.
    pub(crate) values: &'a [T],
}

/// A value as one line of JSON.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what is printed is plain data that always encodes")
}

/// A cell of a CSV file.
pub(crate) fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_cell_is_quoted_only_where_it_must_be() {
        assert_eq!(csv_cell("plain"), "plain");
        assert_eq!(csv_cell("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
