//! What runs send to a store for metrics is what they measured, and what the store does changes nothing about them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use groundswell_common::metrics::Value;
use groundswell_common::metrics::line::{self, Line};
use serde_json::Value as Json;

use crate::fake_store::{BUCKET, FakeStore, Mood, ORG, TOKEN};
use crate::harness::{Home, LIMIT, Ran, repository, wait_until};

/// Lines an instance writes, as SDKs do: to InfluxDB's endpoint in its own namespace.
const SCRIPT: &str = r#"
set -eu
n=$GROUNDSWELL_INSTANCE
write() {
  exec 3<>/dev/tcp/127.0.0.1/8086
  printf 'POST /write?db=testground HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s' "${#1}" "$1" >&3
  head -n 1 <&3 > "$TEST_OUTPUTS_PATH/answer"
  exec 3>&-
}
now=$(date +%s)
write "rtt,peer=a\\ b value=$n.25,count=${n}i,note=\"say \\\"hi\\\", all\" ${now}000000001
rtt,peer=c value=-1.$n ${now}000000002
dials total=1${n}i ${now}000000003"
printf '{"ts":1,"type":"point","name":"time_to_find","measures":{"value":%s.5},"unit":"s"}\n' "$n" >> "$TEST_OUTPUTS_PATH/results.out"
echo "$OUTCOME"
"#;

struct Plan {
    /// What each instance says at its end.
    outcome: &'static str,
    /// What it writes besides.
    more: &'static str,
}

const PASSES: Plan = Plan { outcome: "success_event", more: "" };
const FAILS: Plan = Plan { outcome: "failure_event", more: "" };

impl Plan {
    fn submit(&self, home: &Home, instances: u32, flags: &[&str]) -> Ran {
        home.write(
            "sending/manifest.toml",
            "name = \"sending\"\n[builders.\"exec:command\"]\nentrypoint = [\"bash\", \"run.sh\"]\n\
             [runners.\"netns\"]\noutcome_from = \"stdout\"\n[[testcases]]\nname = \"send some\"\n\
             instances = { min = 1, max = 100 }\n[[testcases.kpis]]\nname = \"time_to_find\"\nunit = \"s\"\n",
        );
        let outcome = format!("OUTCOME='{{\"event\":{{\"{}\":{{}}}}}}'\n", self.outcome);
        let script =
            SCRIPT.replace("echo \"$OUTCOME\"", &format!("{}\necho \"$OUTCOME\"", self.more));
        home.write("sending/run.sh", &format!("{outcome}{script}"));
        let file = home.write(
            "composition.toml",
            &format!(
                "[global]\nplan = \"sending\"\ncase = \"send some\"\nrunner = \"netns\"\nbuilder = \"exec:command\"\n\
                 [[groups]]\nid = \"one\"\ninstances = {{ count = 1 }}\n\
                 [[groups]]\nid = \"rest\"\ninstances = {{ count = {} }}\n",
                instances - 1
            ),
        );
        let mut arguments = vec!["submit", file.as_str(), "--timeout", "60s"];
        arguments.extend(flags);
        home.run(&arguments)
    }
}

/// A home whose runs send to a store.
fn sending_to(url: &str) -> Home {
    let home = Home::new();
    let token = home.write("influx.token", &format!("{TOKEN}\n"));
    home.with("GROUNDSWELL_INFLUX_URL", url)
        .with("GROUNDSWELL_INFLUX_ORG", ORG)
        .with("GROUNDSWELL_INFLUX_BUCKET", BUCKET)
        .with("GROUNDSWELL_INFLUX_TOKEN_FILE", token)
}

/// The files of this name among the stored outputs.
fn stored(home: &Home, name: &str) -> Vec<String> {
    let archive = home.dir.path().join("outputs.tgz");
    let to = archive.display().to_string();
    home.run(&["collect", "latest", "--output", &to]).ends_with(0);
    let unpacked = flate2::read::GzDecoder::new(std::fs::File::open(&archive).expect("there"));
    let mut tar = tar::Archive::new(unpacked);
    let mut found = Vec::new();
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        if entry.path().expect("a path").ends_with(Path::new(name)) {
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            found.push(text);
        }
    }
    found
}

