//! How a plan and what it needs lie to each other while they are built.
//!
//! ```text
//! packed                      built
//! plan/                       <plan>/               as layout.json says, or plan/
//! around/<path>               <path>                what the plan reaches outside of its directory
//! extra/<name>/               <plan>/../<name>/     extra source directories
//! layout.json
//! ```

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::{self, Content, Files};

/// Name of the file that says how a packed source is laid out.
pub(super) const FILE: &str = "layout.json";

/// How a packed source is laid out. Absent, the plan is in `plan/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// Where the plan is to lie.
    pub(super) plan: PathBuf,
}

/// A source as it is built.
#[derive(Debug)]
pub(super) struct LaidOut {
    /// Where the plan lies.
    pub(super) plan: PathBuf,
    /// Everything.
    pub(super) files: Files,
}

impl LaidOut {
    /// Lays out an unpacked source.
    pub(super) fn read(source: &Path) -> io::Result<Self> {
        let plan = Self::plan_path(source)?;
        let mut files = Files::new();
        let around = source.join("around");
        if around.is_dir() {
            tree::gather(&mut files, Path::new(""), &around, |_| false)?;
        }
        let extra = source.join("extra");
        if extra.is_dir() {
            let beside = plan.parent().unwrap_or(Path::new(""));
            for entry in fs::read_dir(&extra)? {
                let name = entry?.file_name();
                tree::gather(&mut files, &beside.join(&name), &extra.join(&name), |_| false)?;
            }
        }
        tree::gather(&mut files, &plan, &source.join("plan"), tree::left_out)?;
        Ok(Self { plan, files })
    }

    /// Where the plan of an unpacked source lies.
    pub(super) fn plan_path(source: &Path) -> io::Result<PathBuf> {
        let Ok(text) = fs::read(source.join(FILE)) else { return Ok(PathBuf::from("plan")) };
        let layout: Layout = serde_json::from_slice(&text)?;
        let inside = layout.plan.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || layout.plan.as_os_str().is_empty() {
            let shown = layout.plan.display();
            return Err(io::Error::other(format!("`{shown}` in {FILE} is no place for a plan")));
        }
        Ok(layout.plan)
    }

    /// The text of a file, if there is such a file and it is text.
    pub(super) fn text(&self, path: &Path) -> Option<String> {
        match self.files.get(path)? {
            Content::Directory => None,
            Content::Copy(from) => fs::read_to_string(from).ok(),
            Content::Text(text) => Some(text.clone()),
        }
    }
}

/// A path without `.` and `..`.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => normal.push(part),
        }
    }
    normal
}

/// The way from one directory to another.
pub(super) fn from_to(from: &Path, to: &Path) -> PathBuf {
    let Some(base) = from.ancestors().find(|base| to.starts_with(base)) else {
        return to.to_owned();
    };
    let up = from.components().count() - base.components().count();
    std::iter::repeat_n(Path::new(".."), up).collect::<PathBuf>().join(below(to, base))
}

/// A path as it is seen from a directory above.
pub(super) fn below(path: &Path, base: &Path) -> PathBuf {
    path.strip_prefix(base).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    #[test]
    fn everything_lies_where_relative_paths_find_it() {
        let dir = tempfile::tempdir().expect("a directory");
        put(dir.path(), "plan/Cargo.toml", "plan");
        put(dir.path(), "plan/_compositions/a.toml", "left out");
        put(dir.path(), "extra/words/list", "words");
        let shown = |source: &Path| {
            let laid_out = LaidOut::read(source).expect("laid out");
            let file = |(path, content): (&PathBuf, &Content)| match content {
                Content::Copy(from) if from.is_file() => Some(path.display().to_string()),
                Content::Copy(_) | Content::Directory | Content::Text(_) => None,
            };
            laid_out.files.iter().filter_map(file).collect::<Vec<_>>()
        };
        assert_eq!(shown(dir.path()), ["plan/Cargo.toml", "words/list"]);

        put(dir.path(), "around/Cargo.toml", "root");
        put(dir.path(), "around/sdk/Cargo.toml", "sdk");
        put(dir.path(), FILE, r#"{"plan": "plans/mesh"}"#);
        let expected =
            ["Cargo.toml", "plans/mesh/Cargo.toml", "plans/words/list", "sdk/Cargo.toml"];
        assert_eq!(shown(dir.path()), expected);

        put(dir.path(), FILE, r#"{"plan": "../mesh"}"#);
        let refused = LaidOut::read(dir.path()).expect_err("refused");
        assert!(refused.to_string().contains("`../mesh`"), "{refused}");
    }

    #[test]
    fn the_way_from_one_directory_to_another() {
        assert_eq!(from_to(Path::new("/a/b"), Path::new("/a/b/c")), Path::new("c"));
        assert_eq!(from_to(Path::new("/a/b"), Path::new("/a/c/d")), Path::new("../c/d"));
        assert_eq!(
            from_to(Path::new("plan/app"), Path::new("replaced/0")),
            Path::new("../../replaced/0")
        );
        assert_eq!(normal(Path::new("plan/../mine/./x")), Path::new("mine/x"));
    }
}
