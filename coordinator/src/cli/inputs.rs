//! What a submit is made of: the composition, the plan it names, and where both come from.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use groundswell_common::builds::{BuildLock, PinnedSource};
use groundswell_common::run::SourceInfo;
use groundswell_coordinator::build::git::{self, GitError, PlanSource};

use super::args::Submit;
use super::exit::Exit;
use super::parts::{self, Loaded, PlanManifest, Reading, Single};
use super::{Session, Trouble};

/// A composition, checked against its plan.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Name of the composition for messages.
    pub(crate) name: String,
    /// The composition.
    pub(crate) loaded: Loaded,
    /// The plan's directory.
    pub(crate) plan_dir: PathBuf,
    /// The commit that it is, when it comes from git.
    pub(crate) plan_source: Option<PinnedSource>,
    /// The text of its manifest.
    pub(crate) manifest_text: String,
    /// Its manifest.
    pub(crate) manifest: PlanManifest,
    /// Its runs that are wanted, in order, each with its groups and their instances.
    pub(crate) runs: Vec<(String, Vec<(String, u32)>)>,
}

/// How a composition file is read and where its plan is looked up.
pub(crate) struct Options<'a> {
    pub(crate) set: &'a [(String, String)],
    pub(crate) plans: Option<&'a Path>,
    pub(crate) strict: bool,
    pub(crate) run_ids: &'a [String],
    /// Where commits are looked up before a repository is asked.
    pub(crate) lock: Option<&'a BuildLock>,
}

/// Reads what a submit asks for.
pub(crate) async fn of_submit(
    session: &Session,
    args: &Submit,
    lock: Option<&BuildLock>,
) -> Result<Inputs, Trouble> {
    let options = Options {
        set: &args.set,
        plans: args.plans.as_deref(),
        strict: args.strict,
        run_ids: &args.run_ids,
        lock,
    };
    if let Some(plan) = &args.plan {
        return of_plan(session, args, plan, &options).await;
    }
    let file = args.file.as_deref().unwrap_or(Path::new("-"));
    of_file(session, file, &options).await
}

/// Reads a composition file; `-` is stdin.
pub(crate) async fn of_file(
    session: &Session,
    file: &Path,
    options: &Options<'_>,
) -> Result<Inputs, Trouble> {
    let (name, base, text) = if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|err| unreadable("stdin", &err))?;
        ("stdin".to_owned(), PathBuf::from("."), text)
    } else {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|err| unreadable(&name, &err))?;
        (name, file.parent().unwrap_or(Path::new("")).to_owned(), text)
    };
    finish(session, name, &text, &base, options).await
}

async fn of_plan(
    session: &Session,
    args: &Submit,
    plan: &Path,
    options: &Options<'_>,
) -> Result<Inputs, Trouble> {
    let wanted = plan.to_string_lossy();
    let dir = locate_plan(session, &wanted, Path::new("."), options).await?.0;
    let manifest = read_manifest(&dir)?.1;
    let choose = |given: &Option<String>, default: &str, what: &str| match given {
        Some(given) => Ok(given.clone()),
        None if !default.is_empty() => Ok(default.to_owned()),
        None => Err(Trouble::new(
            Exit::Usage,
            format!("the manifest of plan `{}` has no default {what}", manifest.name),
            format!("name one with --{what}"),
        )),
    };
    let text = parts::single(&Single {
        plan: &wanted,
        case: args.case.as_deref().unwrap_or_default(),
        instances: args.instances.unwrap_or_default(),
        runner: &choose(&args.runner, &manifest.runner, "runner")?,
        builder: &choose(&args.builder, &manifest.builder, "builder")?,
        params: &args.params,
    });
    let name = format!("{wanted}/{}", args.case.as_deref().unwrap_or_default());
    finish(session, name, &text, Path::new("."), options).await
}

