use super::*;
use crate::manifest::Manifest;
use crate::messages::RuntimeKind;

const MANIFEST: &str = r#"
name = "mesh"
[defaults]
builder = "exec:cargo"
runner = "netns"
[builders."exec:cargo"]
enabled = true
profile = "release"
[builders."docker:generic"]
[runners."local:docker"]
exposed_ports = { debug = "6060" }
log_level = "info"
[runners."netns"]
[[testcases]]
name = "dial"
instances = { min = 2, max = 10 }
  [testcases.params]
  rounds = { type = "int", default = 3 }
  peers = { type = "int", default = 1 }
"#;

fn resolved(composition: &str, run: &str) -> Result<ResolvedRun, Diagnostics> {
    let (manifest, _) = Manifest::parse("manifest.toml", MANIFEST, false).expect("valid");
    let (composition, _) = Composition::parse("composition.toml", composition, false)?;
    resolve(&composition, &manifest, run)
}

fn global(rest: &str) -> String {
    format!("[global]\nplan = \"mesh\"\ncase = \"dial\"\nrunner = \"netns\"\n{rest}")
}

fn refused(composition: &str, run: &str) -> String {
    let wrong = resolved(composition, run).expect_err("refused");
    wrong.0.iter().map(|one| format!("{one} ({})", one.help)).collect::<Vec<_>>().join("\n")
}

#[test]
fn without_runs_there_is_one_with_every_group() {
    let text = global(
        "[[groups]]\nid = \"a\"\ninstances = { count = 3 }\n[[groups]]\nId = \"b\"\ninstances = { count = 1 }\n",
    );
    let run = resolved(&text, "default").expect("valid");
    assert_eq!((run.id.as_str(), run.total_instances), ("default", 4));
    assert_eq!(run.groups[1].id, "b");
    assert_eq!(run.groups[0].params["rounds"], "3");
    assert_eq!(run.groups[0].build.builder, "exec:cargo");
    assert_eq!(run.groups[0].build.config["profile"], "release");
    assert!(!run.groups[0].build.config.contains_key("enabled"));
}

#[test]
fn a_parameter_comes_from_the_closest_place_and_empty_counts_as_unset() {
    let text = global(
        r#"
[global.run.test_params]
rounds = "global"
peers = "global"
[[groups]]
id = "a"
instances = { count = 2 }
  [groups.run.test_params]
  rounds = "group"
  peers = "group"
  only = 7
[[runs]]
id = "r"
test_params = { rounds = "run" }
  [[runs.groups]]
  id = "x"
  group_id = "a"
  test_params = { rounds = "", peers = "run group" }
"#,
    );
    let run = resolved(&text, "r").expect("valid");
    let params = &run.groups[0].params;
    assert_eq!(params["rounds"], "run");
    assert_eq!(params["peers"], "run group");
    assert_eq!(params["only"], "7");
    assert_eq!((run.groups[0].id.as_str(), run.groups[0].build_group.as_str()), ("x", "a"));
}

#[test]
fn percentages_are_fractions_of_the_runs_own_total() {
    let groups = "[[groups]]\nid = \"a\"\ninstances = { percentage = 0.25 }\n[[groups]]\nid = \"b\"\ninstances = { percentage = 0.75 }\n";
    let text = global(&format!("total_instances = 10\n{groups}"));
    let run = resolved(&text, "default").expect_err("3 + 8 is not 10: halves round away from zero");
    assert!(run.to_string().contains("have 11 instances, not 10"), "{run}");
    let text = global(&format!("total_instances = 8\n{groups}"));
    let run = resolved(&text, "default").expect("valid");
    assert_eq!(run.groups.iter().map(|g| g.instances).collect::<Vec<_>>(), [2, 6]);
    assert!(refused(&global(groups), "default").contains("of an unknown total"));
}

#[test]
fn an_explicit_run_inherits_counts_before_they_are_checked() {
    let text = global(
        "total_instances = 99\n[[groups]]\nid = \"a\"\ninstances = { count = 4 }\n[[runs]]\nid = \"z\"\ntotal_instances = 4\n[[runs.groups]]\nid = \"a\"\n[[runs]]\nid = \"b\"\n[[runs.groups]]\nid = \"a\"\ninstances = { count = 2 }\n",
    );
    assert_eq!(resolved(&text, "z").expect("valid").total_instances, 4);
    assert_eq!(resolved(&text, "b").expect("valid").total_instances, 2);
    let (composition, _) = Composition::parse("c", &text, false).expect("valid");
    assert_eq!(composition.run_ids(), ["b", "z"]);
}

