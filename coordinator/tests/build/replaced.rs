//! Other versions of what a plan is built from: commits, directories, versions.

use std::fs;
use std::process::Command;

use groundswell_common::builds::{BuildLock, LockWish};
use groundswell_coordinator::build::{BuildRequest, Dependency, Told};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::git::Repository;
use crate::{Bench, LIMIT};

fn dependency(module: &str, target: &str, version: &str) -> Dependency {
    Dependency { module: module.into(), target: target.into(), version: version.into() }
}

fn package(name: &str, version: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n")
}

async fn tell(bench: &Bench, request: &BuildRequest, wish: Option<&LockWish>) -> Told {
    let (progress, mut lines) = mpsc::channel(4);
    let groups = ["all".to_owned()];
    let cancel = CancellationToken::new();
    let told = bench.builders.build_and_tell(request, &groups, wish, progress, cancel);
    let drain = async { while lines.recv().await.is_some() {} };
    tokio::time::timeout(LIMIT, async { tokio::join!(told, drain).0 }).await.expect("in time")
}

/// Two repositories of a crate, and a plan that takes it from the first one.
struct Numbers {
    bench: Bench,
    upstream: Repository,
    fork: Repository,
}

impl Numbers {
    fn new() -> Self {
        let bench = Bench::new();
        let repository = |name: &str, number: u32| {
            let repository = Repository::new(bench.directory.path().join("git").join(name));
            let lib = format!("pub const NUMBER: u32 = {number};");
            let manifest = package("numbers", "1.0.0");
            repository.commit(&[("Cargo.toml", &manifest), ("src/lib.rs", &lib)]);
            repository
        };
        let (upstream, fork) = (repository("upstream", 1), repository("fork", 2));
        let numbers = format!("numbers = {{ git = \"{}\" }}\n", upstream.url());
        let manifest =
            format!("{}[features]\nloud = []\n[dependencies]\n{numbers}", package("plan", "0.1.0"));
        bench.write("plan/Cargo.toml", &manifest);
        let main = "fn main() { println!(\"{}{}\", numbers::NUMBER, if cfg!(feature = \"loud\") { \"!\" } else { \"\" }) }";
        bench.write("plan/src/main.rs", main);
        Self { bench, upstream, fork }
    }

    fn request(&self, dependencies: Vec<Dependency>) -> BuildRequest {
        let request = self.bench.request("exec:cargo", json!({"profile": "dev"}));
        BuildRequest { dependencies, ..request }
    }

