//! What a `Cargo.toml` and a `Cargo.lock` say, as far as builds need it.

use std::collections::BTreeSet;

use toml::{Table, Value};

const SECTIONS: [&str; 5] = [
    "dependencies",
    "dev-dependencies",
    "dev_dependencies",
    "build-dependencies",
    "build_dependencies",
];

/// Every dependency of a package with its name in the manifest, for all targets and for tests as well: Cargo wants
/// to see them all.
pub(super) fn dependencies(table: &Table) -> Vec<(&str, &Value)> {
    let targets = table.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flatten().filter_map(|(_, target)| target.as_table());
    let mut found = Vec::new();
    for table in std::iter::once(table).chain(targets) {
        for section in SECTIONS {
            let entries = table.get(section).and_then(Value::as_table);
            found.extend(entries.into_iter().flatten().map(|(name, entry)| (name.as_str(), entry)));
        }
    }
    found
}

/// Calls `change` with every dependency of a package, and with those that a workspace's root gives to its members.
pub(super) fn each_dependency(table: &mut Table, change: &mut dyn FnMut(&str, &mut Value)) {
    let mut of = |table: &mut Table| {
        for section in SECTIONS {
            let entries = table.get_mut(section).and_then(Value::as_table_mut);
            entries.into_iter().flatten().for_each(|(name, entry)| change(name.as_str(), entry));
        }
    };
    of(table);
    let targets = table.get_mut("target").and_then(Value::as_table_mut);
    for (_, target) in targets.into_iter().flatten() {
        target.as_table_mut().into_iter().for_each(&mut of);
    }
    table.get_mut("workspace").and_then(Value::as_table_mut).into_iter().for_each(of);
}

/// Everything a workspace's root replaces: `[patch.<source>]` and `[replace]`.
pub(super) fn replacements(root: &Table) -> Vec<(&str, &Value)> {
    let tables = |key: &str| root.get(key).and_then(Value::as_table).into_iter().flatten();
    let patches = tables("patch").filter_map(|(_, of_source)| of_source.as_table()).flatten();
    patches.chain(tables("replace")).map(|(name, entry)| (name.as_str(), entry)).collect()
}

/// The packages in a lock file that do not lie beside it, as `name version (source)`.
pub(super) fn locked_packages(lock: &str) -> BTreeSet<String> {
    let Ok(lock) = lock.parse::<Table>() else { return BTreeSet::new() };
    let packages = lock.get("package").and_then(Value::as_array).into_iter().flatten();
    let shown = |package: &Value| {
        let text = |key: &str| package.get(key).and_then(Value::as_str);
        Some(format!("{} {} ({})", text("name")?, text("version")?, text("source")?))
    };
    packages.filter_map(shown).collect()
}

/// The repository that a lock file has a crate from; absent when it is from a registry.
pub(super) fn locked_repository(lock: &str, module: &str) -> Option<String> {
    let lock: Table = lock.parse().ok()?;
    let packages = lock.get("package")?.as_array()?;
    let of_module =
        packages.iter().filter(|one| one.get("name").and_then(Value::as_str) == Some(module));
    let mut sources = of_module.filter_map(|one| one.get("source")?.as_str()?.strip_prefix("git+"));
    let source = sources.next()?;
    Some(source.split(['?', '#']).next().unwrap_or(source).to_owned())
}

/// The patches that Cargo has left out, as name and version.
pub(super) fn unused_patches(lock: &str) -> Vec<(String, String)> {
    let lock: Table = lock.parse().unwrap_or_default();
    let unused = lock.get("patch").and_then(|patch| patch.get("unused")).and_then(Value::as_array);
    let text = |one: &Value, key: &str| one.get(key).and_then(Value::as_str).map(str::to_owned);
    let unused = unused.into_iter().flatten();
    unused.filter_map(|one| Some((text(one, "name")?, text(one, "version")?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_dependency_is_found() {
        let text = "[dependencies]\na = \"1\"\n[dev-dependencies]\nb = { path = \"b\" }\n\
                    [target.'cfg(unix)'.build-dependencies.c]\nversion = \"1\"\n\
                    [patch.crates-io]\nd = { path = \"d\" }\n[patch.\"https://host/x\".e]\npath = \"e\"\n\
                    [replace]\n\"f:1.0.0\" = { path = \"f\" }\n";
        let table: Table = text.parse().expect("TOML");
        let names = |found: Vec<(&str, &Value)>| {
            let mut names: Vec<_> = found.into_iter().map(|(name, _)| name.to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(dependencies(&table)), ["a", "b", "c"]);
        assert_eq!(names(replacements(&table)), ["d", "e", "f:1.0.0"]);
    }

    #[test]
    fn a_lock_file_says_where_a_crate_is_from_and_what_was_left_out() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"git+https://h/a?branch=x#c\"\n\
                    [[package]]\nname = \"b\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\n\
                    [[patch.unused]]\nname = \"c\"\nversion = \"2.0.0\"\n";
        assert_eq!(locked_repository(lock, "a").as_deref(), Some("https://h/a"));
        assert_eq!(locked_repository(lock, "b"), None);
        assert_eq!(unused_patches(lock), [("c".to_owned(), "2.0.0".to_owned())]);
    }

    #[test]
    fn packages_beside_the_lock_file_are_not_locked() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\n\
                    [[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        assert_eq!(locked_packages(lock), BTreeSet::from(["a 1.0.0 (registry+x)".to_owned()]));
    }
}