#[test]
fn build_options_are_laid_over_each_other_by_top_level_key() {
    let text = global(
        r#"
builder = "exec:cargo"
build_config = { features = ["x"], env = { A = "1", B = "2" } }
[global.build]
selectors = ["tag"]
dependencies = [{ module = "m", version = "1" }, { module = "n", version = "1" }]
[[groups]]
id = "a"
instances = { count = 2 }
build_config = { env = { A = "3" } }
[groups.build]
dependencies = [{ module = "m", version = "2", target = "fork" }]
"#,
    );
    let run = resolved(&text, "default").expect("valid");
    let build = &run.groups[0].build;
    assert_eq!(build.config["env"], serde_json::json!({ "A": "3" }));
    assert_eq!(build.config["features"], serde_json::json!(["x"]));
    assert_eq!(build.selectors, ["tag"]);
    assert_eq!(build.dependencies[0].target, "fork");
    assert_eq!(build.dependencies[1].version, "1");
}

#[test]
fn two_builds_that_differ_only_by_a_dependencys_target_are_two() {
    let input = |target: &str| BuildInput {
        builder: "exec:cargo".to_owned(),
        config: Map::new(),
        selectors: Vec::new(),
        dependencies: vec![Dependency {
            module: "m".to_owned(),
            target: target.to_owned(),
            version: "1".to_owned(),
        }],
    };
    assert_ne!(input("a").key(), input("b").key());
}

#[test]
fn runner_options_of_the_composition_win_and_unknown_ones_are_told() {
    let text = "[global]\nplan = \"mesh\"\ncase = \"dial\"\nrunner = \"local:docker\"\nbuilder = \"docker:generic\"\n[global.run_config]\nlog_level = \"debug\"\nbackground = true\noutcomes_collection_timeout = \"5s\"\n[[groups]]\nid = \"a\"\ninstances = { count = 2 }\nresources = { memory = \"64Mi\", cpu = \"250m\" }\n";
    let run = resolved(text, "default").expect("valid");
    assert_eq!(run.runtime, RuntimeKind::Docker);
    assert_eq!(run.options.log_level, "debug");
    assert_eq!(run.options.exposed_ports["debug"], "6060");
    assert_eq!(run.outcome_grace, Duration::from_secs(5));
    assert_eq!(run.warnings, ["runner option `background` has no effect here"]);
    assert_eq!(run.groups[0].resources.memory_bytes, Some(64 << 20));
    assert_eq!(run.groups[0].resources.cpu_cores, Some(0.25));
}

#[test]
fn what_is_wrong_is_told_with_place_value_and_remedy() {
    let group = "[[groups]]\nid = \"a\"\ninstances = { count = 2 }\n";
    let case = global(group).replace("dial", "dail");
    assert!(
        refused(&case, "default")
            .contains("plan `mesh` has no case `dail` (its manifest has: dial)")
    );
    let few = global(&group.replace('2', "1"));
    assert!(
        refused(&few, "default")
            .contains("cannot run with 1 instances (its manifest allows 2 to 10)")
    );
    let many = global(&group.replace('2', "11"));
    assert!(refused(&many, "default").contains("cannot run with 11 instances"));
    let runner = global(group).replace("netns", "local:dcoker");
    assert!(refused(&runner, "default").contains("there is no runner `local:dcoker`"));
    let builder = global(&format!("builder = \"docker:go\"\n{group}"));
    assert!(
        refused(&builder, "default")
            .contains("composition.toml:5: plan `mesh` does not support builder `docker:go`")
    );
    let pipe = global(&format!("{group}run = {{ test_params = {{ p = \"a|b\" }} }}\n"));
    assert!(refused(&pipe, "default").contains("parameter `p` contains `|`"));
    let slash = global(&group.replace("\"a\"", "\"a/b\""));
    assert!(refused(&slash, "default").contains("`a/b` cannot be the id"));
    let twice = global(&format!("{group}{group}"));
    assert!(refused(&twice, "default").contains("`a` is the id of more than one group"));
    assert!(refused(&global(group), "nope").contains("there is no run `nope`"));
    assert!(refused("[global]\nplan = ", "default").contains("not valid TOML"));
}

#[test]
fn an_unknown_key_is_a_warning_that_guesses() {
    let text =
        global("buidler = \"x\"\n[[groups]]\nid = \"a\"\ninstances = { coutn = 2, count = 2 }\n");
    let (_, warnings) = Composition::parse("c.toml", &text, false).expect("tolerated");
    let told: Vec<String> = warnings.iter().map(|one| format!("{one} ({})", one.help)).collect();
    assert!(
        told[0].contains("c.toml:5: unknown key `buidler` in [global] (did you mean `builder`?)")
    );
    assert!(told[1].contains("did you mean `count`?"), "{told:?}");
    assert!(Composition::parse("c.toml", &text, true).is_err());
    let shown = warnings[0].render(false);
    assert!(shown.contains("buidler") && shown.contains("c.toml:5"), "{shown}");
}
