use proptest::prelude::*;

use super::*;
use crate::manifest::Manifest;
use crate::quotas::Quotas;

const MANIFEST: &str = r#"
name = "lib/mesh"
[builders]
"docker:generic" = { path = "manifest", keep = "manifest", enabled = true }
"exec:go" = {}
[runners]
"local:docker" = { log_level = "manifest", keep_containers = true }
"local:exec" = {}
[[testcases]]
name = "dial"
instances = { min = 1, max = 100000, default = 2 }
  [testcases.params]
  rounds = { type = "int", default = 3 }
  latency = { default = "100ms" }
  absent = { type = "int" }
"#;

const GLOBAL: &str = r#"
[global]
plan = "somewhere/mesh"
case = "dial"
builder = "docker:generic"
runner = "local:docker"
"#;

fn manifest() -> Manifest {
    Manifest::parse("manifest.toml", MANIFEST).expect("a valid manifest").0
}

fn parse(rest: &str) -> Result<(Composition, Vec<Diagnostic>), Diagnostics> {
    Composition::parse("c.toml", &format!("{GLOBAL}{rest}"), false)
}

fn run(rest: &str) -> Result<ResolvedRun, Diagnostics> {
    let (composition, _) = parse(rest)?;
    resolve(&composition, &manifest(), &run_ids(&composition)[0])
}

fn ok(rest: &str) -> ResolvedRun {
    run(rest).unwrap_or_else(|found| panic!("{}", found.render(false)))
}

fn err(rest: &str) -> String {
    run(rest).expect_err("it is wrong").to_string()
}

#[test]
fn without_runs_there_is_one_with_every_group() {
    let run = ok("total_instances = 3\n[[groups]]\nid = \"a\"\ninstances.count = 1\n\
        [[groups]]\nid = \"b\"\ninstances.count = 2\n");
    assert_eq!((run.id.as_str(), run.total_instances), (DEFAULT_RUN, 3));
    let groups: Vec<_> =
        run.groups.iter().map(|group| (group.id.as_str(), group.instances)).collect();
    assert_eq!(groups, [("a", 1), ("b", 2)]);
}

#[test]
fn the_plan_is_called_what_its_manifest_says_and_slashes_become_dashes() {
    assert_eq!(ok("[[groups]]\nid = \"a\"\ninstances.count = 1\n").plan, "lib-mesh");
}

#[test]
fn a_build_configuration_is_group_over_global_over_manifest_by_top_level_key() {
    let run = ok("[global.build_config]\nkeep = \"global\"\nargs = { a = 1, b = 2 }\n\
        [[groups]]\nid = \"a\"\ninstances.count = 1\nbuild_config = { args = { a = 3 } }\n");
    let config = &run.groups[0].build.as_ref().expect("it is built").config;
    let config = serde_json::to_value(config).expect("a configuration is JSON");
    assert_eq!(
        config,
        serde_json::json!({ "path": "manifest", "keep": "global", "args": { "a": 3 } })
    );
}

#[test]
fn a_runner_configuration_is_composition_over_manifest() {
    let run = ok("[global.run_config]\nLog_Level = \"debug\"\nlog_level = \"info\"\n\
        outcomes_collection_timeout = \"2s\"\nrun_timeout_min = 3\nlog_cap_bytes = \"1Mi\"\n\
        outputs_files = 20\nsync_bytes = \"1Ki\"\nread_only_root = true\n\
        [[groups]]\nid = \"a\"\ninstances.count = 1\n");
    assert_eq!(run.options.log_level, "info");
    assert!(run.options.keep_containers);
    assert_eq!(run.options.log_cap_bytes, 1 << 20);
    let usual = Quotas::default();
    let wanted = Quotas { outputs_files: 20, sync_bytes: 1024, ..usual };
    assert_eq!((run.options.quotas, run.options.read_only_root), (wanted, true));
    assert_eq!(run.outcome_grace, Duration::from_secs(2));
    assert_eq!(run.timeout, Some(Duration::from_secs(180)));
    assert!(
        err("run_config = { ulimits = 3 }\n[[groups]]\nid = \"a\"\ninstances.count = 1\n")
            .contains("runner option `ulimits` must be a list")
    );
}

