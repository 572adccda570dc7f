//! Go modules, with Debian's Go. No module is fetched: there is no proxy to ask.

use std::process::Command;

use groundswell_common::messages::ImageRef;
use groundswell_coordinator::build::Dependency;
use serde_json::{Value, json};

use crate::Bench;
use crate::git::Repository;

const MAIN: &str = "package main\n\nimport (\n\t\"fmt\"\n\n\t\"h/numbers\"\n)\n\n\
                    func main() { fmt.Println(numbers.Number, loud) }\n";
const GO_MOD: &str =
    "module plan\n\ngo 1.19\n\nrequire h/numbers v1.0.0\n\nreplace h/numbers => ./numbers\n";

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("plan/go.mod", GO_MOD);
    bench.write("plan/main.go", MAIN);
    bench.write("plan/quiet.go", "//go:build !loud\n\npackage main\n\nconst loud = false\n");
    bench.write("plan/loud.go", "//go:build loud\n\npackage main\n\nconst loud = true\n");
    bench.write("plan/numbers/go.mod", "module h/numbers\n\ngo 1.19\n");
    bench.write("plan/numbers/numbers.go", "package numbers\n\nconst Number = 1\n");
    bench
}

fn config() -> Value {
    json!({"env": {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "GONOSUMDB": "*", "GONOSUMCHECK": "1"}})
}

async fn says(bench: &Bench, image: &ImageRef) -> String {
    assert_eq!(image.command, ["testplan"]);
    let bundle = bench.unpack(image).await;
    let output = Command::new(bundle.join("testplan")).output().expect("it runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test]
async fn a_go_module_becomes_its_binary_with_tags_and_replaced_modules() {
    let bench = bench();
    let mut request = bench.request("exec:go", config());
    let (image, _) = bench.built(&request).await;
    assert_eq!(says(&bench, &image).await, "1 false");

    request.selectors = vec!["loud".into()];
    let repository = Repository::new(bench.directory.path().join("git/numbers"));
    let files = [
        ("go.mod", "module h/numbers\n\ngo 1.19\n"),
        ("numbers.go", "package numbers\n\nconst Number = 2\n"),
    ];
    repository.commit(&files);
    request.dependencies = vec![Dependency {
        module: "h/numbers".into(),
        target: repository.url(),
        version: "branch=main".into(),
    }];
    let (image, _) = bench.built(&request).await;
    assert_eq!(says(&bench, &image).await, "2 true");

    bench.write("extra/mine/go.mod", "module h/numbers\n\ngo 1.19\n");
    bench.write("extra/mine/numbers.go", "package numbers\n\nconst Number = 3\n");
    request.dependencies[0].target = "../mine".into();
    request.dependencies[0].version = String::new();
    let (image, _) = bench.built(&request).await;
    assert_eq!(says(&bench, &image).await, "3 true");
}

#[tokio::test]
async fn a_new_module_file_is_made_when_asked_for() {
    let bench = Bench::new();
    bench.write("plan/cmd/main.go", "package main\n\nfunc main() { println(\"new\") }\n");
    let config = json!({"fresh_gomod": true, "module_path": "h/plan", "exec_pkg": "./cmd"});
    let (image, _) = bench.built(&bench.request("exec:go", config)).await;
    assert_eq!(image.command, ["testplan"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_go_build_is_named() {
    let bench = bench();
    for (options, says) in [
        (json!({"path": "nowhere"}), "no `go.mod` in `nowhere`"),
        (json!({"modfile": "old.mod"}), "no `old.mod`"),
        (json!({"go_proxy_mode": "remote"}), "needs the URL of a proxy"),
        (json!({"go_proxy_mode": "near"}), "`near` is none of"),
        (json!({"fresh_gomod": true}), "option `module_path`"),
        (json!({"enable_cgo": "yes"}), "neither true nor false"),
    ] {
        let (refused, _) = bench.build(&bench.request("exec:go", options)).await;
        let error = refused.expect_err("refused");
        assert!(error.fault_of_plan() && error.to_string().contains(says), "{error}");
    }
    bench.write("plan/main.go", "package main\n\nfunc main() { nonsense }\n");
    let (failed, _) = bench.build(&bench.request("exec:go", config())).await;
    let error = failed.expect_err("it does not compile");
    assert!(error.fault_of_plan() && error.to_string().contains("nonsense"), "{error}");
}
