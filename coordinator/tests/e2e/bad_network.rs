//! Wrong input about the network: each ends with the right exit code and a text that names the place, the value and
//! what to do.

use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::harness::{Composition, Home, Ran, repository};

/// A composition without fault, to which each case does something.
const COMPOSITION: &str = r#"
[global]
plan = "PLAN"
case = "ok"
runner = "netns"
builder = "exec:cargo"

[[groups]]
id = "near"
region = "eu"
instances = { count = 1 }
[groups.link]
loss = "1%"
latency = "10ms"
upload = "10Mbit"

[[groups]]
id = "far"
region = "us"
instances = { count = 1 }
[groups.nat]
kind = "full-cone"
lan = "192.168.0.0/16"
[groups.nat.outer]
kind = "symmetric"

[network]
matrix = "world.csv"
"#;

const WORLD: &str = ",eu,us\neu,0,20\nus,20,0\n";

/// What is written for what, and what has to be said about that.
struct Wrong<'a> {
    good: &'a str,
    bad: &'a str,
    place: &'a str,
    says: [&'a str; 2],
}

impl Wrong<'_> {
    #[track_caller]
    fn is_refused_in(&self, home: &Home) {
        let text =
            COMPOSITION.replace("PLAN", &repository().join("plans/placebo").display().to_string());
        let (text, world) =
            (text.replacen(self.good, self.bad, 1), WORLD.replacen(self.good, self.bad, 1));
        home.write("world.csv", &world);
        let file = home.write("wrong.toml", &text);
        for command in ["validate", "submit"] {
            let ran = home.run(&[command, &file]).ends_with(3).says(self.place);
            self.says.iter().fold(ran, |ran, text| ran.says(text));
        }
    }
}

#[test]
fn a_composition_is_refused_before_anything_runs() {
    let home = Home::new();
    let file = home.write(
        "right.toml",
        &COMPOSITION.replace("PLAN", &repository().join("plans/placebo").display().to_string()),
    );
    home.write("world.csv", WORLD);
    home.run(&["validate", &file]).ends_with(0);
    for wrong in [
        Wrong {
            good: "loss = \"1%\"",
            bad: "loss = \"150%\"",
            place: "wrong.toml:13:",
            says: ["`loss` is 150 %, not between 0 and 100", "such as `loss = \"1%\"`"],
        },
        Wrong {
            good: "latency = \"10ms\"",
            bad: "latency = \"-10ms\"",
            place: "wrong.toml:14:",
            says: ["`latency` is `-10ms`, not a duration", "such as `latency = \"50ms\"`"],
        },
        Wrong {
            good: "latency = \"10ms\"",
            bad: "latency = 10",
            place: "wrong.toml:14:",
            says: ["`latency` needs a unit", "write it in quotes, such as `latency = \"50ms\"`"],
        },
        Wrong {
            good: "upload = \"10Mbit\"",
            bad: "upload = \"fast\"",
            place: "wrong.toml:15:",
            says: ["`upload` is `fast`, not a rate", "such as `upload = \"10Mbit\"`"],
        },
        Wrong {
            good: "lan = \"192.168.0.0/16\"",
            bad: "lan = \"16.3.0.0/16\"",
            place: "wrong.toml:23:",
            says: ["`lan` is 16.3.0.0/16, which overlaps 16.0.0.0/4", "write a private network"],
        },
        Wrong {
            good: "lan = \"192.168.0.0/16\"",
            bad: "lan = \"100.64.0.0/16\"",
            place: "wrong.toml:21:",
            says: [
                "the NAT's inner network 100.64.0.0/16 overlaps the one outside, 100.64.0.0/10",
                "give `outer` another `lan`",
            ],
        },
        Wrong {
            good: "us,20,0",
            bad: "us,20",
            place: "world.csv:3:",
            says: ["row `us` has 1 latencies for 2 regions", "a matrix is square"],
        },
        Wrong {
            good: ",eu,us\n",
            bad: ",eu,us,asia\n",
            place: "world.csv:2:",
            says: ["row `eu` has 2 latencies for 3 regions", "a matrix is square"],
        },
        Wrong {
            good: "region = \"us\"",
            bad: "region = \"usa\"",
            place: "wrong.toml:19:",
            says: ["`world.csv` has no region `usa`", "did you mean `us`?"],
        },
    ] {
        wrong.is_refused_in(&home);
    }
    assert!(!home.dir.path().join("stacks").exists(), "nothing was started");
}