#[test]
fn a_parameter_is_run_group_over_run_over_group_over_global_over_manifest() {
    let layers = |run_group: &str, run: &str, group: &str, global: &str| {
        let run = ok(&format!(
            "[global.run.test_params]\nrounds = \"{global}\"\n[global.run.env]\nE = \"{global}\"\n\
             [[groups]]\nid = \"a\"\ninstances.count = 1\nrun.test_params.rounds = \"{group}\"\nrun.env.E = \"{group}\"\n\
             [[runs]]\nid = \"r\"\ntest_params.rounds = \"{run}\"\nenv.E = \"{run}\"\n\
             [[runs.groups]]\nid = \"x\"\ngroup_id = \"a\"\ntest_params.rounds = \"{run_group}\"\nenv.E = \"{run_group}\"\n"
        ));
        (run.groups[0].params["rounds"].clone(), run.groups[0].env["E"].clone())
    };
    let both = |text: &str| (text.to_owned(), text.to_owned());
    assert_eq!(layers("rg", "r", "g", "gl"), both("rg"));
    assert_eq!(layers("", "r", "g", "gl"), both("r"));
    assert_eq!(layers("", "", "g", "gl"), both("g"));
    assert_eq!(layers("", "", "", "gl"), both("gl"));
    assert_eq!(layers("", "", "", ""), ("3".to_owned(), String::new()));
}

#[test]
fn parameters_are_texts_whatever_their_type_and_default_to_the_manifest() {
    let run = ok("[[groups]]\nid = \"a\"\ninstances.count = 1\n\
        run.test_params = { flag = true, n = 5, f = 0.5, t = \"x\" }\n");
    let params = crate::instance_env::pack_params(&run.groups[0].params);
    assert_eq!(params, "absent=null|f=0.5|flag=true|latency=100ms|n=5|rounds=3|t=x");
}

#[test]
fn a_separator_in_a_parameter_is_refused_and_an_equals_sign_warned_about() {
    let group = |param: &str| {
        format!("[[groups]]\nid = \"a\"\ninstances.count = 1\nrun.test_params = {{ {param} }}\n")
    };
    assert!(err(&group("p = \"a|b\"")).contains("cannot reach an instance"));
    let (_, warnings) = parse(&group("p = \"a=b\"")).expect("only a warning");
    assert!(warnings[0].message.contains("contains `=`"), "{warnings:?}");
    let run = ok(&group("latancy = \"1s\""));
    assert_eq!(run.warnings[0].help, "did you mean `latency`?");
}

#[test]
fn a_runs_group_inherits_each_field_it_does_not_give() {
    let run = ok(
        "[[groups]]\nid = \"a\"\ninstances.count = 2\nresources = { memory = \"1Gi\", cpu = \"500m\" }\n\
        run.profiles = { cpu = \"true\" }\n[[runs]]\nid = \"r\"\ntotal_instances = 5\n\
        [[runs.groups]]\nid = \"a\"\n[[runs.groups]]\nid = \"b\"\ngroup_id = \"a\"\n\
        instances.count = 3\nresources.memory = \"2Gi\"\n",
    );
    assert_eq!((run.groups[0].instances, run.groups[1].instances), (2, 3));
    assert_eq!(run.groups[0].resources.memory_bytes, Some(1 << 30));
    assert_eq!(run.groups[1].resources.memory_bytes, Some(2 << 30));
    assert_eq!(run.groups[1].resources.cpu_cores, Some(0.5));
    assert_eq!(run.groups[1].profiles["cpu"], "true");
    assert_eq!(run.groups[1].build_group, "a");
}

#[test]
fn a_count_wins_over_an_inherited_percentage_and_needs_no_total() {
    let run = ok("[[groups]]\nid = \"a\"\ninstances.percentage = 0.5\n\
        [[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"a\"\ninstances.count = 3\n");
    assert_eq!(run.total_instances, 3);
    let both = "[[groups]]\nid = \"a\"\ninstances = { count = 1, percentage = 0.5 }\n";
    let (_, warnings) = parse(both).expect("Testground takes it");
    assert_eq!(warnings[0].message, "`percentage` beside `count`");
    assert!(Composition::parse("c.toml", &format!("{GLOBAL}{both}"), true).is_err());
}

#[test]
fn an_explicit_run_does_not_inherit_the_global_total() {
    let text = "total_instances = 4\n[[groups]]\nid = \"a\"\ninstances.percentage = 1.0\n\
        [[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"a\"\n";
    assert!(err(text).contains("which does not say of how many"));
}

