//! A composition made of a command line: one case, one group.

use std::collections::BTreeMap;

use super::Composition;
use crate::diagnostic::Diagnostics;

/// One group called `single`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Single {
    /// Where the plan is found.
    pub plan: String,
    /// The case.
    pub case: String,
    /// How many instances.
    pub instances: u32,
    /// The runner.
    pub runner: String,
    /// The builder.
    pub builder: String,
    /// Parameters.
    pub params: BTreeMap<String, String>,
}

impl Composition {
    /// The composition of one group, as a person would have written it.
    ///
    /// # Errors
    /// When a parameter cannot reach an instance.
    pub fn single(single: &Single) -> Result<Self, Diagnostics> {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut lines = vec![
            "[global]".to_owned(),
            format!("plan = {}", text(&single.plan)),
            format!("case = {}", text(&single.case)),
            format!("builder = {}", text(&single.builder)),
            format!("runner = {}", text(&single.runner)),
            String::new(),
            "[[groups]]".to_owned(),
            "id = \"single\"".to_owned(),
            format!("instances = {{ count = {} }}", single.instances),
        ];
        if !single.params.is_empty() {
            lines.push("[groups.run.test_params]".to_owned());
            let param =
                |(key, value): (&String, &String)| format!("{} = {}", text(key), text(value));
            lines.extend(single.params.iter().map(param));
        }
        lines.push(String::new());
        Self::parse("command line", &lines.join("\n"), false).map(|(composition, _)| composition)
    }
}
