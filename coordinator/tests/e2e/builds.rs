//! What a run is built from: commits for each group, a plan in git, the lock file, logs of builds.

#[path = "../build/git.rs"]
mod git;

use std::path::PathBuf;

use crate::harness::Home;
use git::Repository;

const MANIFEST: &str = r#"
name = "numbers"
[builders."exec:cargo"]
[runners.netns]
outcome_from = "stdout"
[[testcases]]
name = "say"
instances = { min = 1, max = 9, default = 1 }
"#;
const MAIN: &str = r##"
fn main() {
    println!("the number is {}", numbers::NUMBER);
    println!("{}", r#"{"event":{"success_event":{}}}"#);
}
"##;

fn package(name: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n")
}

/// A plan that takes a crate from a repository, and a fork of the crate.
struct Scene {
    home: Home,
    upstream: Repository,
    fork: Repository,
}

impl Scene {
    fn new() -> Self {
        let home = Home::new();
        let repository = |name: &str, number: u32| {
            let repository = Repository::new(home.dir.path().join(name));
            let lib = format!("pub const NUMBER: u32 = {number};");
            repository.commit(&[("Cargo.toml", &package("numbers")), ("src/lib.rs", &lib)]);
            repository
        };
        let (upstream, fork) = (repository("upstream", 1), repository("fork", 2));
        Self { home, upstream, fork }
    }

    /// The plan's files.
    fn plan(&self) -> [(&'static str, String); 3] {
        let numbers = format!("numbers = {{ git = \"{}\" }}", self.upstream.url());
        let cargo = format!("{}[dependencies]\n{numbers}\n[workspace]\n", package("plan"));
        [
            ("manifest.toml", MANIFEST.to_owned()),
            ("Cargo.toml", cargo),
            ("src/main.rs", MAIN.to_owned()),
        ]
    }

    fn composition(&self, plan: &str) -> String {
        let text = format!(
            "[global]\nplan = \"{plan}\"\ncase = \"say\"\nbuilder = \"exec:cargo\"\nrunner = \"netns\"\n\
             build_config = {{ profile = \"dev\" }}\n\
             [[groups]]\nid = \"upstream\"\ninstances = {{ count = 1 }}\n\
             [[groups]]\nid = \"fork\"\ninstances = {{ count = 2 }}\n\
             [[groups.build.dependencies]]\nmodule = \"numbers\"\ntarget = \"{}\"\nversion = \"branch=main\"\n",
            self.fork.url()
        );
        self.home.write("numbers.toml", &text)
    }

    fn numbers(&self) -> Vec<String> {
        ["upstream/0", "fork/0", "fork/1"]
            .map(|instance| {
                let path = format!("{instance}/stdout.log");
                let log =
                    self.home.run(&["collect", "latest", "--file", &path]).ends_with(0).stdout;
                log.lines().next().unwrap_or_default().replace("the number is ", "")
            })
            .to_vec()
    }

    fn lock_file(&self) -> PathBuf {
        self.home.dir.path().join("numbers.lock.toml")
    }
}

#[test]
fn groups_run_different_commits_and_a_lock_file_holds_them() {
    let scene = Scene::new();
    for (path, text) in scene.plan() {
        scene.home.write(&format!("plan/{path}"), &text);
    }
    let file = scene.composition("plan");
    scene.home.run(&["submit", &file, "--locked"]).ends_with(3).says("numbers.lock.toml");
    scene.home.run(&["submit", &file, "--update-lock"]).ends_with(0).says("wrote ");
    assert_eq!(scene.numbers(), ["1", "2", "2"]);
    let lock = std::fs::read_to_string(scene.lock_file()).expect("written");
    let commit = scene.fork.git(&["rev-parse", "HEAD"]);
    assert!(lock.contains(&commit) && lock.contains("[groups.upstream]"), "{lock}");

    // The branch moves on; the lock file does not.
    scene.fork.commit(&[("src/lib.rs", "pub const NUMBER: u32 = 3;")]);
    scene.home.run(&["submit", &file, "--locked"]).ends_with(0);
    assert_eq!(scene.numbers(), ["1", "2", "2"]);
    scene.home.run(&["submit", &file, "--update-lock"]).ends_with(0);
    assert_eq!(scene.numbers(), ["1", "3", "3"]);

    let builds = scene.home.run(&["builds", "latest", "--json"]).ends_with(0).stdout;
    let builds: serde_json::Value = serde_json::from_str(&builds).expect("JSON");
    let fork = builds.as_array().expect("a list").iter().find(|one| one["groups"][0] == "fork");
    let moved = scene.fork.git(&["rev-parse", "HEAD"]);
    assert_eq!(fork.expect("it was built")["pins"]["sources"][0]["commit"], moved.as_str());
    let log = scene.home.run(&["builds", "latest", "--log", "fork"]).ends_with(0).stdout;
    assert!(log.contains("Compiling numbers"), "{log}");
    scene.home.run(&["builds", "latest", "--log", "other"]).ends_with(4).says("`other`");

    // What is edited is noted, and refused when nothing may differ.
    scene.home.write("plan/src/main.rs", "fn main() { nonsense }");
    scene.home.run(&["submit", &file, "--locked"]).ends_with(3).says("--update-lock");
    scene.home.run(&["submit", &file]).ends_with(3).says("nonsense");
    // Both do not compile; the first one to fail ends the other.
    let log = |group| scene.home.run(&["builds", "latest", "--log", group]).ends_with(0).stdout;
    let logs = [log("upstream"), log("fork")];
    assert!(logs.iter().any(|log| log.contains("nonsense")), "{logs:?}");
}

#[test]
fn a_plan_may_come_from_git() {
    let scene = Scene::new();
    let plans = Repository::new(scene.home.dir.path().join("plans"));
    let files = scene.plan().map(|(path, text)| (format!("numbers/{path}"), text));
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let commit = plans.commit(&files);
    let plan = format!("git+{}?branch=main#numbers", plans.url());
    let file = scene.composition(&plan);
    scene.home.run(&["submit", &file, "--update-lock"]).ends_with(0).says("3 = 3 success");
    let lock = std::fs::read_to_string(scene.lock_file()).expect("written");
    assert!(lock.contains("[plan]") && lock.contains(&commit), "{lock}");

    // What came later is no plan any more, and nobody asks for it.
    plans.commit(&[("numbers/manifest.toml", "")]);
    scene.home.run(&["submit", &file, "--locked"]).ends_with(0);
    scene.home.run(&["validate", &file]).ends_with(3).says("no name");

    let nowhere = scene.composition(&format!("git+{}?branch=none#numbers", plans.url()));
    scene.home.run(&["submit", &nowhere]).ends_with(3).says("has no branch=none");
    let elsewhere = scene.composition(&format!("git+{}#other", plans.url()));
    scene.home.run(&["submit", &elsewhere]).ends_with(3).says("no manifest.toml in `other`");
}