#[test]
fn the_sum_must_be_the_total() {
    assert!(
        err("total_instances = 3\n[[groups]]\nid = \"a\"\ninstances.count = 2\n")
            .contains("add up to 2 instances, not 3")
    );
}

#[test]
fn each_instance_needs_an_address() {
    let text = |count: u32| format!("[[groups]]\nid = \"a\"\ninstances.count = {count}\n");
    assert!(err(&text(65_534)).contains("has 65533 addresses, and 65534 instances need one each"));
    assert_eq!(ok(&text(65_533)).total_instances, 65_533);
}

#[test]
fn keys_are_matched_without_regard_to_case() {
    let run = ok("Disable_Metrics = true\n[[Groups]]\nID = \"a\"\nInstances = { Count = 2 }\n");
    assert!(run.disable_metrics);
    assert_eq!((run.groups[0].id.as_str(), run.total_instances), ("a", 2));
}

#[test]
fn ids_are_unique_known_and_names_of_directories() {
    let group = "[[groups]]\nid = \"a\"\ninstances.count = 1\n";
    assert!(err(&format!("{group}{group}")).contains("group `a` is there twice"));
    let run = "[[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"a\"\n";
    assert!(err(&format!("{group}{run}{run}")).contains("run `r` is there twice"));
    assert!(
        err(&format!("{group}{run}[[runs.groups]]\nid = \"a\"\n")).contains("group of the run `a`")
    );
    assert!(
        err(&format!("{group}{run}[[runs.groups]]\nid = \"b\"\n"))
            .contains("there is no group `b`")
    );
    assert!(err(&format!("{group}[[runs]]\nid = \"r\"\n")).contains("run `r` has no groups"));
    assert!(err("").contains("there are no groups"));
    for id in ["", ".", "..", "a/b", "a\\u0000b"] {
        let found = err(&format!("[[groups]]\nid = \"{id}\"\ninstances.count = 1\n"));
        assert!(found.contains("cannot name a directory"), "{id}: {found}");
    }
}

#[test]
fn builders_and_runners_must_be_known_supported_and_fit() {
    let with = |builder: &str, runner: &str| {
        let global = GLOBAL.replace("docker:generic", builder).replace("local:docker", runner);
        let text = format!("{global}[[groups]]\nid = \"a\"\ninstances.count = 1\n");
        let (composition, _) = Composition::parse("c.toml", &text, false)?;
        resolve(&composition, &manifest(), "default")
    };
    let runtime = |runner| with("docker:generic", runner).expect("it is supported").runtime;
    assert_eq!(runtime("local:docker"), RuntimeKind::Docker);
    assert_eq!(runtime("cluster:k8s"), RuntimeKind::Docker);
    assert_eq!(runtime("docker"), RuntimeKind::Docker);
    assert_eq!(runtime("local:exec"), RuntimeKind::Netns);
    assert_eq!(runtime("netns"), RuntimeKind::Netns);
    let err = |builder, runner| with(builder, runner).expect_err("it is wrong").to_string();
    assert!(err("docker:generic", "cluster:swarm").contains("there is no runner `cluster:swarm`"));
    assert!(err("docker:gneric", "netns").contains("there is no builder `docker:gneric`"));
    assert!(err("docker:go", "netns").contains("does not support builder `docker:go`"));
    assert!(with("exec:go", "local:docker").is_ok());
    assert!(with("exec:go", "local:exec").is_ok());
}

#[test]
fn groups_that_differ_only_by_a_dependencys_target_are_built_apart() {
    let group = |id: &str, target: &str| {
        format!(
            "[[groups]]\nid = \"{id}\"\ninstances.count = 1\n\
             build.dependencies = [{{ module = \"m\", version = \"v\", target = \"{target}\" }}]\n"
        )
    };
    let text = [group("a", "x"), group("b", "y"), group("c", "x")].concat();
    let (composition, _) = parse(&text).expect("it is valid");
    let builds = build_groups(&composition, &manifest()).expect("it can be built");
    let groups: Vec<_> = builds.iter().map(|build| build.groups.join("+")).collect();
    assert_eq!(groups, ["a+c", "b"]);
}

