//! `plan new` and `plan ls`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{Format, New};
use super::exit::Exit;
use super::inputs::read_manifest;
use super::out::List;
use super::templates::{self, Sdk};
use super::{Done, Session, Trouble};

pub(crate) fn new(session: &Session, wish: &New) -> Done {
    let dir = &wish.dir;
    let name = plan_name(dir)?;
    if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("`{}` is not empty", dir.display());
        return Err(Trouble::new(
            Exit::Usage,
            message,
            "nothing was written; name a new directory",
        ));
    }
    let sdk = wish.sdk.as_deref().map_or(Sdk::Embedded, Sdk::parse);
    let files = templates::files(wish.template, wish.lang, &name, &sdk)
        .map_err(|refused| Trouble::new(Exit::Usage, refused.message, refused.advice))?;
    for file in files {
        let path = dir.join(&file.path);
        write(&path, &file.text, file.executable).map_err(|err| {
            Trouble::new(Exit::Internal, format!("failed to write `{}`: {err}", path.display()), "")
        })?;
        session.out.data(path.display());
    }
    let composition = dir.join("composition.toml");
    session.out.note(format_args!("run it: coordinator submit {}", composition.display()));
    Ok(Exit::Passed)
}

fn plan_name(dir: &Path) -> Result<String, Trouble> {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned());
    let valid = |name: &String| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.filter(valid).ok_or_else(|| {
        Trouble::new(
            Exit::Usage,
            format!("the plan would be named after `{}`", dir.display()),
            "a plan's name is lower-case letters, digits and `-`, and begins with a letter",
        )
    })
}

fn write(path: &Path, text: &str, executable: bool) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

/// A plan, for programs.
#[derive(Debug, Serialize)]
struct Listed {
    plan: String,
    cases: Vec<String>,
    dir: PathBuf,
}

pub(crate) fn ls(session: &Session, plans: Option<PathBuf>, format: Format) -> Done {
    let testground = std::env::var_os("TESTGROUND_HOME").filter(|home| !home.is_empty());
    let mut places: Vec<PathBuf> = plans.into_iter().collect();
    places.extend(session.settings.plans.clone());
    places.extend(testground.map(|home| PathBuf::from(home).join("plans")));
    if places.is_empty() {
        places.push(PathBuf::from("."));
        places.push(PathBuf::from("plans"));
    }
    let mut found: Vec<Listed> = Vec::new();
    for dir in places.iter().flat_map(|place| directories(place)) {
        match read_manifest(&dir) {
            Ok((_, manifest)) => {
                found.push(Listed { plan: manifest.name, cases: manifest.cases, dir });
            }
            Err(trouble) => session.out.warning(trouble.message),
        }
    }
    if found.is_empty() && !session.out.json {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        session.out.note(format_args!("no plans in {}", looked.join(", ")));
    }
    let row = |plan: &Listed| {
        vec![plan.plan.clone(), plan.cases.join(", "), plan.dir.display().to_string()]
    };
    let rows = found.iter().map(row).collect();
    let list = List {
        headers: &["PLAN", "CASES", "DIRECTORY"],
        name: 0,
        wide_from: 3,
        rows,
        values: &found,
    };
    session.out.list(&list, format);
    Ok(Exit::Passed)
}

/// The directories below `place`, at most two deep, that are plans.
fn directories(place: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = dir.read_dir().into_iter().flatten().flatten();
        let mut dirs: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        dirs.sort();
        dirs
    };
    let is_plan = |dir: &PathBuf| dir.join("manifest.toml").is_file();
    let first = below(place);
    let nested = first.iter().filter(|dir| !is_plan(dir)).flat_map(|dir| below(dir));
    first.iter().cloned().chain(nested).filter(is_plan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_a_name_that_can_be_in_a_file_name_anywhere() {
        assert_eq!(plan_name(Path::new("/x/ping-pong")).unwrap(), "ping-pong");
        for bad in ["/x/Ping", "/x/a b", "/", "/x/9"] {
            assert_eq!(plan_name(Path::new(bad)).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
