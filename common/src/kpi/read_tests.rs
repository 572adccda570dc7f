//! Manifests and compositions as people write them.

use std::collections::BTreeSet;

use crate::composition::{Composition, ResolvedRun, resolve};
use crate::diagnostic::Diagnostics;
use crate::fidelity::Grade;
use crate::kpi::{Check, Gates};
use crate::manifest::Manifest;

const MANIFEST: &str = r#"
name = "mesh"
builders = { "docker:generic" = {} }
runners = { "local:docker" = {} }
[[testcases]]
name = "dial"
instances = { min = 1, max = 4, default = 2 }
  [testcases.params]
  timeout = { type = "duration", default = "30s" }
  transport = { default = "tcp" }
  [[testcases.kpis]]
  name = "time_to_dial"
  unit = "ms"
  better = "lower"
  desc = "from the first packet to the handshake"
  [[testcases.kpis]]
  name = "errors"
  unit = "count"
  [[testcases.kpis]]
  name = "dials"
  unit = "count"
"#;

const COMPOSITION: &str = r#"
[global]
plan = "mesh"
case = "dial"
builder = "docker:generic"
runner = "local:docker"
[[groups]]
id = "a"
instances = { count = 2 }
resources = { memory = "64Mi" }
[[groups]]
id = "b"
instances = { count = 1 }
[groups.run.test_params]
timeout = "500ms"
transport = "quic"
"#;

const ALL: &str = r#"
  [[testcases.expect]]
  kpi = "time_to_dial"
  stat = "p95"
  op = "<"
  value = "0.2 s"
  tags = { phase = "warm" }
  [[testcases.expect]]
  name = "in time"
  kpi = "time_to_dial"
  stat = "max"
  op = "<="
  value = "$timeout"
  scope = "each_group"
  [[testcases.expect]]
  name = "few errors"
  kpi = "errors"
  per = "dials"
  stat = "sum"
  op = "<="
  value = "5 %"
  scope = "group:a"
  [[testcases.expect]]
  name = "quic only"
  kpi = "errors"
  stat = "count"
  op = ">="
  value = 1
  scope = "each_group"
  only_if = { transport = "quic" }
  [testcases.validity]
  host_busy = 0.5
  fds_ratio = false
"#;

fn run(manifest: &str, composition: &str) -> Result<ResolvedRun, Diagnostics> {
    let (manifest, _) = Manifest::parse("manifest.toml", &format!("{MANIFEST}{manifest}"))?;
    let text = COMPOSITION
        .replace("[[groups]]\nid = \"a\"", &format!("{composition}[[groups]]\nid = \"a\""));
    let (composition, _) = Composition::parse("composition.toml", &text, true)?;
    resolve(&composition, &manifest, "default")
}

fn wrong(manifest: &str, composition: &str) -> String {
    run(manifest, composition).expect_err("something is wrong").render(false)
}

fn shown(check: &Check) -> String {
    let Check { name, stat, op, limit, unit, group, .. } = check;
    format!("{name}: {} {op} {limit} {unit} {}", stat.as_str(), group.as_deref().unwrap_or("-"))
}

#[test]
fn expectations_are_resolved_for_the_groups_they_are_about() {
    let judging = run(ALL, "").expect("valid").judging;
    let shown: Vec<String> = judging.checks.iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            "time_to_dial.p95: p95 < 0.2 s -",
            "in time: max <= 30 s a",
            "in time: max <= 0.5 s b",
            "few errors: sum <= 0.05 ratio a",
            "quic only: count >= 1 count b",
        ]
    );
    assert_eq!(judging.checks[0].tags["phase"], "warm");
    assert_eq!(judging.memory_limited, BTreeSet::from(["a".to_owned()]));
    let gates = Gates { host_busy: Some(0.5), fds_ratio: None, ..Gates::default() };
    assert_eq!(judging.gates, Some(gates));
}

#[test]
fn a_composition_adds_replaces_and_switches_off() {
    let changes = r#"
[[global.expect]]
name = "in time"
off = "the links are slow here"
[[global.expect]]
kpi = "time_to_dial"
stat = "p95"
op = "<"
value = "100ms"
[[global.expect]]
kpi = "errors"
stat = "sum"
op = "=="
value = 0
[global.validity]
host_busy = false
fidelity = "good"
strict = true
"#;
    let judging = run(ALL, changes).expect("valid").judging;
    let names: Vec<&str> = judging.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["time_to_dial.p95", "few errors", "quic only", "errors.sum"]);
    assert_eq!(judging.checks[0].limit, 0.1);
    assert_eq!(judging.off, [("in time".to_owned(), "the links are slow here".to_owned())]);
    let gates = Gates {
        host_busy: None,
        fds_ratio: None,
        fidelity: Some(Grade::Good),
        strict: true,
        ..Gates::default()
    };
    assert_eq!(judging.gates, Some(gates));
}

#[test]
fn without_a_word_about_it_nothing_is_judged() {
    let judging = run("", "").expect("valid").judging;
    assert!(judging.checks.is_empty() && judging.off.is_empty() && judging.gates.is_none());
}

#[test]
fn a_manifest_that_expects_what_cannot_be_is_refused_at_its_place() {
    let text = wrong(
        r#"
  [[testcases.expect]]
  kpi = "time_to_dail"
  stat = "p96"
  op = "=<"
  value = "fast"
  scope = "all"
  [[testcases.expect]]
  kpi = "time_to_dail"
  stat = "p95"
  op = "<"
  value = "5 MB"
  [[testcases.expect]]
  kpi = "time_to_dial"
  stat = "p95"
  op = "<"
  value = "5 MB"
  [[testcases.expect]]
  kpi = "time_to_dial"
  stat = "mean"
  per = "dials"
  op = "<"
  value = "$timeuot"
  [[testcases.expect]]
  kpi = "dials"
  stat = "sum"
  op = "<"
  value = 3
  [[testcases.expect]]
  kpi = "dials"
  stat = "sum"
  op = ">"
  value = 1
  [[testcases.expect]]
  [testcases.validity]
  host_busy = "much"
  fidelity = "perfect"
"#,
        "",
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_composition_that_expects_what_cannot_be_is_refused_at_its_place() {
    let changes = r#"
[[global.expect]]
name = "in tme"
off = "slow"
[[global.expect]]
off = ""
[[global.expect]]
kpi = "latency"
stat = "p95"
op = "<"
value = 1
"#;
    insta::assert_snapshot!(wrong(ALL, changes));
    let changes = r#"
[[global.expect]]
name = "in tme"
off = "slow"
[[global.expect]]
kpi = "latency"
stat = "p95"
op = "<"
value = 1
[[global.expect]]
kpi = "errors"
stat = "sum"
op = "<"
value = "$timeout"
"#;
    insta::assert_snapshot!(wrong(ALL, changes));
}
