mod narrative;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::composition::{Composition, ResolvedRun, resolve};
use crate::diagnostic::Diagnostics;
use crate::manifest::Manifest;

const MANIFEST: &str = r#"
name = "mesh"
[builders."docker:generic"]
[runners."local:docker"]
[[testcases]]
name = "dial"
instances = { min = 1, max = 1000, default = 2 }
"#;

const GLOBAL: &str = "[global]\nplan = \"mesh\"\ncase = \"dial\"\nbuilder = \"docker:generic\"\n\
                      runner = \"local:docker\"\ntimeout = \"1m\"\n";

/// Three groups, two of them in one region.
const GROUPS: &str = r#"
[[groups]]
id = "a"
region = "eu"
instances = { count = 2 }
[[groups]]
id = "b"
region = "us"
instances = { count = 1 }
[[groups]]
id = "c"
region = "us"
instances = { count = 1 }
"#;

const MATRIX: &str = "from,eu,us,asia\neu,1,40,90\nus,42.5,2,80ms\nasia,90,80,3\n";

fn resolved(rest: &str, files: &[(&str, &str)]) -> Result<ResolvedRun, Diagnostics> {
    let text = format!("{GLOBAL}{rest}");
    let (manifest, _) = Manifest::parse("manifest.toml", MANIFEST)?;
    let load = |name: &str| {
        let found = files.iter().find(|(file, _)| *file == name);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "no such file".to_owned())
    };
    let none = BTreeMap::new();
    let (composition, _) = Composition::load("c.toml", &text, &none, &load, true)?;
    let run = resolve(&composition, &manifest, "default")?;
    // What the command line has read is all that the coordinator needs.
    let (again, _) =
        Composition::parse_with("c.toml", composition.text(), composition.attachments())?;
    assert_eq!(resolve(&again, &manifest, "default")?.network, run.network);
    Ok(run)
}

/// The network in lines for people.
fn shown(rest: &str, files: &[(&str, &str)]) -> String {
    let run = resolved(rest, files).unwrap_or_else(|found| panic!("{}", found.render(false)));
    let mut out = String::new();
    for warning in &run.warnings {
        writeln!(out, "warning {warning}").expect("a string takes any text");
    }
    let plan = &run.network;
    let json = |value: &dyn erased::Json| value.json();
    for (class, group) in run.groups.iter().enumerate() {
        writeln!(out, "{} {}", group.id, json(&plan.classes[class])).expect("as above");
        if let Some(nat) = plan.nat(class) {
            writeln!(out, "  behind {}: {}", nat.title(), json(nat)).expect("as above");
        }
        for (to, other) in run.groups.iter().enumerate() {
            let path = plan.path(class, to);
            writeln!(out, "  to {} {}", other.id, json(&path)).expect("as above");
        }
    }
    for firing in &plan.schedule {
        let seconds = firing.at.as_secs_f64();
        writeln!(out, "{seconds:.3} {}: {}", firing.text, json(&firing.action)).expect("as above");
    }
    writeln!(out, "{}", plan.summary().unwrap_or_default()).expect("as above");
    out
}

/// Values as JSON, with durations as people write them.
mod erased {
    pub(super) trait Json {
        fn json(&self) -> String;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            let text = serde_json::to_string(self).expect("plain data");
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some(at) = rest.find(r#"{"secs":"#) {
                out.push_str(&rest[..at]);
                let end = at + rest[at..].find('}').expect("it ends") + 1;
                let time: std::time::Duration =
                    serde_json::from_str(&rest[at..end]).expect("a duration");
                out.push_str(&format!("{time:?}"));
                rest = &rest[end..];
            }
            out + rest
        }
    }
}

/// Everything people see of what is wrong.
fn wrong(rest: &str, files: &[(&str, &str)]) -> String {
    resolved(rest, files).expect_err("it is wrong").render(false)
}

macro_rules! golden {
    ($name:ident, $shown:expr) => {
        #[test]
        fn $name() {
            insta::with_settings!({ snapshot_path => "../../../tests/golden/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(concat!("network_", stringify!($name)), $shown);
            });
        }
    };
}