#[test]
fn unknown_keys_are_warnings_or_under_strict_errors() {
    let text =
        format!("{GLOBAL}docker_build_image = true\n[[groups]]\nid = \"a\"\ninstance.count = 1\n");
    let (_, warnings) = Composition::parse("c.toml", &text, false).expect("only a warning");
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].to_string(), "c.toml:10: unknown key `instance` in `groups`");
    assert_eq!(warnings[0].help, "did you mean `instances`?");
    assert!(Composition::parse("c.toml", &text, true).is_err());
}

#[test]
fn a_command_line_is_a_composition_of_one_group() {
    let single = Single {
        plan: "/plans/\"mesh\"".to_owned(),
        case: "dial".to_owned(),
        instances: 7,
        runner: "netns".to_owned(),
        builder: "docker:generic".to_owned(),
        params: BTreeMap::from([("key with space".to_owned(), "a\"b\nc".to_owned())]),
    };
    let composition = Composition::single(&single).expect("it is valid");
    assert_eq!(composition.plan(), single.plan);
    let run = resolve(&composition, &manifest(), DEFAULT_RUN).expect("it can run");
    assert_eq!((run.groups[0].id.as_str(), run.total_instances), ("single", 7));
    assert_eq!(run.groups[0].params["key with space"], "a\"b\nc");
    assert_eq!(
        Composition::parse("x", composition.text(), true).expect("it is valid").0.plan(),
        single.plan
    );
}

#[test]
fn what_a_template_made_of_a_file_is_named_as_such() {
    let text = format!("{{{{ $n := 1 }}}}{GLOBAL}[[groups]]\nid = 3\n");
    let found =
        Composition::load("c.toml", &text, &BTreeMap::new(), &|_| Err(String::new()), false);
    let found = found.expect_err("an id is a text").to_string();
    assert!(found.starts_with("c.toml (after templating):8: `id` must be a text"), "{found}");
}

proptest! {
    #[test]
    fn counts_add_up_to_the_total(counts in prop::collection::vec(1..500_u32, 1..8)) {
        let group = |(i, count): (usize, &u32)| format!("[[groups]]\nid = \"g{i}\"\ninstances.count = {count}\n");
        let run = ok(&counts.iter().enumerate().map(group).collect::<String>());
        prop_assert_eq!(run.total_instances, counts.iter().sum::<u32>());
        prop_assert_eq!(run.groups.iter().map(|group| group.instances).collect::<Vec<_>>(), counts);
    }

    #[test]
    fn percentages_of_everything_add_up_to_the_total(
        total in 1..10_000_u32,
        cut in 0..=100_u32,
    ) {
        let rest = 100 - cut;
        let run = ok(&format!(
            "total_instances = {total}\n[[groups]]\nid = \"a\"\ninstances.percentage = \"{cut}%\"\n\
             [[groups]]\nid = \"b\"\ninstances.percentage = {:?}\n", f64::from(rest) / 100.0,
        ));
        prop_assert_eq!(run.groups.iter().map(|group| group.instances).sum::<u32>(), total);
        let off = f64::from(run.groups[0].instances) - f64::from(cut) * f64::from(total) / 100.0;
        prop_assert!(off.abs() < 1.0, "{} is {} off", run.groups[0].instances, off);
    }
}

#[test]
fn the_rest_is_what_the_others_leave() {
    let groups = |shares: &str| {
        let group = |(i, share)| format!("[[groups]]\nid = \"g{i}\"\ninstances = {{ {share} }}\n");
        let groups: String = shares.split('|').enumerate().map(group).collect();
        format!("total_instances = 10\n{groups}")
    };
    let sizes = |shares: &str| {
        ok(&groups(shares)).groups.iter().map(|group| group.instances).collect::<Vec<_>>()
    };
    let thirds = "percentage = \"33.3%\"|percentage = \"33.3%\"|percentage = \"33.3%\"";
    assert_eq!(sizes(thirds), [4, 3, 3]);
    assert_eq!(sizes("percentage = \"10%\"|rest = true|count = 2"), [1, 7, 2]);
    assert_eq!(sizes("rest = true"), [10]);
    let refused = [
        ("percentage = \"60%\"|percentage = 0.5", "add up to 110 %, 10 % too much"),
        ("count = 12|rest = true", "the other groups have 12 of 10 instances, 2 too many"),
        ("rest = true|rest = true", "two groups have the rest"),
        ("count = 1, rest = true", "`rest` beside `count` or `percentage`"),
        ("percentage = \"half\"", "`percentage` is `half`, not a percentage"),
        ("percentage = \"120%\"", "percentage 120% is not a fraction of the run"),
        ("percentage = \"40%\"|count = 2", "takes the 4 left"),
    ];
    for (shares, says) in refused {
        let found = run(&groups(shares)).expect_err(shares).render(false);
        assert!(found.contains(says), "{shares}: {found}");
    }
    let alone = err("[[groups]]\nid = \"a\"\ninstances = { rest = true }\n");
    assert!(alone.contains("the rest of run `default`, which does not say of how many"), "{alone}");
}

