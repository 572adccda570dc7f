//! Runs over the kernel's data path.

use crate::harness::{Composition, Home};

/// What a composition adds to have it.
const PATH: &str = "[network]\ndata_path = \"kernel\"";
/// Ping-pong changes addresses and signals configurations; without latency it takes no netem.
const UNDELAYED: &str = "run = { test_params = { latency_ms = \"0\", second_latency_ms = \"0\" } }\n\
                         [network]\ndata_path = \"kernel\"";

#[test]
fn a_run_passes_over_the_kernels_data_path_and_says_what_was_not_measured() {
    for composition in [
        Composition::netns("ping-pong", "ping-pong", 2),
        Composition::docker("ping-pong", "ping-pong", 2),
    ] {
        let home = Home::new();
        let composition = Composition { group: UNDELAYED, ..composition };
        let ran = home.submit(&composition, &[]).ends_with(0);
        ran.says("unproven")
            .says("lateness not measured")
            .says("the kernel's data path does not measure");
        assert_eq!(home.status()["network"]["grade"], "unproven");
    }
}

#[test]
fn filters_between_instances_hold_in_the_kernel() {
    for case in ["accept", "reject", "drop"] {
        let home = Home::new();
        let composition = Composition { group: PATH, ..Composition::netns("splitbrain", case, 6) };
        home.submit(&composition, &[]).ends_with(0);
    }
}

#[test]
fn what_the_kernel_cannot_do_is_refused_before_the_start_and_the_switch_named() {
    let home = Home::new();
    let mut composition = Composition::netns("placebo", "ok", 2);
    composition.group = "link = { upload = \"10Mbit\", download = \"20Mbit\" }\n\
                         [network]\ndata_path = \"kernel\"";
    home.submit(&composition, &[]).ends_with(0);

    composition.group = "[[links]]\nfrom = \"all\"\nto = \"all\"\nlatency = \"20ms\"\n\
                         [network]\ndata_path = \"kernel\"";
    let refused = home.submit(&composition, &[]);
    assert!(![Some(0), None].contains(&refused.code), "{}", refused.stderr);
    refused.says("shape the paths between groups").says("use the switch: `data_path = \"switch\"`");

    // Only a kernel with netem delays packets.
    composition.group = "link = { latency = \"5ms\" }\n[network]\ndata_path = \"kernel\"";
    let ran = home.submit(&composition, &[]);
    if ran.code != Some(0) {
        ran.says("delay packets: this kernel has no netem")
            .says("use the switch: `data_path = \"switch\"`");
    }

    composition.group = "[network]\ndata_path = \"kernal\"";
    let refused = home.submit(&composition, &[]);
    assert!(![Some(0), None].contains(&refused.code), "{}", refused.stderr);
    refused.says("there is no data path `kernal`").says("kernel");
}