golden!(
    a_matrix_with_links_over_it,
    shown(
        &format!(
            "{GROUPS}[groups.link]\nlatency = \"5ms\"\nupload = \"2Mbit\"\ndownload = \"20Mbit\"\nloss = \"0.5%\"\nloss_correlation = \"25%\"\n\
             [network]\nmatrix = \"world.csv\"\n\
             [[links]]\nfrom = \"region:us\"\nto = \"a\"\njitter = \"3ms\"\ndistribution = \"pareto\"\n\
             [[links]]\nfrom = \"c\"\nto = [\"a\", \"region:eu\"]\nboth = false\nlatency = \"1s\"\nbandwidth = \"1Gbit\"\n"
        ),
        &[("world.csv", MATRIX)]
    )
);
golden!(
    cities,
    shown(
        &format!(
            "{}[network]\nmodel = \"cities\"\n",
            GROUPS.replace("\"eu\"", "\"london\"").replace("\"us\"", "\"Tokyo\"")
        ),
        &[]
    )
);
golden!(
    a_schedule,
    shown(
        &format!(
            "{GROUPS}\
             [[schedule]]\nat = \"5s\"\nfor = \"2s\"\nevery = \"20s\"\nkind = \"partition\"\nfrom = \"region:us\"\nto = \"a\"\nname = \"atlantic\"\n\
             [[schedule]]\nat = \"10s\"\nkind = \"reshape\"\non = \"*\"\nloss = \"4%\"\nramp = \"200ms\"\nfor = \"1s\"\n\
             [[schedule]]\nat = \"11s\"\nkind = \"reshape\"\nfrom = \"b\"\nto = \"c\"\nlatency = \"9ms\"\n\
             [[schedule]]\nat = \"12s\"\nkind = \"flap\"\non = \"b\"\nmode = \"silent\"\nfor = \"500ms\"\nevery = \"1s\"\ntimes = 2\n\
             [[schedule]]\nat = \"26s\"\nkind = \"heal\"\nof = \"atlantic\"\n\
             [[schedule]]\nat = \"30s\"\nkind = \"trace\"\non = \"a\"\nfile = \"cell.trace\"\ndirection = \"both\"\nfor = \"250ms\"\n"
        ),
        &[("cell.trace", "10\n20\n30\n110\n150\n200\n")]
    )
);
golden!(
    measured_between_servers,
    shown(
        &format!("{GROUPS}[network]\nwondernetwork = \"pings.csv\"\nservers = \"servers.csv\"\n"),
        &[
            (
                "pings.csv",
                "\"0\",\"3\",\"2026-01-01 00:00:17.000\",\"79\",\"80\",\"82\",\"2\"\n\
                 \"0\",\"3\",\"2026-01-01 01:00:17.000\",\"81\",\"84\",\"90\",\"4\"\n"
            ),
            ("servers.csv", "\"0\",\"eu\",\"Some, City\"\n\"3\",\"us\",\"Another\"\n")
        ]
    )
);
golden!(
    a_king_matrix,
    shown(
        &format!(
            "{}[network]\nking = \"matrix\"\n",
            GROUPS.replace("\"eu\"", "\"0\"").replace("\"us\"", "\"2\"")
        ),
        &[("matrix", "0 5000 30000\n5000 0 -1\n31000 -1 0\n")]
    )
);
golden!(
    a_graph_of_shadow,
    shown(
        &format!("{GROUPS}[network]\nshadow = \"graph.gml\"\n"),
        &[(
            "graph.gml",
            "graph [\n directed 0\n node [ id 0 label \"eu\" host_bandwidth_up \"10 Mbit\" host_bandwidth_down \"100 Mbit\" ]\n\
             node [ id 1 label \"us\" ]\n node [ id 2 ]\n\
             edge [ source 0 target 0 latency \"1 ms\" ]\n edge [ source 1 target 1 latency \"2 ms\" ]\n\
             edge [ source 0 target 1 latency \"90 ms\" ]\n\
             edge [ source 0 target 2 latency \"10 ms\" packet_loss 0.1 ]\n edge [ source 2 target 1 latency \"30 ms\" jitter \"1 ms\" packet_loss 0.5 ]\n]\n"
        )]
    )
);

