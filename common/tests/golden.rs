//! The stock compositions' ways of writing, from file to resolved run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use groundswell_common::composition::{
    Composition, ResolvedGroup, ResolvedRun, build_groups, resolve, run_ids,
};
use groundswell_common::diagnostic::Diagnostics;
use groundswell_common::instance_env::pack_params;
use groundswell_common::manifest::Manifest;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
}

fn read(name: &str) -> Result<String, String> {
    std::fs::read_to_string(path(name)).map_err(|err| err.to_string())
}

/// Everything that follows from one composition and its plan's manifest.
fn golden(plan: &str, file: &str, env: &[(&str, &str)]) -> Result<String, Diagnostics> {
    let env: BTreeMap<_, _> =
        env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let manifest = read(&format!("{plan}/manifest.toml")).expect("the fixture has a manifest");
    let (manifest, warnings) = Manifest::parse("manifest.toml", &manifest)?;
    let mut out = String::new();
    for warning in warnings {
        writeln!(out, "warning {warning}").expect("a string takes any text");
    }
    let text = read(&format!("{plan}/{file}")).expect("the fixture has a composition");
    let load = |name: &str| read(&format!("{plan}/{name}"));
    let (composition, warnings) = Composition::load(file, &text, &env, &load, false)?;
    for warning in warnings {
        writeln!(out, "warning {warning}").expect("a string takes any text");
    }
    for build in build_groups(&composition, &manifest)? {
        let input = serde_json::to_string(&build.input).expect("a build input is JSON");
        writeln!(out, "build {} {input}", build.groups.join("+")).expect("a string takes any text");
    }
    for id in run_ids(&composition) {
        show(&mut out, &resolve(&composition, &manifest, &id)?);
    }
    Ok(out)
}

fn show(out: &mut String, run: &ResolvedRun) {
    let line = format!(
        "run `{}` {} {} on {} as {}, {} instances, grace {:?}, timeout {:?}, seed {:?}, no metrics {}, builds {}\n  {:?}",
        run.id,
        run.plan,
        run.case,
        run.runner,
        run.runtime.as_str(),
        run.total_instances,
        run.outcome_grace,
        run.timeout,
        run.seed,
        run.disable_metrics,
        run.concurrent_builds,
        run.options,
    );
    writeln!(out, "{line}").expect("a string takes any text");
    for warning in &run.warnings {
        writeln!(out, "  warning {warning}").expect("a string takes any text");
    }
    for group in &run.groups {
        show_group(out, group);
    }
}

fn show_group(out: &mut String, group: &ResolvedGroup) {
    let line = format!(
        "  group {} of {} x{} by {:?} artifact {:?} key {:.8}\n    params {} | env {:?} | profiles {:?} | {:?}",
        group.id,
        group.build_group,
        group.instances,
        group.builder,
        group.artifact,
        group.build_key,
        pack_params(&group.params),
        group.env,
        group.profiles,
        group.resources,
    );
    writeln!(out, "{line}").expect("a string takes any text");
}

macro_rules! golden {
    ($name:ident, $plan:literal, $file:literal, $env:expr) => {
        #[test]
        fn $name() {
            let shown = golden($plan, $file, $env)
                .unwrap_or_else(|found| panic!("{}", found.render(false)));
            insta::with_settings!({ snapshot_path => "golden/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(stringify!($name), shown);
            });
        }
    };
}

golden!(placebo_ok_on_a_cluster, "placebo", "ok.toml", &[]);
golden!(network_ping_pong_by_percentage, "network", "ping-pong.toml", &[]);
golden!(several_runs_of_one_group, "runs", "success.toml", &[]);
golden!(runs_in_alphabetical_order, "runs", "continue-on-failure.toml", &[]);
golden!(mixed_builders_and_an_artifact, "mixed", "mixed.toml", &[]);
golden!(a_run_for_each_pair_of_versions, "ping-rust", "cross.toml", &[("TRANSPORT", "quic")]);
golden!(a_benchmark_of_any_size, "benchmarks", "barrier.toml", &[("N", "8")]);
golden!(a_benchmark_of_the_default_size, "benchmarks", "barrier.toml", &[]);

