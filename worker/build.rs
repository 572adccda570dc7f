//! Compiles `init/main.rs`, the first process of every container, into one static binary that
//! `runtime/docker` embeds. A Cargo package of its own could not be embedded on stable Rust.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=init/main.rs");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).expect("cargo sets it for build scripts");
    let output = PathBuf::from(variable("OUT_DIR")).join("groundswell-init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["init/main.rs", "--edition=2024", "--crate-name=groundswell_init"]);
    rustc.args(["--target", &variable("TARGET"), "-o"]).arg(&output);
    for option in ["target-feature=+crt-static", "panic=abort", "opt-level=s", "strip=symbols"] {
        rustc.args(["-C", option]);
    }
    let status = rustc.status().expect("rustc can be run: cargo has just done so");
    assert!(
        status.success(),
        "the init process of containers does not compile as a static binary; \
         it needs the C library's static half (Debian: libc6-dev)"
    );
}