async fn finish(
    session: &Session,
    name: String,
    text: &str,
    base: &Path,
    options: &Options<'_>,
) -> Result<Inputs, Trouble> {
    let mut env: BTreeMap<String, String> = std::env::vars().collect();
    env.extend(options.set.iter().cloned());
    let reading = Reading { env: &env, base, strict: options.strict, color: session.out.color };
    let loaded = parts::load(&name, text, reading).map_err(invalid)?;
    for warning in &loaded.warnings {
        session.out.note(warning);
    }
    let (plan_dir, plan_source) = locate_plan(session, &loaded.plan, base, options).await?;
    let (manifest_text, manifest) = read_manifest(&plan_dir)?;
    // Every run is checked, also those that are not wanted: half a composition is not valid.
    let mut all = BTreeMap::new();
    for run in &loaded.runs {
        let groups = parts::groups(&loaded, &manifest, run).map_err(invalid)?;
        all.insert(run.clone(), groups);
    }
    let runs = wanted_runs(&name, &all, options.run_ids)?;
    Ok(Inputs { name, loaded, plan_dir, plan_source, manifest_text, manifest, runs })
}

type Groups = Vec<(String, u32)>;

fn wanted_runs(
    name: &str,
    all: &BTreeMap<String, Groups>,
    wanted: &[String],
) -> Result<Vec<(String, Groups)>, Trouble> {
    if wanted.is_empty() {
        return Ok(all.clone().into_iter().collect());
    }
    let find = |id: &String| {
        all.get_key_value(id).map(|(id, groups)| (id.clone(), groups.clone())).ok_or_else(|| {
            let known: Vec<&str> = all.keys().map(String::as_str).collect();
            let known = known.join(", ");
            Trouble::new(
                Exit::NothingSelected,
                format!("{name} has no run `{id}`"),
                format!("it has: {known}"),
            )
        })
    };
    wanted.iter().map(find).collect()
}

/// The plan's directory; one in git is fetched.
async fn locate_plan(
    session: &Session,
    plan: &str,
    base: &Path,
    options: &Options<'_>,
) -> Result<(PathBuf, Option<PinnedSource>), Trouble> {
    let failed = |err: GitError| Trouble::from_error(Exit::Invalid, &err);
    let Some(source) = PlanSource::parse(plan).map_err(failed)? else {
        return Ok((find_plan(plan, &places(session, base, options.plans))?, None));
    };
    let asked = source.asked.to_string();
    let commit = match options.lock.and_then(|lock| lock.commit(&source.url, &asked)) {
        Some(commit) => commit.to_owned(),
        None => git::resolve(&source.url, &source.asked).await.map_err(failed)?,
    };
    let cache_dir = session.settings.home.join("cache");
    let files = git::checkout(&source.url, &commit, &cache_dir).await.map_err(failed)?;
    let dir = files.join(&source.directory);
    if !dir.join("manifest.toml").is_file() {
        let (url, place) = (&source.url, &source.directory);
        return Err(Trouble::new(
            Exit::Invalid,
            format!("`{url}` at {commit} has no manifest.toml in `{place}`"),
            "name the plan's directory after `#`: git+URL?branch=NAME#directory",
        ));
    }
    let pinned = PinnedSource { module: String::new(), url: source.url, asked, commit };
    Ok((dir, Some(pinned)))
}

/// Where a plan may be, best first: beside the composition, under the configured directories, and in a
/// directory above the composition, for those that lie inside of their plan.
fn places(session: &Session, base: &Path, plans: Option<&Path>) -> Vec<PathBuf> {
    let mut places = vec![base.to_owned()];
    places.extend(plans.map(Path::to_owned));
    places.extend(session.settings.plans.clone());
    let testground = std::env::var_os("TESTGROUND_HOME").filter(|home| !home.is_empty());
    places.extend(testground.map(|home| PathBuf::from(home).join("plans")));
    let absolute = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    places.extend(absolute.ancestors().skip(1).map(Path::to_owned));
    places
}

