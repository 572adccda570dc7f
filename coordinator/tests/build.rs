//! Real builds. Those of images need a Docker engine and Debian's `busybox-static`, those of Go modules Debian's Go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use groundswell_common::messages::{ImageKind, ImageRef, RuntimeKind};
use groundswell_common::objects::{Objects, ObjectsConfig};
use groundswell_coordinator::build::{BuildError, BuildRequest, Builders};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[path = "build/generated.rs"]
mod generated;
#[path = "build/git.rs"]
mod git;
#[path = "build/go.rs"]
mod go;
#[path = "build/replaced.rs"]
mod replaced;
#[path = "build/workspace.rs"]
mod workspace;

const LIMIT: Duration = Duration::from_secs(120);

struct Bench {
    directory: tempfile::TempDir,
    objects: Objects,
    builders: Builders,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}", directory.path().join("store").display());
        let objects = Objects::open(&ObjectsConfig { url, ..Default::default() }).expect("a store");
        let builders = Builders::new(objects.clone(), &directory.path().join("cache"));
        Self { directory, objects, builders }
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.source().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn request(&self, builder: &str, config: Value) -> BuildRequest {
        let Value::Object(config) = config else { panic!("options are a table") };
        BuildRequest {
            builder: builder.into(),
            config,
            selectors: Vec::new(),
            dependencies: Vec::new(),
            source: self.source(),
            plan: "mesh".into(),
            runtime: RuntimeKind::Netns,
            no_cache: false,
        }
    }

    /// Builds, and returns the image and the lines of the build.
    async fn build(&self, request: &BuildRequest) -> (Result<ImageRef, BuildError>, Vec<String>) {
        let (progress, mut received) = mpsc::channel(4);
        let read = async {
            let mut lines = Vec::new();
            while let Some(line) = received.recv().await {
                lines.push(line);
            }
            lines
        };
        let build = self.builders.build(request, progress, CancellationToken::new());
        tokio::time::timeout(LIMIT, async { tokio::join!(build, read) }).await.expect("in time")
    }

    async fn built(&self, request: &BuildRequest) -> (ImageRef, Vec<String>) {
        let (image, lines) = self.build(request).await;
        (image.unwrap_or_else(|error| panic!("{error}")), lines)
    }

    /// Unpacks a bundle and returns its directory.
    async fn unpack(&self, image: &ImageRef) -> PathBuf {
        assert_eq!(image.kind, ImageKind::Bundle);
        let blob = self.directory.path().join("blob");
        self.objects.get_blob(&image.digest, &blob).await.expect("stored");
        assert_eq!(fs::metadata(&blob).expect("there").len(), image.size);
        let to = self.directory.path().join(&image.digest[7..19]);
        let file = fs::File::open(blob).expect("there");
        tar::Archive::new(zstd::Decoder::new(file).expect("zstd")).unpack(&to).expect("unpacked");
        to
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("there")
        .map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_command_builds_a_bundle_once() {
    let bench = Bench::new();
    bench.write("plan/run.sh", "#!/bin/sh\necho $1\n");
    bench.write("plan/_compositions/a.toml", "left out");
    bench.write("extra/words/list", "from the extra source\n");
    let config = json!({
        "command": "echo building; echo again >&2; cp ../words/list words; chmod +x run.sh",
        "entrypoint": ["run.sh", "hello"],
        "env": {"DEBUG": true},
    });
    let request = bench.request("exec:command", config);
    let (image, lines) = bench.built(&request).await;
    assert!(
        lines.contains(&"building".to_owned()) && lines.contains(&"again".to_owned()),
        "{lines:?}"
    );
    assert_eq!(image.command, ["run.sh", "hello"]);
    assert_eq!(image.env["DEBUG"], "true");
    let bundle = bench.unpack(&image).await;
    assert_eq!(names(&bundle), ["run.sh", "words"]);
    let output = Command::new(bundle.join("run.sh")).arg("hi").output().expect("it runs");
    assert_eq!(output.stdout, b"hi\n");

    let (again, lines) = bench.built(&request).await;
    assert_eq!(again, image);
    assert!(!lines.contains(&"building".to_owned()), "{lines:?}");
    let by_digest = bench.builders.artifact(&image.digest).await.expect("known");
    assert_eq!(by_digest, image);
    let (_, lines) = bench.built(&BuildRequest { no_cache: true, ..request }).await;
    assert!(lines.contains(&"building".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn two_that_ask_at_the_same_moment_share_one_build() {
    let bench = Bench::new();
    let count = bench.directory.path().join("count");
    bench.write("plan/run.sh", "echo");
    let command = format!("echo one >> {}", count.display());
    let config = json!({"command": command, "entrypoint": ["sh", "run.sh"], "include": ["run.sh"]});
    let request = bench.request("exec:command", config);
    let (one, other) = tokio::join!(bench.built(&request), bench.built(&request));
    assert_eq!(one.0, other.0);
    assert_eq!(one.0.command, ["/usr/bin/env", "sh", "run.sh"]);
    assert_eq!(fs::read_to_string(count).expect("written"), "one\n");
}

#[tokio::test]
async fn a_command_that_fails_is_the_plans_fault_and_shows_its_last_lines() {
    let bench = Bench::new();
    bench.write("plan/run.sh", "echo");
    let config =
        json!({"command": ["sh", "-c", "echo no compiler >&2; exit 3"], "entrypoint": "run.sh"});
    let (failed, _) = bench.build(&bench.request("exec:command", config)).await;
    let error = failed.expect_err("it fails");
    assert!(error.fault_of_plan());
    let text = error.to_string();
    assert!(text.contains("exit status: 3") && text.contains("no compiler"), "{text}");

    let (refused, _) = bench.build(&bench.request("exec:command", json!({"command": ""}))).await;
    assert!(refused.expect_err("refused").to_string().contains("entrypoint = "));
}

#[tokio::test]
async fn a_canceled_build_ends_with_all_its_processes() {
    let bench = Bench::new();
    bench.write("plan/run.sh", "echo");
    let fifo = bench.directory.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    // Whoever is left of the build keeps the pipe open.
    let command = format!("exec 3>{}; echo up; sleep 1000 & sleep 1000", fifo.display());
    let request =
        bench.request("exec:command", json!({"command": command, "entrypoint": "run.sh"}));
    let cancel = CancellationToken::new();
    let (progress, mut lines) = mpsc::channel(4);
    let canceling = async {
        let pipe = tokio::fs::File::open(&fifo).await.expect("opened");
        assert_eq!(lines.recv().await.as_deref(), Some("up"));
        cancel.cancel();
        pipe
    };
    let build = bench.builders.build(&request, progress, cancel.clone());
    let (ended, mut pipe) = tokio::time::timeout(LIMIT, async { tokio::join!(build, canceling) })
        .await
        .expect("in time");
    assert!(matches!(ended, Err(BuildError::Canceled)), "{ended:?}");
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut pipe, &mut rest);
    tokio::time::timeout(LIMIT, read).await.expect("all have ended").expect("read");
}

#[tokio::test]
async fn a_cargo_project_becomes_its_binary_and_is_rebuilt_after_a_change() {
    let bench = Bench::new();
    let manifest = "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
                    [features]\nloud = []\n[dependencies]\nwords = { path = \"../../words\" }\n[workspace]\n";
    bench.write("plan/app/Cargo.toml", manifest);
    let main = "fn main() { println!(\"{}{}\", words::WORD, if cfg!(feature = \"loud\") { \"!\" } else { \"\" }) }";
    bench.write("plan/app/src/main.rs", main);
    bench.write(
        "extra/words/Cargo.toml",
        "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    );
    bench.write("extra/words/src/lib.rs", "pub const WORD: &str = \"one\";");
    let mut request = bench.request("exec:cargo", json!({"path": "./app", "profile": "dev"}));
    let run = |bundle: PathBuf| {
        let output = Command::new(bundle.join("tiny")).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let (image, _) = bench.built(&request).await;
    assert_eq!(image.command, ["tiny"]);
    assert_eq!(run(bench.unpack(&image).await), "one\n");

    // The same length and, once packed, the same time: only the content tells.
    bench.write("extra/words/src/lib.rs", "pub const WORD: &str = \"two\";");
    request.selectors = vec!["loud".into()];
    let (image, _) = bench.built(&request).await;
    assert_eq!(run(bench.unpack(&image).await), "two!\n");

    bench.write("plan/app/src/main.rs", "fn main() { nonsense }");
    let (failed, _) = bench.build(&request).await;
    let error = failed.expect_err("it does not compile");
    assert!(error.fault_of_plan() && error.to_string().contains("nonsense"), "{error}");
    request.config.insert("path".into(), json!("nowhere"));
    let (refused, _) = bench.build(&request).await;
    assert!(refused.expect_err("refused").to_string().contains("no Cargo.toml"));
}

#[tokio::test]
async fn a_dockerfile_is_built_with_its_context_and_arguments() {
    let bench = Bench::new();
    let dockerfile = "FROM scratch\nARG PLAN_PATH\nARG WORD\nCOPY ./plan/${PLAN_PATH}/busybox /bin/sh\n\
                      COPY ./plan/ /seen/plan/\nCOPY ./sdk/ /seen/sdk/\nCOPY ./words/list /seen/words\n\
                      ENV WORD=${WORD}\nRUN [\"/bin/sh\", \"-c\", \"echo $WORD\"]\nENTRYPOINT [\"/bin/sh\"]\n";
    bench.write("plan/app/Dockerfile", dockerfile);
    bench.write("plan/_compositions/a.toml", "left out");
    bench.write("extra/words/list", "words\n");
    fs::copy("/bin/busybox", bench.source().join("plan/app/busybox")).expect("busybox-static");
    let config = json!({"path": "./app", "build_args": {"WORD": "spoken"}});
    let request = bench.request("docker:generic", config);
    let (image, lines) = bench.built(&request).await;
    assert_eq!(image.kind, ImageKind::Docker);
    assert!(lines.contains(&"spoken".to_owned()), "{lines:?}");
    let built =
        lines.iter().find_map(|line| line.strip_prefix("Successfully built ")).expect("built");
    let built = built.to_owned();
    let (again, _) = bench.built(&request).await;
    assert_eq!(again, image);

    let saved = bench.builders.artifact(&built).await.expect("the engine has it");
    assert_eq!(saved.kind, ImageKind::Docker);
    let missing = bench.builders.artifact("groundswell/nonesuch:1").await.expect_err("missing");
    assert!(missing.fault_of_plan() && missing.to_string().contains("nonesuch"), "{missing}");

    bench.write("plan/app/Dockerfile", "FROM scratch\nCOPY ./plan/nonesuch /\n");
    let (failed, _) = bench.build(&request).await;
    let error = failed.expect_err("it does not build");
    assert!(error.fault_of_plan() && error.to_string().contains("nonesuch"), "{error}");
    let removed = Command::new("docker").args(["rmi", "-f", &built]).output().expect("docker");
    assert!(removed.status.success(), "{removed:?}");
}
