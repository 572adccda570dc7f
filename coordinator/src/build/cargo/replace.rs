//! Builds other crates in than a plan names, by changing its manifests: `[patch]` for a commit or a directory, the
//! requirement for a version.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::super::dependencies::{self, By, Replaced};
use super::super::layout::{LaidOut, from_to};
use super::super::tree::Content;
use super::super::{BuildError, BuildRequest};
use super::manifest;

/// Changes the manifests of a source whose workspace has its root in `root`. Returns the crates, with their
/// versions, that no manifest names: the lock file has to be changed for them.
pub(super) fn apply(
    request: &BuildRequest,
    laid_out: &mut LaidOut,
    root: &Path,
) -> Result<Vec<(String, String)>, BuildError> {
    let mut only_locked = Vec::new();
    for one in &dependencies::read(request)? {
        let fail = |reason: String| dependencies::wrong(request, &one.module, reason);
        let directory = match &one.by {
            By::Directory(path) => Some(existing(laid_out, path).map_err(fail)?),
            By::Git { .. } | By::Version(_) | By::Module { .. } => None,
        };
        let named = name_directly(laid_out, one, directory.as_deref());
        match &one.by {
            By::Version(version) if !named => {
                only_locked.push((one.module.clone(), version.clone()));
            }
            By::Git { .. } | By::Directory(_) if !named => {
                patch(laid_out, root, one, directory.as_deref());
            }
            By::Git { .. } | By::Directory(_) | By::Version(_) | By::Module { .. } => {}
        }
    }
    Ok(only_locked)
}

fn existing(laid_out: &LaidOut, path: &Path) -> Result<PathBuf, String> {
    let place = dependencies::place(&laid_out.plan, path);
    if laid_out.files.contains_key(&place.join("Cargo.toml")) {
        return Ok(place);
    }
    Err(format!("there is no Cargo.toml in `{}`, seen from the plan", path.display()))
}

/// Writes the replacement into every manifest that names the crate, where a patch would not do: another version,
/// or for a crate that lies beside them. Returns whether there was one.
fn name_directly(laid_out: &mut LaidOut, one: &Replaced, directory: Option<&Path>) -> bool {
    let mut named = false;
    for (path, mut table) in manifests(laid_out) {
        let home = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut changed = false;
        manifest::each_dependency(&mut table, &mut |name, entry| {
            let lies_beside = entry.get("path").is_some();
            let wanted = matches!(one.by, By::Version(_)) || lies_beside;
            if wanted && is_of(name, entry, &one.module) {
                write_entry(entry, &one.by, directory.map(|to| from_to(&home, to)));
                changed = true;
            }
        });
        if changed {
            laid_out.files.insert(path, Content::Text(table.to_string()));
            named = true;
        }
    }
    named
}

fn manifests(laid_out: &LaidOut) -> Vec<(PathBuf, Table)> {
    let paths = laid_out.files.keys().filter(|path| path.ends_with("Cargo.toml"));
    paths.filter_map(|path| Some((path.clone(), laid_out.text(path)?.parse().ok()?))).collect()
}

/// Whether an entry is about a crate. One that is inherited is changed where it comes from.
fn is_of(name: &str, entry: &Value, module: &str) -> bool {
    let package = entry.get("package").and_then(Value::as_str).unwrap_or(name);
    package == module && entry.get("workspace").is_none()
}

fn write_entry(entry: &mut Value, by: &By, directory: Option<PathBuf>) {
    let mut table = entry.as_table().cloned().unwrap_or_default();
    let place = ["version", "path", "git", "branch", "tag", "rev", "registry"];
    table.retain(|key, _| !place.contains(&key));
    table.extend(source_of(by, directory));
    *entry = Value::Table(table);
}