golden!(
    nats,
    shown(
        &format!(
            "{GROUPS}[groups.nat]\nkind = \"port-restricted\"\nmembers = 3\nmapping_timeout = \"30s\"\nhairpin = false\n\
             forwards = [{{ port = 4001, member = 2 }}, {{ port = 80, to = 8080, protocol = \"tcp\" }}]\n\
             [groups.nat.outer]\nkind = \"symmetric\"\nmembers = 100\nipv6 = \"open\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"rebind\"\non = \"*\"\n\
             [[schedule]]\nat = \"2s\"\nevery = \"10s\"\ntimes = 2\nkind = \"readdress\"\non = [\"a\", \"c\"]\n"
        ),
        &[]
    )
);
golden!(
    wrong_nats,
    wrong(
        &format!(
            "{GROUPS}[groups.nat]\nkind = \"conical\"\nmembers = 0\nlan = \"16.9.0.0/24\"\nmapping_timeout = \"1500ms\"\n\
             forwards = [{{ port = 0 }}, {{ to = 1 }}, {{ port = 5, member = 2, protocol = \"sctp\" }}]\n\
             [groups.nat.outer]\nlan = \"192.168.0.0/16\"\n\
             [[groups]]\nid = \"d\"\ninstances = {{ count = 1 }}\n\
             [groups.nat]\nkind = \"symmetric\"\nlan = \"10.0.0.0/29\"\nmembers = 6\nkinds = 1\n\
             [[groups]]\nid = \"e\"\ninstances = {{ count = 1 }}\n\
             [groups.nat]\nkind = \"symmetric\"\nlan = \"127.0.0.0/8\"\nforwards = [{{ port = 7 }}, {{ port = 7, protocol = \"udp\" }}]\n\
             [[groups]]\nid = \"f\"\ninstances = {{ count = 1 }}\n\
             [groups.nat]\nkind = \"symmetric\"\nlan = \"home\"\nipv6 = \"opne\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"rebind\"\non = \"a\"\nfor = \"1s\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"readdress\"\n"
        ),
        &[]
    )
);
golden!(
    wrong_links,
    wrong(
        &format!(
            "{GROUPS}[groups.link]\nlatency = 5\nupload = \"fast\"\nloss = \"120%\"\nduplicate = \"-1%\"\njitter = \"-5ms\"\nbandwidht = \"1Mbit\"\n\
             [[links]]\nfrom = \"eu\"\nto = \"region:uk\"\nlatency = \"1ms\"\n\
             [[links]]\nfrom = \"d\"\nto = \"*\"\ndistribution = \"parteo\"\n\
             [[links]]\nto = []\n"
        ),
        &[]
    )
);
golden!(
    wrong_regions,
    wrong(
        &format!("{}[network]\nmatrix = \"world.csv\"\n", GROUPS.replace("\"us\"", "\"asai\"")),
        &[("world.csv", MATRIX)]
    )
);
golden!(
    wrong_city,
    wrong(
        &format!("{}[network]\nmodel = \"cities\"\n", GROUPS.replace("\"us\"", "\"Tokio\"")),
        &[]
    )
);
golden!(
    wrong_schedule,
    wrong(
        &format!(
            "{GROUPS}\
             [[schedule]]\nkind = \"partition\"\nfrom = \"a\"\nto = \"b\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"partiton\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"heal\"\nof = \"x\"\nfor = \"1s\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"flap\"\non = \"a\"\nmode = \"loud\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"reshape\"\non = \"a\"\nramp = \"0s\"\n\
             [[schedule]]\nat = \"1s\"\nkind = \"trace\"\non = \"a\"\nfile = \"gone.trace\"\n\
             [[schedule]]\nat = \"1s\"\nevery = \"1s\"\nfor = \"2s\"\nkind = \"partition\"\nfrom = \"a\"\nto = \"b\"\n"
        ),
        &[]
    )
);

/// What is wrong with a matrix, with its place.
fn wrong_matrix(text: &str) -> String {
    let rest = format!("{GROUPS}[network]\nmatrix = \"m.csv\"\n");
    resolved(&rest, &[("m.csv", text)]).expect_err("it is wrong").to_string()
}

