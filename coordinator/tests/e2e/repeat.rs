//! The same several times, in turn with another run, and compared with it.

use crate::harness::Home;
use crate::kpis::{DECLARED, Measuring};

/// About 100 ms, and about twice that. No two runs measure quite the same.
const FAST: Measuring = Measuring {
    script: "point time_to_find $(( 100000 + $(od -An -N1 -tu1 /dev/urandom) )) us",
    case: DECLARED,
    global: "",
};
const SLOW: Measuring = Measuring {
    script: "point time_to_find $(( 200000 + $(od -An -N1 -tu1 /dev/urandom) )) us",
    ..FAST
};

#[test]
fn what_takes_turns_with_another_run_is_compared_with_it() {
    let home = Home::new();
    FAST.submit(&home, 1, &["--label", "of=fast"]).passes(1);
    // The plan's directory has changed since; the other run is submitted again as it was.
    let flags = ["--repeat", "4", "--interleave-with", "label:of=fast", "--label", "of=slow"];
    SLOW.submit(&home, 1, &flags)
        .ends_with(12)
        .says("A = label:of=fast (4 runs)  B = this (4 runs)")
        .says("exact Mann-Whitney test of 4 v 4 runs")
        .says("REGRESSION");
    let runs = home.run(&["ls", "-o", "name"]).ends_with(0).stdout;
    assert_eq!(runs.lines().count(), 9, "{runs}");
    // What was submitted again is no failure of what was submitted, and counts among its own kind.
    let back = home.run(&["compare", "label:of=slow", "label:of=fast"]).ends_with(0).stdout;
    assert!(back.contains("improvement"), "{back}");
    home.run(&["baseline", "set", "fast", "label:of=fast"]).ends_with(0).says("@fast is 5 runs");
}

#[test]
fn one_run_beside_too_small_a_baseline_is_inconclusive_if_that_is_asked() {
    let home = Home::new();
    FAST.submit(&home, 1, &[]).passes(1);
    let first = home.status()["run"].as_str().expect("an id").to_owned();
    let flags = ["--baseline", first.as_str(), "--fail-on", "regression,inconclusive"];
    FAST.submit(&home, 1, &flags)
        .ends_with(13)
        .says("1 v 1 runs cannot tell a change from chance; 4 of each side can");
}
