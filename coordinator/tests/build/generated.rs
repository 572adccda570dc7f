//! Dockerfiles that builders write, built by a real engine. No registry can be reached, so the base images are made
//! here, with compilers that are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use groundswell_common::messages::ImageKind;
use serde_json::{Value, json};

use crate::Bench;

/// Says how it was called, and makes what the real one would make.
const TOOL: &str = "#!/bin/sh\necho \"called ${0##*/} $*\"\n\
    case \"${0##*/} $1\" in\n\
    'go build') cp /bin/busybox \"$3\" ;;\n\
    'cargo build') mkdir -p /target/debug; cp /bin/busybox /target/debug/mesh ;;\n\
    esac\n";

/// A base image that is removed when it is dropped.
struct BaseImage(String);

impl BaseImage {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        for dir in ["bin", "tmp", "etc"] {
            fs::create_dir_all(root.join(dir)).expect("made");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
        for applet in ["sh", "cp", "rm", "mkdir", "cat", "find", "wc", "test", "ls", "echo"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("linked");
        }
        for tool in ["go", "npm", "cargo"] {
            let path = root.join("bin").join(tool);
            fs::write(&path, TOOL).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        }
        let name = format!("groundswell-test/{name}:{}", std::process::id());
        import(root, &name);
        Self(name)
    }
}

fn import(root: &Path, name: &str) {
    let mut tar = Command::new("tar")
        .args(["c", "-C"])
        .arg(root)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar");
    let packed = tar.stdout.take().expect("it is piped");
    let imported = Command::new("docker")
        .args(["import", "--change", "ENV PATH=/bin", "-", name])
        .stdin(packed)
        .output()
        .expect("docker");
    assert!(imported.status.success() && tar.wait().expect("it ends").success(), "{imported:?}");
}

impl Drop for BaseImage {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

/// Builds, checks that the image runs on the base image, and returns what was called.
async fn called(bench: &Bench, base: &BaseImage, builder: &str, config: Value) -> Vec<String> {
    let request = bench.request(builder, config);
    let (image, lines) = bench.built(&request).await;
    assert_eq!(image.kind, ImageKind::Docker);
    let built = lines.iter().find_map(|line| line.strip_prefix("Successfully built "));
    let built = built.expect("built").to_owned();
    let (again, cached) = bench.built(&request).await;
    assert!(again == image && !cached.iter().any(|line| line.contains("Step")), "{cached:?}");
    let removed = Command::new("docker").args(["rmi", "-f", &built]).output().expect("docker");
    assert!(removed.status.success(), "{removed:?}");
    let id = Command::new("docker")
        .args(["image", "inspect", "-f", "{{.Id}}", &base.0])
        .output()
        .expect("docker");
    let id = String::from_utf8_lossy(&id.stdout).trim().to_owned();
    assert!(lines.iter().any(|line| line.contains(&id)), "it is built on {id}: {lines:?}");
    lines.iter().filter_map(|line| line.strip_prefix("called ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn docker_node_installs_and_starts() {
    let (bench, base) = (Bench::new(), BaseImage::new("node"));
    bench.write("plan/package.json", "{\"name\": \"plan\"}");
    let config = json!({"base_image": base.0});
    assert_eq!(called(&bench, &base, "docker:node", config).await, ["npm ci"]);
}

#[tokio::test]
async fn docker_go_fetches_modules_and_compiles() {
    let (bench, base) = (Bench::new(), BaseImage::new("go"));
    bench.write("plan/go.mod", "module plan\n");
    bench.write("plan/main.go", "package main\n");
    let config = json!({
        "build_base_image": base.0, "runtime_image": base.0, "go_proxy_mode": "direct",
        "dockerfile_extensions": {"pre_build": "RUN echo called before"},
    });
    let expected = ["go mod download", "before", "go build -o testplan.bin .", "go list -m all"];
    let called = called(&bench, &base, "docker:go", config).await;
    // What `go list` prints goes to a file.
    assert_eq!(called, expected[..3]);
}

#[tokio::test]
async fn docker_cargo_compiles_and_picks_the_program() {
    let (bench, base) = (Bench::new(), BaseImage::new("cargo"));
    bench.write("plan/Cargo.toml", "[package]\nname = \"mesh\"\n");
    bench.write("plan/src/main.rs", "fn main() {}");
    let config = json!({"build_base_image": base.0, "runtime_image": base.0, "profile": "dev"});
    let called = called(&bench, &base, "docker:cargo", config).await;
    assert_eq!(called, ["cargo build --profile dev"]);
}

#[tokio::test]
async fn a_base_image_that_nobody_has_is_named_with_its_option() {
    let bench = Bench::new();
    bench.write("plan/package.json", "{}");
    let config = json!({"base_image": "groundswell-test/nonesuch:1"});
    let (refused, _) = bench.build(&bench.request("docker:node", config)).await;
    let error = refused.expect_err("nobody has it");
    let shown = groundswell_common::chain::Chain(&error).to_string();
    assert!(
        shown.contains("groundswell-test/nonesuch:1") && shown.contains("`base_image`"),
        "{shown}"
    );
}