fn find_plan(plan: &str, places: &[PathBuf]) -> Result<PathBuf, Trouble> {
    let mut looked: Vec<PathBuf> = places.iter().map(|place| place.join(plan)).collect();
    if let Some(found) = looked.iter().find(|dir| dir.join("manifest.toml").is_file()) {
        return Ok(found.clone());
    }
    looked.truncate(6);
    let shown: Vec<String> = looked.iter().map(|dir| format!("\n    {}", dir.display())).collect();
    Err(Trouble::new(
        Exit::Invalid,
        format!("no plan `{plan}`: none of these has a manifest.toml{}", shown.concat()),
        "say where plans are with --plans DIR, or make one with `coordinator plan new`",
    ))
}

/// Reads the manifest of the plan in `dir`.
pub(crate) fn read_manifest(dir: &Path) -> Result<(String, PlanManifest), Trouble> {
    let path = dir.join("manifest.toml");
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(|err| unreadable(&name, &err))?;
    let manifest = parts::manifest(&name, &text).map_err(invalid)?;
    Ok((text, manifest))
}

fn unreadable(name: &str, err: &std::io::Error) -> Trouble {
    Trouble::new(Exit::Invalid, format!("failed to read `{name}`: {err}"), "")
}

fn invalid(rendered: String) -> Trouble {
    Trouble::new(Exit::Invalid, rendered, "")
}

/// Where the plan comes from.
pub(crate) async fn source_info(inputs: &Inputs) -> SourceInfo {
    let Some(source) = &inputs.plan_source else { return git_info(&inputs.plan_dir).await };
    SourceInfo {
        repo: without_password(&source.url),
        branch: source.asked.strip_prefix("branch=").unwrap_or_default().to_owned(),
        commit: source.commit.clone(),
        dirty: false,
    }
}

/// What git knows about a directory; nothing when there is no git or no repository.
async fn git_info(dir: &Path) -> SourceInfo {
    let git = async |arguments: &[&str]| -> Option<String> {
        let output = tokio::process::Command::new("git")
            .arg("-C")
            .arg(dir)
            .args(arguments)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]).await else { return SourceInfo::default() };
    let (repo, branch, changes) = tokio::join!(
        git(&["remote", "get-url", "origin"]),
        git(&["rev-parse", "--abbrev-ref", "HEAD"]),
        git(&["status", "--porcelain", "--untracked-files=no"]),
    );
    SourceInfo {
        repo: without_password(&repo.unwrap_or_default()),
        branch: branch.unwrap_or_default(),
        commit,
        dirty: changes.is_some_and(|changes| !changes.is_empty()),
    }
}

/// A remote's URL may carry a token; the record is no place for it.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (_, _) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_is_nowhere_is_refused_with_the_places() {
        let home = tempfile::tempdir().unwrap();
        let places = [home.path().join("a"), home.path().join("b")];
        let refused = find_plan("mesh", &places).unwrap_err();
        assert_eq!(refused.exit, Exit::Invalid);
        assert!(refused.message.contains("a/mesh") && refused.message.contains("b/mesh"));

        std::fs::create_dir_all(places[1].join("mesh")).unwrap();
        std::fs::write(places[1].join("mesh/manifest.toml"), "").unwrap();
        assert_eq!(find_plan("mesh", &places).unwrap(), places[1].join("mesh"));
    }

    #[test]
    fn a_token_in_a_remote_is_not_kept() {
        assert_eq!(without_password("https://me:token@host/x.git"), "https://host/x.git");
        assert_eq!(without_password("git@host:x.git"), "git@host:x.git");
    }

    #[test]
    fn runs_come_in_the_order_asked_for() {
        let all = BTreeMap::from([("a".to_owned(), Vec::new()), ("b".to_owned(), Vec::new())]);
        let ids = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|id| (*id).to_owned()).collect();
            wanted_runs("f", &all, &wanted)
                .map(|runs| runs.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
                .map_err(|trouble| trouble.help)
        };
        assert_eq!(ids(&[]).unwrap(), ["a", "b"]);
        assert_eq!(ids(&["b", "a"]).unwrap(), ["b", "a"]);
        assert_eq!(ids(&["c"]).unwrap_err(), "it has: a, b");
    }
}
