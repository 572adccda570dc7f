//! What a Cargo crate needs from outside its plan's directory: the root of its workspace, and every package it
//! reaches by a path.
//!
//! A root is cut on the way: its members are those that come along, so that Cargo finds every member it is told
//! of. Dependencies, profiles and patches stay as they are. The lock file comes along whole; Cargo takes its
//! versions and drops what nothing needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::super::layout::{Layout, below, from_to, normal};
use super::super::source;
use super::super::tree::{Content, Files, add_directory};
use super::manifest;

/// What comes along from the directory of a workspace's root, beside `Cargo.toml`.
const OF_ROOT: [&str; 5] =
    ["Cargo.lock", "rust-toolchain", "rust-toolchain.toml", ".cargo/config.toml", ".cargo/config"];

/// Why it cannot be found out what a crate needs.
#[derive(Debug, thiserror::Error)]
pub enum AroundError {
    /// A manifest cannot be read.
    #[error("failed to read `{path}`{}", named(.needed_by))]
    Read {
        /// Which.
        path: String,
        /// What names it.
        needed_by: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A manifest is not TOML.
    #[error("`{path}` is not valid")]
    Toml {
        /// Which.
        path: String,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// A directory cannot be listed.
    #[error("failed to list `{path}`")]
    List {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn named(needed_by: &str) -> String {
    if needed_by.is_empty() { String::new() } else { format!(", which {needed_by} names") }
}

/// What lies around a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// How all of it is laid out.
    pub(in crate::build) layout: Layout,
    /// The files, by their place.
    pub(in crate::build) files: Files,
}

/// What a composition builds a plan from, as paths from the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Crates that are built.
    pub crates: BTreeSet<PathBuf>,
    /// Crates that are built in for others.
    pub replacing: BTreeSet<PathBuf>,
    /// Other directories.
    pub directories: BTreeSet<PathBuf>,
}

/// Finds what a plan needs from outside of it. Nothing when it needs nothing.
///
/// # Errors
/// When a manifest that is needed is missing or wrong.
pub fn find(plan_dir: &Path, wanted: &Wanted) -> Result<Option<Around>, AroundError> {
    let plan = plan_dir.canonicalize().map_err(unreadable(plan_dir, ""))?;
    let place = |path: &PathBuf| normal(&plan.join(path));
    let mut search = Search::default();
    search.open.extend(wanted.crates.iter().map(|path| (place(path), String::new())));
    let named_by = |path: &PathBuf| format!("the composition's dependency on `{}`", path.display());
    search.open.extend(wanted.replacing.iter().map(|path| (place(path), named_by(path))));
    search.run()?;
    let outside = |path: &PathBuf| !path.starts_with(&plan);
    let packages: BTreeSet<_> =
        search.packages.keys().filter(|path| outside(path)).cloned().collect();
    let roots: Vec<_> = search.roots.keys().filter(|path| outside(path)).cloned().collect();
    let directories: Vec<_> = wanted.directories.iter().map(place).filter(outside).collect();
    let all = packages.iter().chain(&roots).chain(&directories);
    let Some(base) = common_ancestor(&plan, all) else {
        return Ok(None);
    };
    let mut files = Files::new();
    for directory in &directories {
        add_directory(&mut files, &below(directory, &base));
        add_uploaded(&mut files, &base, directory, |path| path == plan)?;
    }
    for package in &packages {
        add_package(&mut files, &base, package, &plan)?;
    }
    for root in &roots {
        let members = search.members(root);
        let text = cut(search.roots[root].clone(), &members, packages.contains(root));
        let place = below(root, &base);
        add_directory(&mut files, &place);
        files.insert(place.join("Cargo.toml"), Content::Text(text));
        for name in OF_ROOT.into_iter().filter(|name| root.join(name).is_file()) {
            add_directory(&mut files, place.join(name).parent().unwrap_or(&place));
            files.insert(place.join(name), Content::Copy(root.join(name)));
        }
    }
    Ok(Some(Around { layout: Layout { plan: below(&plan, &base) }, files }))
}

/// The manifests seen so far, by their directory.
#[derive(Default)]
struct Search {
    packages: BTreeMap<PathBuf, Table>,
    roots: BTreeMap<PathBuf, Table>,
    /// Which root a package has.
    root_of: BTreeMap<PathBuf, PathBuf>,
    /// Directories to look at, and what names them.
    open: Vec<(PathBuf, String)>,
}

impl Search {
    fn run(&mut self) -> Result<(), AroundError> {
        while let Some((dir, needed_by)) = self.open.pop() {
            // What a build starts with may be missing; the builder says so, with the option that is wrong.
            let missing = !dir.join("Cargo.toml").is_file() && needed_by.is_empty();
            if missing || self.packages.contains_key(&dir) {
                continue;
            }
            let table = read(&dir, &needed_by)?;
            let root = self.find_root(&dir, &table)?;
            self.packages.insert(dir.clone(), table.clone());
            let inherited = root.as_ref().map(|root| (root.clone(), self.roots[root].clone()));
            self.add_dependencies(&dir, &table, inherited.as_ref());
            if let Some(root) = root {
                self.root_of.insert(dir, root);
            }
        }
        Ok(())
    }

    /// The root of the package's workspace. A root that is seen for the first time opens what it patches.
    fn find_root(&mut self, dir: &Path, table: &Table) -> Result<Option<PathBuf>, AroundError> {
        let told = table.get("package").and_then(|package| package.get("workspace"));
        let root = if table.contains_key("workspace") {
            Some(dir.to_owned())
        } else if let Some(told) = told.and_then(Value::as_str) {
            Some(normal(&dir.join(told)))
        } else {
            let mut found = None;
            for above in dir.ancestors().skip(1).filter(|above| above.join("Cargo.toml").is_file())
            {
                if let Some(workspace) = read(above, "")?.get("workspace") {
                    found = Some(above.to_owned()).filter(|_| !excludes(above, workspace, dir));
                    break;
                }
            }
            found
        };
        let Some(root) = root else { return Ok(None) };
        if !self.roots.contains_key(&root) {
            let needed_by = format!("`{}`", dir.join("Cargo.toml").display());
            let table = read(&root, &needed_by)?;
            for (name, entry) in manifest::replacements(&table) {
                self.open_path(&root, name, entry);
            }
            self.roots.insert(root.clone(), table);
        }
        Ok(Some(root))
    }

    fn add_dependencies(&mut self, dir: &Path, table: &Table, root: Option<&(PathBuf, Table)>) {
        for (name, entry) in manifest::dependencies(table) {
            let inherited = entry.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherited {
                self.open_path(dir, name, entry);
            } else if let Some((root, table)) = root {
                let shared = table.get("workspace").and_then(|all| all.get("dependencies"));
                if let Some(entry) = shared.and_then(|all| all.get(name)) {
                    self.open_path(root, name, entry);
                }
            }
        }
    }

    fn open_path(&mut self, dir: &Path, name: &str, entry: &Value) {
        if let Some(path) = entry.get("path").and_then(Value::as_str) {
            let manifest = dir.join("Cargo.toml");
            let needed_by = format!("`{name}` in `{}`", manifest.display());
            self.open.push((normal(&dir.join(path)), needed_by));
        }
    }

    /// The packages of a workspace, as paths from its root.
    fn members(&self, root: &Path) -> Vec<String> {
        let of_root = self.root_of.iter().filter(|(package, of)| *of == root && *package != root);
        of_root.map(|(package, _)| from_to(root, package).display().to_string()).collect()
    }
}

/// Leaves in a root what a part of its members needs.
fn cut(mut root: Table, members: &[String], is_package: bool) -> String {
    if !is_package {
        let kept = ["workspace", "profile", "patch", "replace", "cargo-features"];
        root.retain(|key, _| kept.contains(&key));
    }
    if let Some(workspace) = root.get_mut("workspace").and_then(Value::as_table_mut) {
        let members = members.iter().cloned().map(Value::String).collect();
        workspace.insert("members".to_owned(), Value::Array(members));
        workspace.remove("default-members");
    }
    root.to_string()
}

/// Adds a package without those that lie inside of it, as `cargo package` does.
fn add_package(
    files: &mut Files,
    base: &Path,
    package: &Path,
    plan: &Path,
) -> Result<(), AroundError> {
    add_directory(files, &below(package, base));
    add_uploaded(files, base, package, |path| path.join("Cargo.toml").is_file() || path == plan)
}

/// Adds what is uploaded of a directory, without the directories in it that `skip` is true for.
fn add_uploaded(
    files: &mut Files,
    base: &Path,
    directory: &Path,
    skip: impl Fn(&Path) -> bool,
) -> Result<(), AroundError> {
    let unlisted = |source| AroundError::List { path: directory.display().to_string(), source };
    let mut skipped: Vec<PathBuf> = Vec::new();
    for entry in source::uploaded(directory) {
        let entry = entry.map_err(io::Error::other).map_err(unlisted)?;
        let path = entry.path();
        if path == directory || skipped.iter().any(|skipped| path.starts_with(skipped)) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() && skip(path) {
            skipped.push(path.to_owned());
        } else {
            files.insert(below(path, base), Content::Copy(path.to_owned()));
        }
    }
    Ok(())
}

fn excludes(root: &Path, workspace: &Value, dir: &Path) -> bool {
    let excluded = workspace.get("exclude").and_then(Value::as_array).cloned().unwrap_or_default();
    excluded.iter().filter_map(Value::as_str).any(|path| dir.starts_with(normal(&root.join(path))))
}

fn read(dir: &Path, needed_by: &str) -> Result<Table, AroundError> {
    let path = dir.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).map_err(unreadable(&path, needed_by))?;
    text.parse().map_err(|source| AroundError::Toml { path: path.display().to_string(), source })
}

fn unreadable(path: &Path, needed_by: &str) -> impl FnOnce(io::Error) -> AroundError {
    let (path, needed_by) = (path.display().to_string(), needed_by.to_owned());
    move |source| AroundError::Read { path, needed_by, source }
}

/// The deepest directory that holds all of them; nothing when the plan is alone.
fn common_ancestor<'a>(plan: &Path, others: impl Iterator<Item = &'a PathBuf>) -> Option<PathBuf> {
    let mut base = plan.to_owned();
    for other in others {
        while !other.starts_with(&base) {
            base.pop();
        }
    }
    (base != plan).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().expect("a directory"));
            for (path, content) in files {
                let path = tree.0.path().join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                std::fs::write(path, content).expect("written");
            }
            tree
        }

        fn around(&self, plan: &str) -> Option<Around> {
            self.find(plan).expect("found")
        }

        fn find(&self, plan: &str) -> Result<Option<Around>, AroundError> {
            find(&self.0.path().join(plan), &wanted(&[""], &[], &[]))
        }
    }

    fn wanted(crates: &[&str], replacing: &[&str], directories: &[&str]) -> Wanted {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Wanted {
            crates: paths(crates),
            replacing: paths(replacing),
            directories: paths(directories),
        }
    }

    /// The files, without directories.
    fn files(around: &Around) -> Vec<String> {
        let is_file = |content: &Content| match content {
            Content::Directory => false,
            Content::Copy(path) => path.is_file(),
            Content::Text(_) => true,
        };
        let files = around.files.iter().filter(|(_, content)| is_file(content));
        files.map(|(path, _)| path.display().to_string()).collect()
    }

    fn text<'a>(around: &'a Around, path: &str) -> &'a str {
        match &around.files[Path::new(path)] {
            Content::Text(text) => text,
            Content::Directory | Content::Copy(_) => panic!("{path} is no text"),
        }
    }

    #[test]
    fn a_member_brings_its_root_and_what_it_reaches_and_nothing_else() {
        let tree = Tree::new(&[
            (
                "plans/Cargo.toml",
                "[workspace]\nmembers = [\"mesh\", \"sdk\", \"sdk/derive\", \"other\"]\n\
                 default-members = [\"other\"]\n[workspace.dependencies]\nsdk = { path = \"sdk\" }\n\
                 [patch.crates-io]\nleft = { path = \"../left\" }\n[profile.dev]\nopt-level = 1\n",
            ),
            ("plans/Cargo.lock", "version = 4\n"),
            ("plans/.cargo/config.toml", ""),
            ("plans/mesh/Cargo.toml", "[package]\n[dev-dependencies]\nsdk.workspace = true\n"),
            ("plans/sdk/Cargo.toml", "[package]\n[dependencies]\nderive = { path = \"derive\" }\n"),
            ("plans/sdk/src/lib.rs", ""),
            ("plans/sdk/target/x", ""),
            ("plans/sdk/unused/Cargo.toml", "[package]\n"),
            ("plans/sdk/derive/Cargo.toml", "[package]\n"),
            ("plans/other/Cargo.toml", "[package]\n"),
            ("left/Cargo.toml", "[package]\n[workspace]\n"),
        ]);
        let around = tree.around("plans/mesh").expect("it is not alone");
        assert_eq!(around.layout.plan, Path::new("plans/mesh"));
        let expected = [
            "left/Cargo.toml",
            "plans/.cargo/config.toml",
            "plans/Cargo.lock",
            "plans/Cargo.toml",
            "plans/sdk/Cargo.toml",
            "plans/sdk/derive/Cargo.toml",
            "plans/sdk/src/lib.rs",
        ];
        assert_eq!(files(&around), expected);
        insta::assert_snapshot!(text(&around, "plans/Cargo.toml"), @r#"
        [patch.crates-io.left]
        path = "../left"

        [profile.dev]
        opt-level = 1

        [workspace]
        members = ["mesh", "sdk", "sdk/derive"]

        [workspace.dependencies.sdk]
        path = "sdk"
        "#);
    }

    #[test]
    fn a_crate_of_its_own_is_alone() {
        let tree = Tree::new(&[
            ("Cargo.toml", "[workspace]\nexclude = [\"plans\"]\n"),
            (
                "plans/one/Cargo.toml",
                "[package]\n[dependencies]\na = { path = \"a\" }\n[workspace]\n",
            ),
            ("plans/one/a/Cargo.toml", "[package]\n"),
            ("plans/two/Cargo.toml", "[package]\n"),
            ("plans/script/run.sh", ""),
        ]);
        for plan in ["plans/one", "plans/two", "plans/script"] {
            assert_eq!(tree.around(plan), None, "{plan}");
        }
    }

    #[test]
    fn a_root_that_is_a_package_nobody_needs_stops_being_one() {
        let tree = Tree::new(&[
            ("Cargo.toml", "[package]\nname = \"all\"\n[dependencies]\nx = \"1\"\n[workspace]\n"),
            ("plans/mesh/Cargo.toml", "[package]\nworkspace = \"../..\"\n"),
        ]);
        let around = tree.around("plans/mesh").expect("it has a root");
        assert_eq!(files(&around), ["Cargo.toml"]);
        assert_eq!(text(&around, "Cargo.toml"), "[workspace]\nmembers = [\"plans/mesh\"]\n");
    }

    #[test]
    fn what_is_missing_is_named_with_who_needs_it() {
        let tree = Tree::new(&[(
            "mesh/Cargo.toml",
            "[package]\n[dependencies]\nsdk = { path = \"../sdk\" }\n",
        )]);
        let refused = tree.find("mesh").expect_err("there is no sdk").to_string();
        assert!(refused.contains("sdk/Cargo.toml`, which `sdk` in `"), "{refused}");
        assert!(refused.contains("mesh/Cargo.toml` names"), "{refused}");
    }

    #[test]
    fn what_a_composition_builds_in_comes_along() {
        let tree = Tree::new(&[
            ("plans/mesh/Cargo.toml", "[package]\n[workspace]\n"),
            ("mine/Cargo.toml", "[package]\n[dependencies]\ndeep = { path = \"../deep\" }\n"),
            ("deep/Cargo.toml", "[package]\n"),
            ("go/go.mod", ""),
            ("go/plan/target/x", ""),
        ]);
        let plan = tree.0.path().join("plans/mesh");
        let wanted = wanted(&[""], &["../../mine"], &["../../go"]);
        let around = find(&plan, &wanted).expect("found").expect("it is not alone");
        let expected = ["deep/Cargo.toml", "go/go.mod", "go/plan/target/x", "mine/Cargo.toml"];
        assert_eq!(files(&around), expected);
    }
}