    async fn says(&self, request: &BuildRequest) -> String {
        let (image, _) = self.bench.built(request).await;
        let bundle = self.bench.unpack(&image).await;
        let output = Command::new(bundle.join("plan")).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

#[tokio::test]
async fn cargo_builds_commits_branches_tags_directories_and_features_in() {
    let numbers = Numbers::new();
    let first = numbers.fork.git(&["rev-parse", "HEAD"]);
    numbers.fork.git(&["tag", "v2"]);
    numbers.fork.git(&["checkout", "--quiet", "-b", "next"]);
    numbers.fork.commit(&[("src/lib.rs", "pub const NUMBER: u32 = 3;")]);
    let fork = numbers.fork.url();
    let replaced =
        |target: &str, version: &str| numbers.request(vec![dependency("numbers", target, version)]);
    assert_eq!(numbers.says(&numbers.request(Vec::new())).await, "1");
    assert_eq!(numbers.says(&replaced(&fork, "branch=next")).await, "3");
    assert_eq!(numbers.says(&replaced(&format!("git+{fork}"), "tag=v2")).await, "2");
    let loud = BuildRequest { selectors: vec!["loud".into()], ..replaced(&fork, &first) };
    assert_eq!(numbers.says(&loud).await, "2!");

    numbers.bench.write("extra/mine/Cargo.toml", &package("numbers", "1.5.0"));
    numbers.bench.write("extra/mine/src/lib.rs", "pub const NUMBER: u32 = 4;");
    assert_eq!(numbers.says(&replaced("../mine", "")).await, "4");
}

#[tokio::test]
async fn what_cannot_be_built_in_is_named() {
    let numbers = Numbers::new();
    numbers.bench.write("extra/mine/Cargo.toml", &package("other", "1.0.0"));
    numbers.bench.write("extra/mine/src/lib.rs", "");
    let fork = numbers.fork.url();
    for (module, target, version, says) in [
        ("numbers", fork.as_str(), "branch=none", "has no branch=none"),
        ("numbers", "../nowhere", "", "no Cargo.toml in `../nowhere`"),
        ("unheard-of", fork.as_str(), "", "unheard-of"),
        ("numbers", "numbers-fork", "1", "neither a repository's URL nor a directory"),
    ] {
        let request = numbers.request(vec![dependency(module, target, version)]);
        let (refused, _) = numbers.bench.build(&request).await;
        let error = refused.expect_err("refused");
        assert!(error.fault_of_plan() && error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_replacement_that_cargo_would_leave_out_is_an_error() {
    let bench = Bench::new();
    let one = Repository::new(bench.directory.path().join("git/one"));
    one.commit(&[("Cargo.toml", &package("numbers", "1.0.0")), ("src/lib.rs", "")]);
    let manifest = format!(
        "{}[dependencies]\nnumbers = {{ git = \"{}\", version = \"1\" }}\n",
        package("plan", "0.1.0"),
        one.url()
    );
    bench.write("plan/Cargo.toml", &manifest);
    bench.write("plan/src/main.rs", "fn main() {}");
    bench.write("extra/mine/Cargo.toml", &package("numbers", "2.0.0"));
    bench.write("extra/mine/src/lib.rs", "");
    let mut request = bench.request("exec:cargo", json!({"profile": "dev"}));
    request.dependencies = vec![dependency("numbers", "../mine", "")];
    let error = bench.build(&request).await.0.expect_err("it does not fit").to_string();
    assert!(error.contains("dependency `numbers`") && error.contains("version 2.0.0"), "{error}");
}

#[tokio::test]
async fn a_lock_holds_a_branch_where_it_was_and_refuses_what_differs() {
    let numbers = Numbers::new();
    let request = numbers.request(vec![dependency("numbers", &numbers.fork.url(), "branch=main")]);
    let first = tell(&numbers.bench, &request, None).await;
    let image = first.image.expect("it builds");
    let source = &first.report.pins.sources[0];
    assert_eq!(source.commit, numbers.fork.git(&["rev-parse", "HEAD"]));
    assert_eq!((source.asked.as_str(), first.report.cached), ("branch=main", false));

    numbers.fork.commit(&[("src/lib.rs", "pub const NUMBER: u32 = 9;")]);
    let groups = [("all".to_owned(), first.report.pins.clone())].into();
    let lock = BuildLock { version: BuildLock::VERSION, plan: None, groups };
    let pinned = LockWish { lock: lock.clone(), exact: true };
    let again = tell(&numbers.bench, &request, Some(&pinned)).await;
    assert_eq!((again.image.expect("it is locked"), again.report.cached), (image, true));
    assert_eq!(again.report.log, first.report.log);
    let moved = tell(&numbers.bench, &request, None).await;
    assert_ne!(moved.report.pins.input, first.report.pins.input);

    numbers.bench.write("plan/src/main.rs", "fn main() {}");
    let refused = tell(&numbers.bench, &request, Some(&pinned)).await;
    let error = refused.image.expect_err("the plan has changed");
    assert!(error.fault_of_plan() && error.to_string().contains("input is sha256:"), "{error}");
    let loose = LockWish { lock, exact: false };
    let built = tell(&numbers.bench, &request, Some(&loose)).await;
    assert_eq!(built.report.pins.sources, first.report.pins.sources);
    assert!(built.image.is_ok() && numbers.upstream.git(&["status", "--porcelain"]).is_empty());
}

#[tokio::test]
async fn what_a_build_prints_is_kept_also_when_it_fails() {
    let bench = Bench::new();
    bench.write("plan/run.sh", "echo");
    for (command, fails) in [("echo so far", false), ("echo so far; exit 3", true)] {
        let config = json!({"command": command, "entrypoint": "run.sh"});
        let told = tell(&bench, &bench.request("exec:command", config), None).await;
        assert_eq!((told.image.is_err(), !told.report.error.is_empty()), (fails, fails));
        let key = told.report.log.expect("it is kept");
        let log = bench.objects.get(&key).await.expect("read").expect("there");
        assert_eq!(log, "so far\n");
    }
}

#[tokio::test]
async fn a_command_finds_what_the_group_chooses() {
    let bench = Bench::new();
    bench.write("plan/run.sh", "echo");
    let config =
        json!({"command": "echo $SELECTORS $DEPENDENCIES > chosen", "entrypoint": "run.sh"});
    let mut request = bench.request("exec:command", config);
    request.selectors = vec!["a".into(), "b".into()];
    request.dependencies = vec![dependency("m", "", "v1")];
    let (image, _) = bench.built(&request).await;
    let chosen = fs::read_to_string(bench.unpack(&image).await.join("chosen")).expect("written");
    assert_eq!(chosen, "a,b m=m@v1\n");
}