/// Runs a plan that asks for a network configuration.
fn configured(home: &Home, config: &str) -> Ran {
    let file = home.composition(&Composition::netns("network-js", "configure", 2));
    let text = std::fs::read_to_string(&file).expect("written");
    let text = text.replace(
        "[[groups]]",
        &format!("[global.run.test_params]\nconfig = '{config}'\n[[groups]]"),
    );
    std::fs::write(&file, text).expect("written");
    home.run(&["submit", &file])
}

#[test]
fn a_configuration_that_a_plan_asks_for_ends_the_run_quickly_with_the_reason() {
    let home = Home::new();
    configured(&home, r#"{"default":{"latency":1000000}}"#).passes(2);
    for (config, reason) in [
        (r#"{"IPv4":"10.1.2.3/16"}"#, "address 10.1.2.3 is not in the run's subnet 16.0.0.0/16"),
        (r#"{"IPv4":"16.0.0.1/16"}"#, "address 16.0.0.1 is not for instances"),
        (r#"{"IPv4":"16.0.5.5/16"}"#, "address 16.0.5.5 is taken by instance "),
        (r#"{"IPv4":"here"}"#, "`here` is not an IPv4 address"),
        (r#"{"default":{"loss":150}}"#, "`loss` is 150, not a percentage between 0 and 100"),
        (r#"{"default":{"latency":-1}}"#, "`latency` is -1, not nanoseconds from 0 to 30 days"),
        (r#"{"rules":[{"subnet":"16.0/16"}]}"#, "`16.0/16`"),
        (r#"{"network":"other"}"#, "there is no network `other`, only `default`"),
    ] {
        let start = SystemTime::now();
        let ran = configured(&home, config).ends_with(10).says(reason);
        assert!(start.elapsed().unwrap_or_default() < Duration::from_secs(30), "{}", ran.stderr);
    }
}

/// Submits in a mount namespace in which `hide` was done.
fn submitted_without(home: &Home, hide: &str, composition: &Composition) -> Ran {
    let file = home.composition(composition);
    let submit = home.command(&["submit", &file]);
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{hide} && exec \"$@\""), "sh"])
        .arg(submit.get_program())
        .args(submit.get_args())
        .envs(submit.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(home.dir.path())
        .output()
        .expect("unshare runs");
    Ran::of(&output)
}

#[test]
fn without_a_tun_device_it_says_what_to_load() {
    let home = Home::new();
    for hide in ["mount -t tmpfs none /dev/net", "mount --bind /dev/null /dev/net/tun"] {
        // Without TUN devices `netns` offers nothing; Docker offers containers, and misses them later.
        for (composition, code) in [
            (Composition::netns("placebo", "ok", 2), 22),
            (Composition::docker("placebo", "ok", 2), 20),
        ] {
            submitted_without(&home, hide, &composition)
                .ends_with(code)
                .says("no network interface can be made")
                .says("load the kernel module `tun` and let this user read and write /dev/net/tun");
        }
    }
}

#[test]
fn without_nftables_a_nat_is_refused_and_the_package_named() {
    let home = Home::new();
    // All other programs stay.
    let all = home.dir.path().join("sbin");
    std::fs::create_dir(&all).expect("made");
    let hide = format!(
        "mount --bind /usr/sbin {0} && mount -t tmpfs none /usr/sbin && \
         ln -s {0}/* /usr/sbin/ && rm /usr/sbin/nft",
        all.display()
    );
    for mut composition in
        [Composition::netns("placebo", "ok", 2), Composition::docker("placebo", "ok", 2)]
    {
        composition.group = "nat = { kind = \"symmetric\" }";
        submitted_without(&home, &hide, &composition)
            .ends_with(20)
            .says("failed to put instances behind a NAT: there is no program `nft`")
            .says("apt install nftables");
        // Without a NAT nobody misses it.
        composition.group = "";
        submitted_without(&home, &hide, &composition).passes(2);
    }
}
