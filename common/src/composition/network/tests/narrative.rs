use super::{GROUPS, resolved, wrong};
use crate::narrative::Entry;

const SEED: &str = "seed = 7\n";

/// The entries of the narrative, one a line.
fn entries(schedule: &str) -> Vec<String> {
    let run = resolved(&format!("{SEED}{GROUPS}{schedule}"), &[]);
    let run = run.unwrap_or_else(|found| panic!("{}", found.render(false)));
    let shown = |entry: &Entry| {
        let Entry { at, until, times, deed, classes, .. } = entry;
        format!("{} {deed:?} {classes:?} {at:?} to {until:?}, {times:?} times", entry.title())
    };
    run.network.narrative.entries.iter().map(shown).collect()
}

#[test]
fn what_strikes_instances_is_read_with_whom_and_when() {
    let shown = entries(
        "[[schedule]]\nat = \"5s\"\nkind = \"kill\"\non = \"a\"\n\
         [[schedule]]\nat = \"5s\"\nkind = \"kill\"\nname = \"churn\"\non = \"*\"\nshare = \"10%\"\nevery = \"30s\"\nfor = \"5s\"\nuntil = \"50s\"\n\
         [[schedule]]\nat = \"0s\"\nkind = \"stop\"\non = \"region:us\"\ncount = 1\nsame = true\nevery = { exponential = \"20s\" }\ntimes = 3\n\
         [[schedule]]\nat = \"1s\"\nkind = \"pause\"\non = \"a\"\nfor = \"250ms\"\neach = true\nevery = { weibull = { shape = 0.6, scale = \"40s\" } }\n\
         [[schedule]]\nat = \"1s\"\nkind = \"readdress\"\non = \"a\"\ncount = 1\n\
         [[schedule]]\nat = \"1s\"\nkind = \"readdress\"\non = \"a\"\n",
    );
    insta::with_settings!({ snapshot_path => "../../../../tests/golden/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("narrative_entries", shown.join("\n"));
    });
}

#[test]
fn a_partition_comes_at_drawn_times_that_the_seed_decides() {
    let times = |seed: u64| {
        let schedule = "[[schedule]]\nat = \"1s\"\nkind = \"partition\"\nfrom = \"a\"\nto = \"b\"\nfor = \"2s\"\nevery = { exponential = \"10s\" }\n";
        let run = resolved(&format!("seed = {seed}\n{GROUPS}{schedule}"), &[]).expect("valid");
        let starts = run.network.schedule.iter().filter(|firing| firing.text == "partition");
        starts.map(|firing| firing.at).collect::<Vec<_>>()
    };
    let drawn = times(7);
    assert!(drawn.len() > 1, "{drawn:?}");
    assert!(drawn.windows(2).all(|pair| (pair[1] - pair[0]).as_secs() >= 2), "{drawn:?}");
    assert_eq!(drawn, times(7));
    assert_ne!(drawn, times(8));
}

#[test]
fn slips_are_named_with_what_to_write() {
    let cases = [
        ("kind = \"crash\"\non = \"a\"", "with `for = \"5s\"` it is started again after 5 s"),
        ("kind = \"pause\"\non = \"a\"", "a pause has no end"),
        ("kind = \"nat\"\non = \"a\"", "write `to = \"…\"`"),
        ("kind = \"nat\"\non = \"a\"\nto = \"conical\"", "there is no kind of NAT `conical`"),
        ("kind = \"nat\"\non = \"a\"\nto = \"symmetric\"", "is behind a NAT"),
        ("kind = \"kill\"", "`on` is missing"),
        ("kind = \"kill\"\non = \"d\"", "there is no group `d`"),
        (
            "kind = \"kill\"\non = \"a\"\nshare = \"10%\"\ncount = 1",
            "keep one of `share` and `count`",
        ),
        ("kind = \"kill\"\non = \"a\"\nshare = 0.1", "`share` needs a unit"),
        ("kind = \"kill\"\non = \"a\"\ncount = 3", "`count` is 3, and the groups have 2 instances"),
        ("kind = \"kill\"\non = \"a\"\neach = true", "`each` without `every`"),
        ("kind = \"kill\"\non = \"a\"\nsame = true", "`same` without `share` or `count`"),
        ("kind = \"kill\"\non = \"a\"\nuntil = \"9s\"", "`until` without `every`"),
        (
            "kind = \"kill\"\non = \"a\"\nevery = \"1s\"\nuntil = \"1s\"",
            "`until` is not after `at`",
        ),
        (
            "kind = \"kill\"\non = \"a\"\nevery = { exponential = \"9s\", weibull = { shape = 1, scale = \"1s\" } }",
            "`every` is drawn from one distribution",
        ),
        ("kind = \"kill\"\non = \"a\"\nevery = { }", "`every` is drawn from one distribution"),
        ("kind = \"kill\"\non = \"a\"\nevery = { gamma = 1 }", "unknown key `gamma` in `every`"),
        (
            "kind = \"kill\"\non = \"a\"\nevery = { weibull = { shape = 0, scale = \"1s\" } }",
            "`shape` is 0, not between 0.1 and 100",
        ),
        (
            "kind = \"kill\"\non = \"a\"\nevery = { weibull = { scale = \"1s\" } }",
            "a Weibull distribution has a shape and a scale",
        ),
        (
            "kind = \"stop\"\non = \"a\"\ngrace = \"5s\"\nfor = \"2s\"",
            "`for` is 2s, and the instance may take 5s to stop (`grace`)",
        ),
        (
            "kind = \"partition\"\nfrom = \"a\"\nto = \"b\"\nshare = \"10%\"",
            "put the instances that it is about into a",
        ),
        (
            "kind = \"partition\"\nfrom = \"a\"\nto = \"b\"\nevery = { exponential = \"10s\" }",
            "write `seed = 1` under `[global]`",
        ),
        (
            "kind = \"pause\"\non = \"*\"\nfor = \"1ms\"\neach = true\nevery = \"1ms\"",
            "instances would be struck more than 100000 times, most often by pause",
        ),
    ];
    for (event, says) in cases {
        let found = wrong(&format!("{GROUPS}[[schedule]]\nat = \"1s\"\n{event}\n"), &[]);
        assert!(found.contains(says), "{event}\n{found}");
    }
}