fn kpis(home: &Home) -> Json {
    let ran = home.run(&["kpis", "latest", "--json"]).ends_with(0);
    serde_json::from_str(&ran.stdout).expect("JSON")
}

fn warnings(home: &Home) -> Vec<String> {
    let status = home.status();
    let warnings = status["warnings"].as_array().expect("a list");
    warnings.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

fn read(line: &str) -> Line<'_> {
    line::parse(line).unwrap_or_else(|err| panic!("{line}: {err}"))
}

fn tag<'a>(line: &'a Line<'_>, name: &str) -> Option<&'a str> {
    line.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
}

fn field<'a>(line: &'a Line<'_>, name: &str) -> Option<&'a Value> {
    line.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
}

#[test]
fn a_store_gets_what_was_measured_and_nothing_else() {
    let store = FakeStore::start(Mood::Good);
    let home = sending_to(&store.url());
    PASSES.submit(&home, 4, &["--workers", "2"]).ends_with(0).says("4 = 4 success");
    assert_eq!(warnings(&home), [""; 0]);
    let run = home.status()["run"].as_str().expect("an id").to_owned();
    let texts = store.lines();
    let lines: Vec<Line<'_>> = texts.iter().map(|text| read(text)).collect();

    // What instances wrote is what is kept of it.
    let kept: BTreeSet<String> = stored(&home, "metrics.lp")
        .iter()
        .flat_map(|file| file.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(kept.len(), 12, "{kept:#?}");
    let ours = |line: &Line<'_>| line.measurement.starts_with("groundswell_");
    let sent: BTreeSet<String> = texts.iter().filter(|text| !ours(&read(text))).cloned().collect();
    assert_eq!(sent, kept);
    let rtt = lines.iter().find(|line| {
        field(line, "note").is_some() && field(line, "count") == Some(&Value::Integer(2))
    });
    let rtt = rtt.expect("instance 2 has one");
    assert_eq!(field(rtt, "instance"), Some(&Value::Integer(2)));
    assert_eq!(field(rtt, "note"), Some(&Value::Text("say \"hi\", all".to_owned())));
    assert_eq!((tag(rtt, "peer"), tag(rtt, "group")), (Some("a b"), Some("rest")));
    assert!(tag(rtt, "worker").is_some_and(|worker| worker.starts_with("local-")));

    // Every line is of this run, but for how workers are doing.
    for line in &lines {
        let of_worker = line.measurement == "groundswell_rig";
        assert_eq!(tag(line, "run"), (!of_worker).then_some(run.as_str()), "{line:?}");
        assert!(
            of_worker
                || (tag(line, "plan"), tag(line, "case")) == (Some("sending"), Some("send some"))
        );
    }
    let measurements: BTreeSet<&str> = lines.iter().map(|line| line.measurement.as_str()).collect();
    let mut known =
        BTreeSet::from(["rtt", "dials", "groundswell_event", "groundswell_run", "groundswell_kpi"]);
    known.extend(["groundswell_network", "groundswell_host", "groundswell_rig"]);
    assert!(measurements.is_subset(&known), "{measurements:?}");

    let of = |name: &str| lines.iter().filter(|line| line.measurement == name).collect::<Vec<_>>();
    let ends = of("groundswell_run");
    assert_eq!(ends.len(), 1);
    assert_eq!(tag(ends[0], "verdict"), Some("passed"));
    assert_eq!(field(ends[0], "succeeded"), Some(&Value::Integer(4)));
    assert_eq!(of("groundswell_network").len(), 2);
    assert_eq!(of("groundswell_host").len(), 2);

    // KPIs are those of `kpis.json`.
    let file = kpis(&home);
    let rows = of("groundswell_kpi");
    assert_eq!(rows.len(), 3, "of the run, and of each group");
    let whole = rows.iter().find(|line| tag(line, "group").is_none()).expect("one of the run");
    for stat in ["sum", "mean", "min", "max", "p50", "p90", "p95", "p99"] {
        let wanted = file["kpis"][0]["stats"][stat].as_f64().expect("a number");
        assert_eq!(field(whole, stat), Some(&Value::Float(wanted)), "{stat}");
    }
    assert_eq!(field(whole, "count"), Some(&Value::Integer(4)));
    let rest = rows.iter().find(|line| tag(line, "group") == Some("rest")).expect("one of it");
    assert_eq!(field(rest, "min"), Some(&Value::Float(1.5)));

    // Events are those of the log, each at its own time.
    let events = of("groundswell_event");
    let times: BTreeSet<i64> = events.iter().filter_map(|line| line.at).collect();
    assert_eq!(times.len(), events.len());
    for kind in ["phase", "instance_started", "instance_ended", "verdict"] {
        assert!(events.iter().any(|line| tag(line, "kind") == Some(kind)), "{kind}");
    }
}

#[test]
fn whatever_the_store_does_runs_end_as_they_would() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    let moods: [(&str, Option<Mood>, &str); 8] = [
        ("good", Some(Mood::Good), ""),
        ("down", None, "Connection refused"),
        ("unauthorized", Some(Mood::Unauthorized), "refused by the store"),
        ("malformed", Some(Mood::Malformed), "no good: line 1 is `"),
        ("small", Some(Mood::Small(0)), "413 too many bytes"),
        ("busy", Some(Mood::Busy(30)), "429 too many writes"),
        ("unavailable", Some(Mood::Unavailable), "503 starting"),
        ("cut", Some(Mood::Cut), "error"),
    ];
    for (name, mood, says) in moods {
        let store = mood.map(FakeStore::start);
        let url = store.as_ref().map_or_else(|| nobody.clone(), FakeStore::url);
        let home = sending_to(&url);
        PASSES.submit(&home, 3, &[]).ends_with(0).says("3 = 3 success");
        assert_eq!(home.status()["verdict"], "passed", "{name}");
        assert_eq!(stored(&home, "metrics.lp").len(), 3, "{name}");
        let told: Vec<String> =
            warnings(&home).into_iter().filter(|text| text.contains("metrics lost")).collect();
        if says.is_empty() {
            assert_eq!(told, [""; 0], "{name}");
        } else {
            assert!(told.iter().any(|text| text.contains(says)), "{name}: {told:?}");
            // The worker of the run and its coordinator each say what they have lost.
            assert!(told.iter().any(|text| text.contains(" on worker ")), "{name}: {told:?}");
        }
        FAILS.submit(&home, 3, &[]).ends_with(10);
    }
}

