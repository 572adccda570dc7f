//! A plan whose crate is a member of a workspace further up.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use groundswell_common::messages::ImageRef;
use groundswell_coordinator::build::cargo::around::{self, Wanted};
use groundswell_coordinator::build::source::{self, Sources};
use serde_json::json;

use crate::Bench;
use crate::git::Repository;

const ROOT: &str = r#"
[workspace]
resolver = "3"
members = ["mesh", "other", "words"]

[workspace.package]
edition = "2021"

[workspace.dependencies]
words = { path = "words" }
numbers = { git = "NUMBERS", branch = "main" }

[profile.quick]
inherits = "dev"
"#;
const MESH: &str = r#"
[package]
name = "mesh"
version = "0.1.0"
edition.workspace = true

[dependencies]
words.workspace = true
numbers.workspace = true
"#;
const MAIN: &str = "fn main() { println!(\"{} {}\", words::WORD, numbers::NUMBER) }";

fn package(name: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
}

/// The user's tree, and two repositories its lock file names.
struct Tree {
    bench: Bench,
    numbers: Repository,
}

impl Tree {
    fn new() -> Self {
        let bench = Bench::new();
        let repository = |name: &str, value: &str| {
            let repository = Repository::new(bench.directory.path().join("git").join(name));
            let lib = format!("pub const NUMBER: u32 = {value};");
            repository.commit(&[("Cargo.toml", &package(name)), ("src/lib.rs", &lib)]);
            repository
        };
        let (numbers, unused) = (repository("numbers", "1"), repository("unused", "2"));
        let tree = Self { bench, numbers };
        tree.write("Cargo.toml", &ROOT.replace("NUMBERS", &tree.numbers.url()));
        tree.write("mesh/Cargo.toml", MESH);
        tree.write("mesh/src/main.rs", MAIN);
        tree.write("words/Cargo.toml", &package("words"));
        tree.write("words/src/lib.rs", "pub const WORD: &str = \"one\";");
        let other = format!(
            "{}[dependencies]\nunused = {{ git = \"{}\" }}",
            package("other"),
            unused.url()
        );
        tree.write("other/Cargo.toml", &other);
        tree.write("other/src/lib.rs", "");
        let locked = Command::new("cargo")
            .args(["generate-lockfile", "--quiet"])
            .current_dir(tree.path("."))
            .status()
            .expect("cargo");
        assert!(locked.success());
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.bench.directory.path().join("plans").join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    /// Packs the plan and unpacks it as the coordinator does.
    async fn carry(&self) -> String {
        let plan = self.path("mesh");
        let wanted = Wanted { crates: [PathBuf::new()].into(), ..Wanted::default() };
        let around = around::find(&plan, &wanted).expect("found");
        let sources = Sources { plan, extra: Vec::new(), around };
        let cache = self.bench.directory.path().join("client");
        let digest = source::store(&sources, &self.bench.objects, &cache).await.expect("stored");
        let _ = fs::remove_dir_all(self.bench.source());
        source::fetch(&digest, &self.bench.objects, &self.bench.source()).await.expect("fetched");
        digest
    }

    async fn build(&self) -> Result<ImageRef, String> {
        self.carry().await;
        let request = self.bench.request("exec:cargo", json!({"profile": "quick"}));
        self.bench.build(&request).await.0.map_err(|error| error.to_string())
    }

    async fn says(&self) -> String {
        let image = self.build().await.unwrap_or_else(|error| panic!("{error}"));
        let bundle = self.bench.unpack(&image).await;
        let output = Command::new(bundle.join("mesh")).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[tokio::test]
async fn a_member_of_a_workspace_is_built_as_it_is_with_the_versions_of_the_lock_file() {
    let tree = Tree::new();
    // The branch has moved on since the lock file was written.
    tree.numbers.commit(&[("src/lib.rs", "pub const NUMBER: u32 = 7;")]);
    assert_eq!(tree.says().await, "one 1\n");

    // The same length and, once packed, the same time: only the content tells.
    tree.write("words/src/lib.rs", "pub const WORD: &str = \"two\";");
    assert_eq!(tree.says().await, "two 1\n");
}

#[tokio::test]
async fn what_the_plan_does_not_reach_is_no_input_of_its_build() {
    let tree = Tree::new();
    let before = tree.carry().await;
    tree.write("other/src/lib.rs", "changed");
    tree.write("another/Cargo.toml", &package("another"));
    let root = fs::read_to_string(tree.path("Cargo.toml")).expect("there");
    tree.write("Cargo.toml", &root.replace("\"mesh\"", "\"mesh\", \"another\""));
    assert_eq!(tree.carry().await, before);
    tree.write("words/src/lib.rs", "changed");
    assert_ne!(tree.carry().await, before);
}

#[tokio::test]
async fn a_lock_file_that_lacks_something_is_refused_with_its_name() {
    let tree = Tree::new();
    let late = Repository::new(tree.bench.directory.path().join("git/late"));
    late.commit(&[("Cargo.toml", &package("late")), ("src/lib.rs", "")]);
    tree.write("mesh/Cargo.toml", &format!("{MESH}late = {{ git = \"{}\" }}\n", late.url()));
    let refused = tree.build().await.expect_err("it is not locked");
    assert!(refused.contains("Cargo.lock lacks late 0.1.0 (git+file://"), "{refused}");
    assert!(refused.contains("`cargo metadata`"), "{refused}");
}
