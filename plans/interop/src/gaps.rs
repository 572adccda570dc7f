//! The pairs that are known not to work.

use serde::Deserialize;

/// Who dialled whom, how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    /// The case's name.
    pub(crate) case: &'a str,
    /// The implementation that dialled.
    pub(crate) dialer: &'a str,
    /// The implementation that listened.
    pub(crate) listener: &'a str,
    /// With which stack, or through which implementation as a relay.
    pub(crate) variant: &'a str,
}

/// What an attempt means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works, and should.
    Works,
    /// It fails, and should not.
    Broken(String),
    /// It fails as is known; this is why.
    Gap(String),
    /// It works, though a gap is listed.
    GapGone(String),
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gaps {
    #[serde(default)]
    gap: Vec<Gap>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gap {
    #[serde(default = "any")]
    case: String,
    #[serde(default = "any")]
    dialer: String,
    #[serde(default = "any")]
    listener: String,
    #[serde(default = "any")]
    variant: String,
    /// What the failure says: one for another reason is none of this gap.
    #[serde(default = "any")]
    error: String,
    why: String,
}

fn any() -> String {
    "*".to_owned()
}

impl Gaps {
    /// Reads the file.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Compares an attempt with what is known.
    pub(crate) fn verdict(&self, pair: Pair<'_>, error: Option<&str>) -> Verdict {
        let known = self.gap.iter().find(|gap| gap.covers(pair));
        match (known, error) {
            (None, None) => Verdict::Works,
            (None, Some(error)) => Verdict::Broken(error.to_owned()),
            (Some(gap), Some(error)) if matches(&gap.error, error) => Verdict::Gap(gap.why.clone()),
            (Some(gap), Some(error)) => {
                Verdict::Broken(format!("{error}, which is not the known gap `{}`", gap.why))
            }
            (Some(gap), None) => Verdict::GapGone(gap.why.clone()),
        }
    }
}

impl Gap {
    fn covers(&self, pair: Pair<'_>) -> bool {
        matches(&self.case, pair.case)
            && matches(&self.dialer, pair.dialer)
            && matches(&self.listener, pair.listener)
            && matches(&self.variant, pair.variant)
    }
}

/// Whether a text is as a pattern says, in which `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[gap]]
        case = "ping"
        dialer = "rust-*"
        variant = "*/mplex"
        error = "*no mplex*"
        why = "dropped"
    "#;

    fn verdict(dialer: &str, variant: &str, error: Option<&str>) -> Verdict {
        let pair = Pair { case: "ping", dialer, listener: "js-1", variant };
        Gaps::parse(FILE).unwrap().verdict(pair, error)
    }

    #[test]
    fn what_fails_is_broken_unless_it_is_known_to() {
        assert_eq!(verdict("js-1", "tcp/noise/mplex", None), Verdict::Works);
        let broken = Verdict::Broken("refused".to_owned());
        assert_eq!(verdict("js-1", "tcp/noise/mplex", Some("refused")), broken);
        let gap = Verdict::Gap("dropped".to_owned());
        assert_eq!(verdict("rust-1", "tcp/noise/mplex", Some("it has no mplex")), gap);
    }

    #[test]
    fn what_fails_for_another_reason_is_broken() {
        let broken = "refused, which is not the known gap `dropped`".to_owned();
        assert_eq!(verdict("rust-1", "tcp/noise/mplex", Some("refused")), Verdict::Broken(broken));
    }

    #[test]
    fn a_gap_that_works_is_to_be_taken_out() {
        let gone = Verdict::GapGone("dropped".to_owned());
        assert_eq!(verdict("rust-1", "tcp/noise/mplex", None), gone);
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text) in [("*", ""), ("a*", "abc"), ("*c", "abc"), ("a*b*c", "a-b-c")] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "ab"), ("b*", "ab"), ("a*b*c", "ac")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_word_that_means_nothing_is_refused() {
        let err = Gaps::parse("[[gap]]\nwhy = \"x\"\ndailer = \"y\"").unwrap_err().to_string();
        assert!(err.contains("dailer") && err.contains("dialer"), "{err}");
    }

    #[test]
    fn the_file_of_this_plan_can_be_read() {
        Gaps::parse(include_str!("../known-gaps.toml")).unwrap();
    }
}
