//! Datasets: put into the store, seen by instances of both runtimes, repaired, and told when they are missing.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Home, Running, processes, wait_until};

const MANIFEST: &str = r#"
name = "reader"
[builders."exec:command"]
entrypoint = ["sh", "run.sh"]
[runners.netns]
outcome_from = "stdout"
[runners.docker]
outcome_from = "stdout"
[[testcases]]
name = "read"
instances = { min = 1, max = 99, default = 1 }
"#;
/// Reads the dataset, tries everything that would change it, and tells what it saw.
const SCRIPT: &str = r#"
set -eu
echo "$GROUNDSWELL_DATASETS"
cat "$DATASET/deep/words"
for attempt in "echo x > $DATASET/new" "echo x >> $DATASET/deep/words" "rm -f $DATASET/deep/words" \
  "chmod 777 $DATASET/deep/words" "mv $DATASET/deep $DATASET/other" "mkdir $DATASET/d" \
  "mount -o remount,rw,bind $DATASET"
do
  if sh -c "$attempt" 2>/dev/null; then
    echo "it worked: $attempt"
    echo '{"event":{"failure_event":{"error":"a dataset was written to"}}}'
    exit 1
  fi
done
cat "$DATASET/deep/words" > "$TEST_OUTPUTS_PATH/words"
echo '{"event":{"success_event":{}}}'
"#;

struct Scene {
    home: Home,
}

impl Scene {
    fn new() -> Self {
        let home = Home::new();
        home.write("reader/manifest.toml", MANIFEST);
        home.write("reader/run.sh", SCRIPT);
        home.write("corpus/deep/words", "from the dataset\n");
        home.write("corpus/more", &"more\n".repeat(1000));
        let scene = Self { home };
        scene.home.run(&["dataset", "put", "corpus", "--name", "corpus"]).ends_with(0);
        scene
    }

    fn composition(&self, runner: &str, path: &str, count: u32) -> String {
        let text = format!(
            "[global]\nplan = \"reader\"\ncase = \"read\"\nbuilder = \"exec:command\"\nrunner = \"{runner}\"\n\
             [[datasets]]\nname = \"corpus\"\npath = \"{path}\"\n\
             [[groups]]\nid = \"all\"\ninstances = {{ count = {count} }}\n[groups.run.env]\nDATASET = \"{path}\"\n"
        );
        self.home.write(&format!("{runner}.toml"), &text)
    }

    fn file(&self, path: &str) -> String {
        self.home.run(&["collect", "latest", "--file", path]).ends_with(0).stdout
    }
}

/// A stack that is kept up, so that its worker has what an earlier run has fetched.
struct Up {
    running: Running,
}

impl Up {
    fn start(home: &Home) -> Self {
        let running = home.start(&["up"]);
        running.until("up: 1 worker");
        Self { running }
    }

    fn stop(self) {
        self.running.ctrl_c();
        self.running.finish();
    }
}

/// A file of a dataset in a worker's cache.
fn cached(home: &Home, name: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![home.dir.path().to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let shared = path.ends_with("cache") || path.ends_with("corpus");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !shared {
                open.push(path);
            } else if path.ends_with(name) && path.to_string_lossy().contains("/datasets/") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn instances_of_both_runtimes_read_a_dataset_and_cannot_change_it() {
    let scene = Scene::new();
    for (runner, path) in
        [("netns", "/datasets/corpus"), ("netns", "/data/a/b"), ("docker", "/srv/corpus")]
    {
        let file = scene.composition(runner, path, 3);
        scene.home.run(&["submit", &file]).ends_with(0).says("3 = 3 success");
        assert_eq!(scene.file("all/2/words"), "from the dataset\n");
        let told = scene.file("all/0/stdout.log");
        assert!(told.starts_with(&format!("{{\"corpus\":\"{path}\"}}\n")), "{told}");
    }
    // On several workers each fetches it for itself.
    let file = scene.composition("netns", "/datasets/corpus", 4);
    scene.home.run(&["submit", &file, "--workers", "2"]).ends_with(0).says("4 = 4 success");
}

#[test]
fn a_dataset_is_fetched_once_and_a_damaged_file_of_it_is_fetched_again() {
    let scene = Scene::new();
    let file = scene.composition("netns", "/datasets/corpus", 2);
    let up = Up::start(&scene.home);
    scene.home.run(&["submit", &file]).ends_with(0);
    let words = cached(&scene.home, "deep/words");
    assert_eq!(words.len(), 1, "one copy for all instances: {words:?}");
    let before = std::fs::metadata(&words[0]).and_then(|meta| meta.modified()).expect("there");
    scene.home.run(&["submit", &file]).ends_with(0);
    let after = std::fs::metadata(&words[0]).and_then(|meta| meta.modified()).expect("there");
    assert_eq!(before, after);

    std::fs::write(&words[0], "FROM THE DATASET\n").expect("damaged");
    scene.home.run(&["submit", &file]).ends_with(0);
    assert_eq!(scene.file("all/1/words"), "from the dataset\n");
    up.stop();
}

#[test]
fn a_dataset_that_is_missing_is_the_plans_fault_and_one_that_cannot_be_fetched_is_not() {
    let scene = Scene::new();
    let file = scene.composition("netns", "/datasets/corpus", 1);
    let listed = scene.home.run(&["dataset", "list", "--json"]).ends_with(0).stdout;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed[0]["name"], &listed[0]["files"]), (&"corpus".into(), &2.into()));

    // A file of it is gone from the store.
    let store = scene.home.dir.path().join("store/datasets/files");
    for entry in std::fs::read_dir(&store).expect("there").flatten() {
        std::fs::remove_file(entry.path()).expect("removed");
    }
    scene.home.run(&["submit", &file]).ends_with(20).says("failed to fetch dataset `corpus`");

    scene.home.run(&["dataset", "rm", "corpus"]).ends_with(0);
    scene.home.run(&["submit", &file]).ends_with(3).says("there is no dataset `corpus`");
    scene.home.run(&["dataset", "rm", "corpus"]).ends_with(4).says("there are none");
    scene.home.run(&["dataset", "put", "nowhere", "--name", "x"]).ends_with(3).says("nowhere");
    let home = scene.home.dir.path().display().to_string();
    wait_until("nothing is left", crate::harness::LIMIT, || processes(&home).is_empty());
}
