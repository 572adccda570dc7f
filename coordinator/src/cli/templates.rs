//! What `plan new` writes: a template's own files, and those that all plans in a language have.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::args::Lang;
use super::sdk_source::SDK_SOURCE;

/// What a new plan is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// Every instance says hello
    Hello,
    /// Instances measure how long each other take to answer
    Ping,
    /// Instances spread messages
    Gossip,
    /// Instances look for keys in a distributed hash table
    Dht,
    /// Instances behind NATs punch holes
    Nat,
    /// Instances come and go while others ask them
    Churn,
    /// Clients send requests at a steady rate
    Load,
}

/// Where a plan in Rust has the SDK from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// Its source is written into the plan.
    Embedded,
    /// A directory.
    Path(PathBuf),
    /// A registry.
    Version(String),
}

/// A file of a new plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) executable: bool,
}

/// A template that is not there in a language.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoTemplate {
    pub(crate) message: String,
    pub(crate) advice: &'static str,
}

impl Sdk {
    /// Reads what the command line says: a version, or a directory.
    pub(crate) fn parse(text: &str) -> Self {
        if text.starts_with(|c: char| c.is_ascii_digit()) && !Path::new(text).exists() {
            return Self::Version(text.to_owned());
        }
        let path = Path::new(text);
        Self::Path(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    fn dependency(&self) -> String {
        match self {
            Self::Embedded => "{ path = \"sdk\" }".to_owned(),
            Self::Path(path) => format!("{{ path = {:?} }}", path.display().to_string()),
            Self::Version(version) => format!("{version:?}"),
        }
    }
}

/// The texts of a template that differ from one to the other.
struct Source {
    cases: &'static str,
    composition: &'static str,
    readme: &'static str,
    rust: &'static str,
    js: &'static str,
    sh: Option<Shell>,
}

/// A template in shell, which has no sync and so cases of its own.
struct Shell {
    cases: &'static str,
    composition: &'static str,
    script: &'static str,
}

macro_rules! text {
    ($($path:tt)+) => {
        include_str!(concat!("../templates/", $($path)+))
    };
}

macro_rules! source {
    ($dir:literal, $sh:expr) => {
        Source {
            cases: text!($dir, "/cases.toml"),
            composition: text!($dir, "/composition.toml"),
            readme: text!($dir, "/README.md"),
            rust: text!($dir, "/main.rs"),
            js: text!($dir, "/index.js"),
            sh: $sh,
        }
    };
}

macro_rules! shell {
    ($dir:literal) => {
        Some(Shell {
            cases: text!($dir, "/cases.sh.toml"),
            composition: text!($dir, "/composition.sh.toml"),
            script: text!($dir, "/run.sh"),
        })
    };
}

/// The files of a new plan.
pub(crate) fn files(
    template: Template,
    lang: Lang,
    name: &str,
    sdk: &Sdk,
) -> Result<Vec<File>, NoTemplate> {
    let source = match template {
        Template::Hello => return Ok(named(hello(lang), name)),
        Template::Ping => source!("ping", shell!("ping")),
        Template::Gossip => source!("gossip", None),
        Template::Dht => source!("dht", None),
        Template::Nat => source!("nat", None),
        Template::Churn => source!("churn", None),
        Template::Load => source!("load", shell!("load")),
    };
    let files = match lang {
        Lang::Rust => rust(&source, sdk),
        Lang::Js => js(&source),
        Lang::Sh => sh(&source).ok_or_else(|| no_shell(template))?,
    };
    Ok(named(files, name))
}

fn no_shell(template: Template) -> NoTemplate {
    let name = template.to_possible_value().map(|value| value.get_name().to_owned());
    NoTemplate {
        message: format!(
            "there is no template `{}` in sh: a shell script has no sync. In sh there are `hello`, `ping` and `load`",
            name.unwrap_or_default()
        ),
        advice: "say --lang rust or --lang js, or take another template",
    }
}

fn named(mut files: Vec<File>, name: &str) -> Vec<File> {
    for file in &mut files {
        file.text = file.text.replace("%NAME%", name);
    }
    files
}

fn file(path: &str, text: impl Into<String>) -> File {
    File { path: path.to_owned(), text: text.into(), executable: false }
}

fn script(path: &str, text: &str) -> File {
    File { executable: true, ..file(path, text) }
}

fn hello(lang: Lang) -> Vec<File> {
    match lang {
        Lang::Rust => vec![
            file("manifest.toml", text!("rust/manifest.toml")),
            file("composition.toml", text!("rust/composition.toml")),
            // Named so that Cargo does not take the template for a package.
            file("Cargo.toml", text!("rust/Cargo.toml.template")),
            file("src/main.rs", text!("rust/src/main.rs")),
            file("README.md", text!("rust/README.md")),
        ],
        Lang::Js => vec![
            file("manifest.toml", text!("js/manifest.toml")),
            file("composition.toml", text!("js/composition.toml")),
            file("package.json", text!("js/package.json")),
            file("index.js", text!("js/index.js")),
            script("run.sh", text!("js/run.sh")),
            file("README.md", text!("js/README.md")),
        ],
        Lang::Sh => vec![
            file("manifest.toml", text!("sh/manifest.toml")),
            file("composition.toml", text!("sh/composition.toml")),
            script("run.sh", text!("sh/run.sh")),
            file("README.md", text!("sh/README.md")),
        ],
    }
}

/// Manifest, composition and README, which are put together the same way in every language.
fn common(
    manifest: &str,
    cases: &str,
    composition: &str,
    builder: &str,
    readme: [&str; 2],
) -> Vec<File> {
    let [about, language] = readme;
    vec![
        file("manifest.toml", format!("{manifest}{cases}")),
        file("composition.toml", composition.replace("%BUILDER%", builder)),
        file("README.md", format!("# %NAME%\n\n{about}{language}{}", text!("end.md"))),
    ]
}

fn rust(source: &Source, sdk: &Sdk) -> Vec<File> {
    let readme = [source.readme, text!("of-rust/README.md")];
    let manifest = text!("of-rust/manifest.toml");
    let mut files = common(manifest, source.cases, source.composition, "exec:cargo", readme);
    let cargo = text!("of-rust/Cargo.toml.template").replace("%SDK%", &sdk.dependency());
    files.push(file("Cargo.toml", cargo));
    files.push(file("src/main.rs", source.rust));
    if *sdk == Sdk::Embedded {
        files.push(file("sdk/Cargo.toml", text!("of-rust/sdk.toml.template")));
        let sources = SDK_SOURCE.iter();
        files.extend(sources.map(|(path, text)| file(&format!("sdk/src/{path}"), *text)));
    }
    files
}

fn js(source: &Source) -> Vec<File> {
    let readme = [source.readme, text!("of-js/README.md")];
    let manifest = text!("of-js/manifest.toml");
    let mut files = common(manifest, source.cases, source.composition, "exec:command", readme);
    files.push(file("package.json", text!("js/package.json")));
    files.push(file("index.js", source.js));
    files.push(file("lib.js", text!("of-js/lib.js")));
    files.push(script("run.sh", text!("js/run.sh")));
    files
}

fn sh(source: &Source) -> Option<Vec<File>> {
    let shell = source.sh.as_ref()?;
    let readme = [source.readme, text!("of-sh/README.md")];
    let manifest = text!("of-sh/manifest.toml");
    let mut files = common(manifest, shell.cases, shell.composition, "exec:command", readme);
    files.push(script("run.sh", shell.script));
    files.push(file("lib.sh", text!("of-sh/lib.sh")));
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_in_shell_is_refused_by_name() {
        for template in [Template::Gossip, Template::Dht, Template::Nat, Template::Churn] {
            let refused = files(template, Lang::Sh, "p", &Sdk::Embedded).unwrap_err();
            assert!(refused.message.contains("In sh there are `hello`"), "{}", refused.message);
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for template in Template::value_variants() {
            for lang in Lang::value_variants() {
                let Ok(files) = files(*template, *lang, "my-plan", &Sdk::Embedded) else {
                    continue;
                };
                for file in files {
                    for blank in ["%NAME%", "%SDK%", "%BUILDER%"] {
                        assert!(!file.text.contains(blank), "{template:?} {lang:?} {}", file.path);
                    }
                }
            }
        }
    }

    #[test]
    fn the_sdk_comes_from_where_it_is_said() {
        let cargo = |sdk: &Sdk| {
            let files = files(Template::Ping, Lang::Rust, "p", sdk).unwrap();
            let embedded = files.iter().any(|file| file.path == "sdk/src/lib.rs");
            let cargo = files.into_iter().find(|file| file.path == "Cargo.toml").unwrap();
            (cargo.text, embedded)
        };
        let (text, embedded) = cargo(&Sdk::Embedded);
        assert!(text.contains("groundswell-sdk = { path = \"sdk\" }\n") && embedded);
        let (text, embedded) = cargo(&Sdk::parse("0.1"));
        assert!(text.contains("groundswell-sdk = \"0.1\"\n") && !embedded);
        let (text, embedded) = cargo(&Sdk::parse("/opt/sdk"));
        assert!(text.contains("groundswell-sdk = { path = \"/opt/sdk\" }\n") && !embedded);
    }
}
