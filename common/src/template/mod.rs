//! Executes a composition file as a Go text/template, the way Testground does.
//!
//! The data object has one field, `.Env`. A missing variable prints `<no value>`, as it does there.

mod eval;
mod functions;
mod lexer;
mod parser;
mod printf;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceFile};
use value::Value;

/// Gives the text of a file, by its path relative to the composition's directory, or why it cannot.
pub type Resources<'a> = dyn Fn(&str) -> Result<String, String> + 'a;

/// Executes the template in `source` with `env` as `.Env`; `load` serves `load_resource`.
///
/// # Errors
/// The first thing that is wrong with the template.
pub fn render(
    source: &Arc<SourceFile>,
    env: &BTreeMap<String, String>,
    load: &Resources<'_>,
) -> Result<String, Diagnostic> {
    let env = env.iter().map(|(key, value)| (key.clone(), Value::Text(value.clone()))).collect();
    let rendered = lexer::split(&source.text)
        .and_then(parser::parse)
        .and_then(|tree| eval::execute(&tree, &env, load));
    rendered.map_err(|trouble| {
        Diagnostic::error(
            source,
            trouble.span,
            format!("template: {}", trouble.message),
            trouble.help,
        )
    })
}

/// What is wrong with a template.
#[derive(Debug)]
struct Trouble {
    span: Range<usize>,
    message: String,
    help: String,
}

impl Trouble {
    fn new(span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: help.into() }
    }
}