/// Where the crate comes from, as a dependency's entry says it.
fn source_of(by: &By, directory: Option<PathBuf>) -> Table {
    let text = |text: String| Value::String(text);
    let mut table = Table::new();
    match by {
        By::Git { url, commit } => {
            table.insert("git".to_owned(), text(url.clone()));
            table.insert("rev".to_owned(), text(commit.clone()));
        }
        By::Directory(_) => {
            let path = directory.unwrap_or_default();
            table.insert("path".to_owned(), text(path.display().to_string()));
        }
        By::Version(version) | By::Module { version, .. } => {
            let exact = version.starts_with(|first: char| first.is_ascii_digit());
            let whole =
                version.split(['-', '+']).next().is_some_and(|it| it.split('.').count() == 3);
            let requirement = if exact && whole { format!("={version}") } else { version.clone() };
            table.insert("version".to_owned(), text(requirement));
        }
    }
    table
}

/// Adds a patch to the root of the workspace.
fn patch(laid_out: &mut LaidOut, root: &Path, one: &Replaced, directory: Option<&Path>) {
    let path = root.join("Cargo.toml");
    let source = source_to_patch(laid_out, root, &one.module);
    let table = laid_out.text(&path).and_then(|text| text.parse::<Table>().ok());
    let mut table = table.unwrap_or_default();
    let entry = source_of(&one.by, directory.map(|to| from_to(root, to)));
    let empty = || Value::Table(Table::new());
    let patches = table.entry("patch").or_insert_with(empty);
    if let Some(patches) = patches.as_table_mut()
        && let Some(of_source) = patches.entry(source).or_insert_with(empty).as_table_mut()
    {
        of_source.insert(one.module.clone(), Value::Table(entry));
    }
    laid_out.files.insert(path, Content::Text(table.to_string()));
}

/// Where the crate comes from that is to be replaced: a repository that a manifest or the lock file names, and
/// crates.io otherwise.
fn source_to_patch(laid_out: &LaidOut, root: &Path, module: &str) -> String {
    for (_, mut table) in manifests(laid_out) {
        let mut url = None;
        manifest::each_dependency(&mut table, &mut |name, entry| {
            if is_of(name, entry, module) {
                url = entry.get("git").and_then(Value::as_str).map(str::to_owned).or(url.take());
            }
        });
        if let Some(url) = url {
            return url;
        }
    }
    let lock = laid_out.text(&root.join("Cargo.lock")).unwrap_or_default();
    manifest::locked_repository(&lock, module).unwrap_or_else(|| "crates-io".to_owned())
}

/// Checks that Cargo has built in what it was told to.
pub(super) fn check_used(request: &BuildRequest, lock: &str) -> Result<(), BuildError> {
    let Some((module, version)) = manifest::unused_patches(lock)
        .into_iter()
        .find(|(name, _)| request.dependencies.iter().any(|one| one.module == *name))
    else {
        return Ok(());
    };
    let reason = format!(
        "what replaces it has version {version}, and nothing in the plan asks for that version: \
         name a commit or directory whose version fits the requirement, or change the requirement"
    );
    Err(dependencies::wrong(request, &module, reason))
}

#[cfg(test)]
mod tests {
    use groundswell_common::messages::RuntimeKind;
    use serde_json::Map;

    use super::*;
    use crate::build::Dependency;
    use crate::build::tree::Files;

    fn request(module: &str, target: &str, version: &str) -> BuildRequest {
        let one =
            Dependency { module: module.into(), target: target.into(), version: version.into() };
        BuildRequest {
            builder: "exec:cargo".into(),
            config: Map::new(),
            selectors: Vec::new(),
            dependencies: vec![one],
            source: PathBuf::new(),
            plan: "mesh".into(),
            runtime: RuntimeKind::Netns,
            no_cache: false,
        }
    }

    fn laid_out() -> LaidOut {
        let files = [
            (
                "Cargo.toml",
                "[workspace]\nmembers = [\"mesh\"]\n[workspace.dependencies]\nnumbers = \"1\"\n",
            ),
            (
                "Cargo.lock",
                "[[package]]\nname = \"deep\"\nversion = \"1.0.0\"\nsource = \"git+https://h/deep?branch=main#c\"\n",
            ),
            (
                "mesh/Cargo.toml",
                "[dependencies]\nnumbers.workspace = true\nwords = { path = \"../words\" }\nold = { package = \"lib\", git = \"https://h/lib\" }\n",
            ),
            ("words/Cargo.toml", "[dependencies]\n"),
            ("mine/Cargo.toml", "[package]\n"),
        ];
        let files = files.map(|(path, text)| (path.into(), Content::Text(text.to_owned())));
        LaidOut { plan: "mesh".into(), files: Files::from(files) }
    }