#[test]
fn a_slow_store_holds_no_run_up() {
    let seconds = |home: &Home| {
        let status = home.status();
        let ms = |name: &str| status[name].as_u64().expect("a time");
        (ms("finished_ms") - ms("submitted_ms")) / 1000
    };
    let store = FakeStore::start(Mood::Slow(Duration::from_secs(60)));
    let home = sending_to(&store.url());
    // The instances go on for long enough for the first writes to be late.
    let plan = Plan { more: "sleep 4", ..PASSES };
    plan.submit(&home, 3, &[]).ends_with(0).says("3 = 3 success");
    assert!(
        seconds(&home) < 30,
        "the store answers after 60 s, and the run took {} s",
        seconds(&home)
    );
    let told = warnings(&home);
    assert!(told.iter().any(|text| text.contains("the store is slow")), "{told:?}");
}

#[test]
fn malformed_lines_of_instances_are_counted_and_told() {
    let store = FakeStore::start(Mood::Good);
    let home = sending_to(&store.url());
    let plan = Plan {
        more: "write \"rtt value=NaN\nrtt value=7 ${now}000000009\"\ncat \"$TEST_OUTPUTS_PATH/answer\"",
        ..PASSES
    };
    plan.submit(&home, 2, &[]).ends_with(0).says("2 metrics lost on worker ").says("malformed (2)");
    let sevens = store
        .lines()
        .iter()
        .filter(|line| line.starts_with("rtt,") && line.contains("value=7,"))
        .count();
    assert_eq!(sevens, 2, "the line beside the bad one is taken");
    assert!(stored(&home, "stdout.log").iter().all(|text| text.contains(" 400 ")));
}