#[test]
fn a_matrix_is_square_whole_and_not_negative() {
    for (text, message) in [
        ("", "m.csv: the matrix has no regions"),
        (",eu,us\neu,0,1\n", "m.csv:1: region `us` has a column but no row"),
        (",eu,us\neu,0,1\nus,1\n", "m.csv:3: row `us` has 1 latencies for 2 regions"),
        (",eu,us\neu,0,1\nuk,1,0\n", "m.csv:3: row `uk` has no column"),
        (",eu,us\neu,0,1\neu,0,1\n", "m.csv:3: row `eu` is there twice"),
        (",eu,eu\neu,0,1\n", "m.csv:1: region `eu` is there twice"),
        (",eu,us\neu,0,\nus,1,0\n", "m.csv:2: no latency from `eu` to `us`"),
        (",eu,us\neu,0,-4\nus,1,0\n", "m.csv:2: `-4` is not a latency from `eu` to `us`"),
        (",eu,us\neu,0,far\nus,1,0\n", "m.csv:2: `far` is not a latency from `eu` to `us`"),
    ] {
        assert_eq!(wrong_matrix(text), message);
    }
}

#[test]
fn a_pair_that_was_not_measured_is_missed() {
    let wrong = |rest: &str, files: &[(&str, &str)]| {
        let groups = GROUPS.replace("\"eu\"", "\"0\"").replace("\"us\"", "\"1\"");
        resolved(&format!("{groups}{rest}"), files).expect_err("it is wrong").to_string()
    };
    let king = wrong("[network]\nking = \"k\"\n", &[("k", "0 -1\n-1 0\n")]);
    assert!(king.contains("`k` has no latency from `0` to `1`"), "{king}");
    let shadow =
        "graph [ node [ id 0 ] node [ id 1 ] edge [ source 0 target 0 latency \"1 ms\" ] ]";
    let shadow = wrong("[network]\nshadow = \"g\"\n", &[("g", shadow)]);
    assert!(shadow.contains("`g` has no latency from `1` to `1`"), "{shadow}");
}

#[test]
fn what_is_no_graph_is_refused_at_its_place() {
    let wrong = |text: &str| {
        let rest = format!("{GROUPS}[network]\nshadow = \"g\"\n");
        resolved(&rest, &[("g", text)]).expect_err("it is wrong").to_string()
    };
    for (text, message) in [
        ("nothing", "g:1: `nothing` is no key with a value"),
        ("node [ id 0 ]", "g: there is no `graph [ … ]`"),
        ("graph [\nnode [ id x ] ]", "g:2: `id` is `x`, not a whole number"),
        (
            "graph [\nnode [ id 0 ]\nedge [ source 0 target 1 ] ]",
            "g:3: `target` is 1, and there is no such node",
        ),
        (
            "graph [ node [ id 0 ]\nedge [ source 0 target 0 latency \"10\" ] ]",
            "g:2: `latency` is `10`, not a time with a unit such as \"10 ms\"",
        ),
        ("graph [", "g: a `]` is missing at the end"),
    ] {
        assert_eq!(wrong(text), message);
    }
}

#[test]
fn there_is_one_source_of_latencies() {
    let rest = format!("{GROUPS}[network]\nmatrix = \"m.csv\"\nmodel = \"cities\"\n");
    let wrong = wrong(&rest, &[("m.csv", MATRIX)]);
    assert!(wrong.contains("there are two sources"), "{wrong}");
}

#[test]
fn a_composition_of_testground_has_no_network() {
    let run = resolved("[[groups]]\nid = \"a\"\ninstances = { count = 2 }\n", &[]);
    assert!(run.expect("it can run").network.is_empty());
}

#[test]
fn the_kernels_data_path_has_no_nats() {
    let rest =
        format!("{GROUPS}[groups.nat]\nkind = \"symmetric\"\n[network]\ndata_path = \"kernel\"\n");
    let wrong = wrong(&rest, &[]);
    assert!(wrong.contains("the kernel's data path has no NATs"), "{wrong}");
}

#[test]
fn a_schedule_without_end_is_bounded() {
    let rest = format!(
        "{GROUPS}[[schedule]]\nat = \"0s\"\nevery = \"1ms\"\nkind = \"reshape\"\non = \"a\"\nlatency = \"1ms\"\n"
    );
    let wrong = wrong(&rest, &[]);
    assert!(wrong.contains("more than 4000 changes"), "{wrong}");
}

#[test]
fn packets_between_workers_are_encrypted_on_request() {
    let encrypted = |rest: &str| {
        let run = resolved(&format!("{GROUPS}{rest}"), &[]).expect("it is right");
        (run.network.encrypt, run.network.summary())
    };
    assert_eq!(encrypted(""), (false, None));
    let said = Some("encrypted between workers".to_owned());
    assert_eq!(encrypted("[network]\nencrypt = true\n"), (true, said));
}
