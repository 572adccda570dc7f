//! Git repositories that tests make.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with a work tree.
pub(crate) struct Repository {
    directory: PathBuf,
}

impl Repository {
    /// Makes an empty repository, its branch is `main`.
    pub(crate) fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("made");
        let repository = Self { directory };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Commits these files and returns the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            let path = self.directory.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        self.git(&["add", "--all"]);
        let who = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        self.git(&[&who[..], &["commit", "--quiet", "--message=test"]].concat());
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in it and returns what it prints.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.directory)
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("git");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        url(&self.directory)
    }
}

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}