const MANIFEST: &str = r#"
name = "mesh"
builders = { "docker:generic" = {} }
runners = { "local:docker" = {} }
[[testcases]]
name = "dial"
instances = { min = 2, max = 4, default = 2 }
  [testcases.params]
  rounds = { type = "int", default = 3 }
"#;

const GLOBAL: &str = "[global]\nplan = \"mesh\"\ncase = \"dial\"\nbuilder = \"docker:generic\"\nrunner = \"local:docker\"\n";

/// Everything people see of what is wrong with a composition.
fn trouble(text: &str, strict: bool) -> String {
    let (manifest, _) = Manifest::parse("manifest.toml", MANIFEST).expect("a valid manifest");
    let load = |_: &str| Err("no such file".to_owned());
    Composition::load("composition.toml", text, &BTreeMap::new(), &load, strict)
        .and_then(|(composition, _)| {
            resolve(&composition, &manifest, "default").and(build_groups(&composition, &manifest))
        })
        .expect_err("the composition is wrong")
        .render(false)
}

macro_rules! wrong {
    ($name:ident, $text:expr) => {
        #[test]
        fn $name() {
            insta::with_settings!({ snapshot_path => "golden/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(stringify!($name), trouble(&$text, true));
            });
        }
    };
}

wrong!(
    wrong_unknown_key,
    format!("{GLOBAL}total_instance = 2\n[[groups]]\nid = \"a\"\ninstances = {{ cuont = 2 }}\n")
);
wrong!(
    wrong_case,
    format!(
        "{}[[groups]]\nid = \"a\"\ninstances = {{ count = 2 }}\n",
        GLOBAL.replace("\"dial\"", "\"dail\"")
    )
);
wrong!(
    wrong_runner_and_builder,
    format!(
        "{}[[groups]]\nid = \"a\"\ninstances = {{ count = 2 }}\n",
        GLOBAL.replace("local:docker", "local:dokcer").replace("docker:generic", "docker:generc")
    )
);
wrong!(
    wrong_too_few_instances,
    format!("{GLOBAL}[[groups]]\nid = \"a\"\ninstances = {{ count = 1 }}\n")
);
wrong!(
    wrong_too_many_instances,
    format!(
        "{GLOBAL}[[groups]]\nid = \"a\"\ninstances = {{ count = 2 }}\n[[groups]]\nid = \"b\"\ninstances = {{ count = 3 }}\n"
    )
);
wrong!(
    wrong_percentages,
    format!(
        "{GLOBAL}total_instances = 4\n[[groups]]\nid = \"a\"\ninstances = {{ percentage = 0.25 }}\n[[groups]]\nid = \"b\"\ninstances = {{ percentage = 0.25 }}\n"
    )
);
wrong!(
    wrong_percentage_without_total,
    format!("{GLOBAL}[[groups]]\nid = \"a\"\ninstances = {{ percentage = 1.0 }}\n")
);
wrong!(wrong_template, format!("{GLOBAL}[[groups]]\nid = \"{{{{ splitt .Env.A }}}}\"\n"));
wrong!(wrong_toml, format!("{GLOBAL}[[groups]]\nid = a\n"));
wrong!(
    wrong_types,
    format!(
        "{GLOBAL}disable_metrics = \"yes\"\n[[groups]]\nid = 3\n[[groups]]\nid = \"../b\"\ninstances = {{ count = \"2\" }}\nresources = {{ memory = \"lots\" }}\n"
    )
);
wrong!(
    wrong_param_separator,
    format!(
        "{GLOBAL}[[groups]]\nid = \"a\"\ninstances = {{ count = 2 }}\n[groups.run.test_params]\nlist = \"a|b\"\n"
    )
);