#[test]
fn doctor_asks_the_store_without_writing_anything() {
    let store = FakeStore::start(Mood::Good);
    let home = sending_to(&store.url());
    let said = home.run(&["doctor"]).stdout;
    assert!(said.contains(&format!("✔ metrics       {} takes them", store.url())), "{said}");
    store.set(Mood::Unauthorized);
    let said = home.run(&["doctor"]).stdout;
    assert!(said.contains("! metrics") && said.contains("401 unauthorized access"), "{said}");
    assert_eq!(store.lines(), [""; 0]);
    assert!(store.asked().iter().all(|asked| asked.lines == 0), "{:?}", store.asked());
    let home = home.with("GROUNDSWELL_INFLUX_URL", "http://ana:pw@lab");
    let said = home.run(&["doctor"]).stdout;
    assert!(said.contains("credentials do not belong") && !said.contains("pw"), "{said}");
}

/// VictoriaMetrics, ended when it is dropped.
struct Victoria {
    process: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Victoria {
    fn start() -> Self {
        let binary = repository().join(".cache/victoria/usr/bin/victoria-metrics");
        assert!(binary.is_file(), "`deploy/dev/setup.sh test` unpacks {}", binary.display());
        let dir = tempfile::tempdir().expect("a directory");
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            listener.local_addr().expect("an address")
        };
        let process = Command::new(binary)
            .arg(format!("-httpListenAddr={address}"))
            .arg(format!("-storageDataPath={}", dir.path().display()))
            .args(["-retentionPeriod=1y", "-memory.allowedBytes=128MB", "-loggerLevel=ERROR"])
            // Queries leave the newest half a minute out otherwise.
            .arg("-search.latencyOffset=0s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let victoria = Self { process, address, _dir: dir };
        wait_until("VictoriaMetrics answers", LIMIT, || TcpStream::connect(address).is_ok());
        victoria
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 200 "), "{head}\n{body}");
        body.to_owned()
    }

    /// Every sample of a run: series with its labels, milliseconds, value.
    fn samples(&self, run: &str) -> BTreeSet<(String, i64, String)> {
        self.get("/internal/force_flush");
        let selected = format!("%7Brun%3D%22{run}%22%7D");
        let exported = self.get(&format!("/api/v1/export?match%5B%5D={selected}"));
        let mut samples = BTreeSet::new();
        for line in exported.lines() {
            let series: Json = serde_json::from_str(line).expect("JSON");
            let labels: BTreeMap<String, String> =
                serde_json::from_value(series["metric"].clone()).expect("labels");
            let (values, times) = (&series["values"], &series["timestamps"]);
            let pairs =
                values.as_array().into_iter().flatten().zip(times.as_array().into_iter().flatten());
            for (value, time) in pairs {
                let value = value.as_f64().expect("a number");
                samples.insert((
                    format!("{labels:?}"),
                    time.as_i64().expect("a time"),
                    shown(value),
                ));
            }
        }
        samples
    }
}

impl Drop for Victoria {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The store keeps decimal numbers of about 15 digits.
fn shown(value: f64) -> String {
    format!("{value:.11e}")
}

/// What a line is as samples of VictoriaMetrics: a series of each field, texts as 0, yes and no as 1 and 0.
fn expected(text: &str) -> Vec<(String, i64, String)> {
    let line = read(text);
    let at_ms = line.at.expect("a time").div_euclid(1_000_000);
    let sample = |(name, value): &(String, Value)| {
        let mut labels: BTreeMap<String, String> = line.tags.iter().cloned().collect();
        labels.insert("__name__".to_owned(), format!("{}_{name}", line.measurement));
        #[expect(clippy::cast_precision_loss, reason = "the store has floats only")]
        let number = match value {
            Value::Float(number) => *number,
            Value::Integer(number) => *number as f64,
            Value::Unsigned(number) => *number as f64,
            Value::Boolean(yes) => f64::from(u8::from(*yes)),
            Value::Text(_) => 0.0,
        };
        (format!("{labels:?}"), at_ms, shown(number))
    };
    line.fields.iter().map(sample).collect()
}

/// The values of each series at each moment.
fn by_moment(
    samples: impl IntoIterator<Item = (String, i64, String)>,
) -> BTreeMap<(String, i64), BTreeSet<String>> {
    let mut moments: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (series, at_ms, value) in samples {
        moments.entry((series, at_ms)).or_default().insert(value);
    }
    moments
}

#[test]
fn a_real_store_reads_back_what_a_run_has_sent() {
    let victoria = Victoria::start();
    let home = sending_to(&victoria.url());
    PASSES.submit(&home, 4, &["--workers", "2"]).ends_with(0);
    assert_eq!(warnings(&home), [""; 0]);
    let run = home.status()["run"].as_str().expect("an id").to_owned();
    // The store shows what it was given in its own time.
    let file = kpis(&home);
    let stats = file["kpis"][0]["stats"].as_object().expect("statistics");
    let last = ["\"groundswell_run_passed\"".to_owned()];
    let names = stats.keys().map(|stat| format!("\"groundswell_kpi_{stat}\"")).chain(last);
    let names: Vec<String> = names.collect();
    let mut read_back = BTreeSet::new();
    wait_until("the store shows what came last", LIMIT, || {
        read_back = victoria.samples(&run);
        let is_there = |name: &String| read_back.iter().any(|(series, _, _)| series.contains(name));
        names.iter().all(is_there)
    });
    let is_ours = |(series, _, _): &&(String, i64, String)| series.contains("\"groundswell_");

    let kept = stored(&home, "metrics.lp");
    let sent: Vec<_> = kept.iter().flat_map(|file| file.lines()).flat_map(expected).collect();
    assert_eq!(sent.len(), 4 * (4 + 2 + 2), "{sent:#?}");
    // The store has milliseconds: of what two instances write in the same one it may keep one sample.
    let (sent, kept) =
        (by_moment(sent), by_moment(read_back.iter().filter(|one| !is_ours(one)).cloned()));
    assert_eq!(kept.keys().collect::<Vec<_>>(), sent.keys().collect::<Vec<_>>());
    for (moment, values) in kept {
        assert!(values.is_subset(&sent[&moment]), "{moment:?}: {values:?} of {:?}", sent[&moment]);
    }

    let whole = |name: &str| -> Vec<&String> {
        let name = format!("\"groundswell_kpi_{name}\"");
        let found = read_back
            .iter()
            .filter(|(series, _, _)| series.contains(&name) && !series.contains("\"group\""));
        found.map(|(_, _, value)| value).collect()
    };
    for (stat, value) in stats {
        assert_eq!(whole(stat), [&shown(value.as_f64().expect("a number"))], "{stat}");
    }
    let passed =
        read_back.iter().find(|(series, _, _)| series.contains("\"groundswell_run_passed\""));
    assert_eq!(passed.map(|(_, _, value)| value.clone()), Some(shown(1.0)));

    // The queries of the documentation find it.
    let query = "last_over_time(groundswell_kpi_p95%7Bplan%3D%22sending%22%2Ckpi%3D%22time_to_find%22%2Cgroup%3D%22%22%7D%5B30d%5D)";
    wait_until("the documented query finds it", LIMIT, || {
        let answer = victoria.get(&format!("/api/v1/query?query={query}&nocache=1"));
        let answer: Json = serde_json::from_str(&answer).expect("JSON");
        answer["data"]["result"].as_array().map(Vec::len) == Some(1)
    });
}
