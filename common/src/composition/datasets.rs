//! `[[datasets]]` and `[[groups.datasets]]`: files of the object store that instances read.

use std::collections::BTreeMap;

use super::placement::texts;
use super::{Composition, Group};
use crate::datasets::{DIRECTORY, DatasetWish, PLACES, is_name, is_place};
use crate::diagnostic::suggest;
use crate::document::{At, Findings, Table};

/// A dataset, and for whom it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shared {
    wish: At<DatasetWish>,
    /// Absent is for all groups.
    groups: Option<Vec<At<String>>>,
}

/// Reads `[[datasets]]`.
pub(super) fn parse(findings: &Findings, file: &Table<'_>) -> Vec<Shared> {
    let one = |table: Table<'_>| {
        let groups = table.get("groups").map(|node| texts(findings, "groups", node));
        let wish = wish(findings, &table);
        table.finish(&[]);
        Some(Shared { wish: wish?, groups })
    };
    file.tables("datasets").into_iter().filter_map(one).collect()
}

/// Reads `[[groups.datasets]]`.
pub(super) fn of_group(findings: &Findings, group: &Table<'_>) -> Vec<At<DatasetWish>> {
    let one = |table: Table<'_>| {
        let wish = wish(findings, &table);
        table.finish(&[]);
        wish
    };
    group.tables("datasets").into_iter().filter_map(one).collect()
}

fn wish(findings: &Findings, table: &Table<'_>) -> Option<At<DatasetWish>> {
    let Some(name) = table.text("name") else {
        let help = "write `name = \"…\"`; `coordinator dataset list` has the names";
        findings.error(table.span.clone(), "a dataset has no name", help);
        return None;
    };
    if !is_name(&name.value) {
        let help = "a name has letters, digits, `.`, `-` and `_`, and does not begin with a dot";
        findings.error(name.span, format!("`{}` cannot name a dataset", name.value), help);
        return None;
    }
    let path = table.text("path");
    if let Some(path) = path.as_ref().filter(|path| !is_place(&path.value)) {
        let help = format!("write a path below one of {}", PLACES.join(", "));
        let message = format!("a dataset cannot be at `{}`", path.value);
        findings.error(path.span.clone(), message, help);
        return None;
    }
    let span = name.span.clone();
    let path = path.map_or_else(|| format!("{DIRECTORY}/{}", name.value), |path| path.value);
    Some(At { value: DatasetWish { name: name.value, path }, span })
}

/// Checks that datasets are for groups there are, and that no two of a group are in each other's way.
pub(super) fn check(findings: &Findings, composition: &Composition) {
    let known = || composition.groups.iter().map(|group| group.id.value.as_str());
    for group in composition.datasets.iter().filter_map(|one| one.groups.as_ref()).flatten() {
        if !known().any(|id| id == group.value) {
            findings.error(
                group.span.clone(),
                format!("there is no group `{}`", group.value),
                suggest(&group.value, known().collect::<Vec<_>>()),
            );
        }
    }
    for group in &composition.groups {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for one in wishes(composition, group) {
            let path = one.value.path.as_str();
            let below = |a: &str, b: &str| std::path::Path::new(a).starts_with(b);
            let other = taken.iter().find(|(other, _)| below(path, other) || below(other, path));
            if let Some((_, other)) = other {
                let (name, group) = (&one.value.name, &group.id.value);
                findings.error(
                    one.span.clone(),
                    format!(
                        "datasets `{name}` and `{other}` of group `{group}` are in each other's way"
                    ),
                    "give each a `path` of its own",
                );
            }
            taken.insert(path, &one.value.name);
        }
    }
}

/// The datasets of a group.
pub(super) fn resolve(composition: &Composition, group: &Group) -> Vec<DatasetWish> {
    wishes(composition, group).map(|one| one.value.clone()).collect()
}

fn wishes<'a>(
    composition: &'a Composition,
    group: &'a Group,
) -> impl Iterator<Item = &'a At<DatasetWish>> {
    let is_for = |one: &&Shared| {
        one.groups.as_ref().is_none_or(|groups| groups.iter().any(|id| id.value == group.id.value))
    };
    composition.datasets.iter().filter(is_for).map(|one| &one.wish).chain(&group.datasets)
}

#[cfg(test)]
mod tests {
    use crate::composition::{Composition, resolve};
    use crate::manifest::Manifest;

    const MANIFEST: &str = "name = \"mesh\"\n[builders.\"exec:command\"]\n[runners.netns]\n\
        [[testcases]]\nname = \"dial\"\ninstances = { min = 1, max = 9, default = 1 }\n";
    const GLOBAL: &str = "[global]\nplan = \"mesh\"\ncase = \"dial\"\nbuilder = \"exec:command\"\n\
        runner = \"netns\"\n";
    const GROUPS: &str = "[[groups]]\nid = \"a\"\ninstances = { count = 1 }\n[[groups.datasets]]\n\
        name = \"own\"\npath = \"/data/own\"\n[[groups]]\nid = \"b\"\ninstances = { count = 1 }\n";

    /// The datasets of both groups, or what is wrong.
    fn datasets(more: &str) -> Result<Vec<String>, String> {
        let text = format!("{GLOBAL}{more}{GROUPS}");
        let (composition, _) =
            Composition::parse("c.toml", &text, true).map_err(|found| found.render(false))?;
        let (manifest, _) = Manifest::parse("manifest.toml", MANIFEST).expect("a manifest");
        let run = resolve(&composition, &manifest, "default").expect("it resolves");
        let shown = |group: &crate::composition::ResolvedGroup| {
            let all = group.datasets.iter().map(|one| format!("{}:{}", one.name, one.path));
            format!("{} {}", group.id, all.collect::<Vec<_>>().join(" "))
        };
        Ok(run.groups.iter().map(shown).collect())
    }

    #[test]
    fn a_dataset_is_for_all_groups_or_for_some() {
        let all = "[[datasets]]\nname = \"corpus\"\n";
        let shown = datasets(all).expect("valid");
        assert_eq!(shown, ["a corpus:/datasets/corpus own:/data/own", "b corpus:/datasets/corpus"]);
        let some = datasets(&format!("{all}groups = [\"b\"]\n")).expect("valid");
        assert_eq!(some, ["a own:/data/own", "b corpus:/datasets/corpus"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (more, says) in [
            ("[[datasets]]\npath = \"/data/x\"\n", "a dataset has no name"),
            ("[[datasets]]\nname = \"../x\"\n", "`../x` cannot name a dataset"),
            ("[[datasets]]\nname = \"x\"\npath = \"/etc/x\"\n", "cannot be at `/etc/x`"),
            ("[[datasets]]\nname = \"x\"\ngroups = [\"c\"]\n", "there is no group `c`"),
            ("[[datasets]]\nname = \"x\"\npath = \"/data/own/x\"\n", "in each other's way"),
            ("[[datasets]]\nname = \"x\"\nsize = 1\n", "unknown key `size`"),
        ] {
            let found = datasets(more).expect_err(says);
            assert!(found.contains(says) && found.contains("c.toml"), "{found}");
        }
    }
}
