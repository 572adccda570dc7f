//! What is wrong with a file: where, the offending text, and what to write there.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteSpanContents};

/// A file a person wrote, and its name in messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFile {
    /// Its name in messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// A file with this name and text.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), text: text.to_owned() })
    }

    /// The line, from 1, of a byte.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

impl miette::SourceCode for SourceFile {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let inner = self.text.read_span(span, before, after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            inner.data(),
            *inner.span(),
            inner.line(),
            inner.column(),
            inner.line_count(),
        )))
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but probably does not say what its author means.
    Warning,
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub source: Arc<SourceFile>,
    /// Which bytes of it; absent when the file as a whole is meant.
    pub span: Option<Range<usize>>,
    /// What is wrong, as a lowercase fragment.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// How bad it is.
    pub severity: Severity,
}

impl Diagnostic {
    /// An error in `source` at `span`.
    pub fn error(
        source: &Arc<SourceFile>,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            source: Arc::clone(source),
            span: span.into(),
            message: message.into(),
            help: help.into(),
            severity: Severity::Error,
        }
    }

    /// A warning about `source` at `span`.
    pub fn warning(
        source: &Arc<SourceFile>,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(source, span, message, help) }
    }

    /// The line, from 1, it is about.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.span.as_ref().map(|span| self.source.line(span.start))
    }

    /// The diagnostic with the offending text underlined, for a terminal.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let theme =
            if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(color);
        let mut out = String::new();
        match handler.render_report(&mut out, &Shown(self)) {
            Ok(()) => out,
            Err(fmt::Error) => format!("{self}\n"),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line() {
            Some(line) => write!(f, "{}:{line}: {}", self.source.name, self.message),
            None if self.source.name.is_empty() => f.write_str(&self.message),
            None => write!(f, "{}: {}", self.source.name, self.message),
        }
    }
}

impl Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.span.is_some().then_some(self.source.as_ref() as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        let label = LabeledSpan::new(Some("here".to_owned()), span.start, span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

/// A diagnostic whose text is the bare message: the graphical form tells file and line beside the snippet.
#[derive(Debug)]
struct Shown<'a>(&'a Diagnostic);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.span {
            Some(_) => f.write_str(&self.0.message),
            None => self.0.fmt(f),
        }
    }
}

impl Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        miette::Diagnostic::severity(self.0)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        miette::Diagnostic::help(self.0)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.0.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.0.labels()
    }
}

/// Everything that is wrong with a file, in the order it was found. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All of them with the offending text underlined, for a terminal.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        self.0.iter().map(|one| one.render(color)).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            one.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self(vec![one])
    }
}

/// The candidate someone who wrote `word` probably meant.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    // Names of one or two letters are all close to each other.
    let limit = match word.chars().count() {
        0..=2 => 0,
        length => 1 + length / 5,
    };
    candidates
        .into_iter()
        .map(|one| (strsim::damerau_levenshtein(&word, &one.to_lowercase()), one))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, one)| one)
}

/// `did you mean` the closest candidate, or else the list of what there is.
#[must_use]
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(close) = closest(word, candidates.clone()) {
        return format!("did you mean `{close}`?");
    }
    let known: Vec<String> = candidates.into_iter().map(|one| format!("`{one}`")).collect();
    if known.is_empty() { String::new() } else { format!("there is {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_names_file_line_text_and_fix() {
        let source = SourceFile::new("composition.toml", "[global]\nplan = \"a\"\ncasse = \"b\"\n");
        let one = Diagnostic::error(&source, 20..25, "unknown key `casse`", "did you mean `case`?");
        assert_eq!(one.to_string(), "composition.toml:3: unknown key `casse`");
        let shown = one.render(false);
        assert!(shown.contains("casse = \"b\""), "{shown}");
        assert!(shown.contains("composition.toml:3:1"), "{shown}");
        assert!(shown.contains("did you mean `case`?"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn a_suggestion_is_close_or_else_a_list() {
        assert_eq!(suggest("grops", ["groups", "runs"]), "did you mean `groups`?");
        assert_eq!(suggest("zebra", ["groups", "runs"]), "there is `groups`, `runs`");
        assert_eq!(closest("zebra", []), None);
    }
}