#[test]
fn a_group_says_what_it_reaches_outside() {
    let run = ok("[[groups]]\nid = \"a\"\ninstances.count = 2\n\
        egress = { allow = true, rate = \"10Mbit\", hosts = [\"example.org\", \"10.1.0.0/16\"] }\n");
    let egress = &run.groups[0].egress;
    assert_eq!((egress.allow, egress.rate_bps), (true, Some(10_000_000)));
    assert_eq!(egress.hosts, ["example.org", "10.1.0.0/16"]);
    let wrong = err("[[groups]]\nid = \"a\"\ninstances.count = 2\n\
        egress = { rate = \"fast\", hosts = [\"::1\"] }\n");
    assert!(wrong.contains("`rate` is `fast`") && wrong.contains("`::1` is not a host"), "{wrong}");
    let wrong = err("[global.run_config]\nadditional_hosts = [\"a b\"]\n\
        [[groups]]\nid = \"a\"\ninstances.count = 2\n");
    assert!(wrong.contains("`additional_hosts` must be a list of host names"), "{wrong}");
}

#[test]
fn a_composition_says_which_workers_it_wants_and_how_soon() {
    let run = ok(
        "priority = \"batch\"\non_lost = \"retry_run(2)\"\n[global.placement]\nspread = \"zone\"\nper_worker = 50\n\
        exclusive = true\nrequire = { kind = [\"metal\", \"ec2\"] }\n\
        [[groups]]\nid = \"a\"\ninstances.count = 2\n\
        placement = { require = { zone = \"x\" }, apart_from = [\"b\"], per_worker = 1 }\n\
        [[groups]]\nid = \"b\"\ninstances.count = 2\n\
        [[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"a\"\n\
        [[runs.groups]]\nid = \"b1\"\ngroup_id = \"b\"\n[[runs.groups]]\nid = \"b2\"\ngroup_id = \"b\"\n",
    );
    assert_eq!(run.priority, Some(Priority::Batch));
    assert_eq!(run.on_lost, OnLost::RetryRun(2));
    let asked = &run.placement;
    assert_eq!((asked.spread.as_deref(), asked.per_worker), (Some("zone"), Some(50)));
    assert!(asked.exclusive && asked.pack.is_none());
    assert_eq!(asked.require["kind"], ["metal", "ec2"]);
    let of_group = &run.groups[0].placement;
    assert_eq!(of_group.require["zone"], ["x"]);
    assert_eq!(of_group.apart_from, ["b1", "b2"], "by their names in the run");
    assert_eq!(of_group.per_worker, Some(1));
    assert_eq!(run.groups[1].placement, GroupPlacement::default());
}

#[test]
fn a_wrong_wish_for_workers_is_found_at_its_place() {
    let wrong = err(
        "priority = \"now\"\non_lost = \"tolerate(5)\"\n[global.placement]\nspread = \"zone\"\npack = true\n\
        per_worker = 0\nrequire = { zone = [] }\n[[groups]]\nid = \"a\"\ninstances.count = 2\n\
        placement.apart_from = [\"a\", \"c\"]\n",
    );
    for part in [
        "c.toml:7: there is no priority `now`",
        "c.toml:8: `on_lost` is `tolerate(5)`",
        "c.toml:10: `spread` beside `pack`",
        "c.toml:12: `per_worker` is 0",
        "c.toml:13: `require` must have a text or a list of texts",
        "c.toml:17: group `a` is to keep apart from itself",
        "c.toml:17: there is no group `c`",
    ] {
        assert!(wrong.contains(part), "{part} in {wrong}");
    }
}