    /// What changes when a module is replaced.
    fn changed(module: &str, target: &str, version: &str) -> String {
        let (before, mut after) = (laid_out(), laid_out());
        let request = request(module, target, version);
        let locked = apply(&request, &mut after, Path::new("")).expect("applied");
        let mut shown = String::new();
        for (path, content) in &after.files {
            if before.files[path] != *content {
                let text = after.text(path).expect("it is text");
                shown.push_str(&format!("--- {}\n{text}", path.display()));
            }
        }
        for (name, version) in locked {
            shown.push_str(&format!("--- lock {name} {version}\n"));
        }
        shown
    }

    #[test]
    fn a_crate_of_the_registry_is_patched() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        insta::assert_snapshot!(changed("numbers", "https://h/numbers", commit), @r#"
        --- Cargo.toml
        [patch.crates-io.numbers]
        git = "https://h/numbers"
        rev = "0123456789abcdef0123456789abcdef01234567"

        [workspace]
        members = ["mesh"]

        [workspace.dependencies]
        numbers = "1"
        "#);
        insta::assert_snapshot!(changed("numbers", "../mine", ""), @r#"
        --- Cargo.toml
        [patch.crates-io.numbers]
        path = "mine"

        [workspace]
        members = ["mesh"]

        [workspace.dependencies]
        numbers = "1"
        "#);
    }

    #[test]
    fn a_crate_of_a_repository_is_patched_there() {
        insta::assert_snapshot!(changed("lib", "../mine", ""), @r#"
        --- Cargo.toml
        [patch."https://h/lib".lib]
        path = "mine"

        [workspace]
        members = ["mesh"]

        [workspace.dependencies]
        numbers = "1"
        "#);
        insta::assert_snapshot!(changed("deep", "../mine", ""), @r#"
        --- Cargo.toml
        [patch."https://h/deep".deep]
        path = "mine"

        [workspace]
        members = ["mesh"]

        [workspace.dependencies]
        numbers = "1"
        "#);
    }

    #[test]
    fn a_crate_beside_the_plan_is_named_directly() {
        insta::assert_snapshot!(changed("words", "../mine", ""), @r#"
        --- mesh/Cargo.toml
        [dependencies.numbers]
        workspace = true

        [dependencies.old]
        git = "https://h/lib"
        package = "lib"

        [dependencies.words]
        path = "../mine"
        "#);
    }

    #[test]
    fn another_version_is_a_requirement_or_a_change_of_the_lock_file() {
        insta::assert_snapshot!(changed("numbers", "", "1.2.3"), @r#"
        --- Cargo.toml
        [workspace]
        members = ["mesh"]

        [workspace.dependencies.numbers]
        version = "=1.2.3"
        "#);
        insta::assert_snapshot!(changed("lib", "", "0.9"), @r#"
        --- mesh/Cargo.toml
        [dependencies.numbers]
        workspace = true

        [dependencies.old]
        package = "lib"
        version = "0.9"

        [dependencies.words]
        path = "../words"
        "#);
        insta::assert_snapshot!(changed("deeper", "", "1.2.3"), @r#"
        --- lock deeper 1.2.3
        "#);
    }

    #[test]
    fn a_directory_without_a_crate_is_named() {
        let request = request("numbers", "../nowhere", "");
        let refused = apply(&request, &mut laid_out(), Path::new("")).expect_err("refused");
        let refused = refused.to_string();
        assert!(
            refused.contains("dependency `numbers`") && refused.contains("`../nowhere`"),
            "{refused}"
        );
    }

    #[test]
    fn a_patch_that_cargo_leaves_out_is_an_error() {
        let lock = "[[patch.unused]]\nname = \"numbers\"\nversion = \"2.0.0\"\n";
        let refused = check_used(&request("numbers", "../mine", ""), lock).expect_err("refused");
        assert!(refused.to_string().contains("version 2.0.0"), "{refused}");
        check_used(&request("other", "../mine", ""), lock).expect("it is about another one");
    }
}
