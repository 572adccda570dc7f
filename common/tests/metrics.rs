//! The shipper before a strict store in every mood.

mod fake_store;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use fake_store::{BUCKET, FakeStore, Mood, ORG, TOKEN};
use groundswell_common::ids::RunId;
use groundswell_common::metrics::{
    Limits, MetricsConfig, MetricsSection, Point, Reason, Shipper, Shipping, check,
};
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);

fn config(url: &str, token: &str) -> MetricsConfig {
    let variables = BTreeMap::from([
        ("GROUNDSWELL_INFLUX_URL", url),
        ("GROUNDSWELL_INFLUX_ORG", ORG),
        ("GROUNDSWELL_INFLUX_BUCKET", BUCKET),
        ("GROUNDSWELL_INFLUX_TOKEN", token),
    ]);
    let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    MetricsSection::default().resolve_with(variable).expect("fine").expect("a store")
}

/// Quick about everything.
fn limits() -> Limits {
    Limits {
        gather: Duration::from_millis(20),
        first_wait: Duration::from_millis(20),
        request: Duration::from_secs(5),
        farewell: Duration::from_millis(500),
        ..Limits::default()
    }
}

fn started(store: &FakeStore, limits: Limits) -> Shipping {
    Shipping::start(Some(&config(&store.url(), TOKEN)), limits).expect("started")
}

/// Waits for a level.
async fn until(what: &str, level: impl Fn() -> bool) {
    let waiting = async {
        while !level() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

fn push(shipper: &Shipper, run: &RunId, numbers: std::ops::Range<u32>) -> Vec<String> {
    let lines: Vec<String> = numbers.map(|number| format!("m,t=a f={number}i {number}")).collect();
    lines.iter().for_each(|line| shipper.line(run, line));
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_arrives_packed_in_order_and_once() {
    let (store, run) = (FakeStore::start(Mood::Good), RunId::new(1));
    let shipping = started(&store, Limits { batch_lines: 100, ..limits() });
    let shipper = shipping.shipper();
    let mut sent = push(&shipper, &run, 0..250);
    let point = Point::new("p", 7).tag("run", run.as_str()).field("x", 0.5);
    shipper.point(Some(&run), &point);
    shipper.point(Some(&run), &Point::new("p", 7).field("x", f64::NAN));
    sent.push(point.encode().expect("a line"));
    // To stop it brings along what has not been sent yet.
    shipping.stop().await;
    assert_eq!(store.lines(), sent);
    let asked = store.asked();
    assert!(asked.iter().all(|asked| asked.zipped && asked.lines <= 100 && asked.status == 204));
    assert!(asked.iter().all(|asked| asked.path == "/api/v2/write"));
    let totals = shipper.totals();
    assert_eq!((totals.sent, totals.waiting), (251, 0));
    assert_eq!(totals.lost, BTreeMap::from([(Reason::Malformed, 1)]));
    assert_eq!(shipper.losses(&run).text("").as_deref(), Some("1 metric lost: malformed (1)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_given_up_with_the_line_and_the_next_one_goes_through() {
    let (store, run) = (FakeStore::start(Mood::Malformed), RunId::new(1));
    let shipping = started(&store, limits());
    let shipper = shipping.shipper();
    push(&shipper, &run, 0..3);
    shipper.flush();
    until("it is refused", || shipper.totals().waiting == 0).await;
    let said = shipper.losses(&run).text("").expect("told");
    let refused = "3 metrics lost: refused by the store (3): 400 no good: line 1 is `m,t=a f=0i 0`";
    assert_eq!(said, refused);
    store.set(Mood::Good);
    let sent = push(&shipper, &run, 3..5);
    shipping.stop().await;
    assert_eq!(store.lines(), sent);
    assert_eq!(store.asked().len(), 2, "what is refused is not tried again: {:?}", store.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_count_loses_metrics_and_is_told() {
    let (store, run) = (FakeStore::start(Mood::Good), RunId::new(1));
    let wrong = config(&store.url(), "other");
    assert!(check(&wrong).await.expect_err("refused").to_string().contains("401 unauthorized"));
    check(&config(&store.url(), TOKEN)).await.expect("taken");
    let shipping = Shipping::start(Some(&wrong), limits()).expect("started");
    let shipper = shipping.shipper();
    push(&shipper, &run, 0..2);
    shipping.stop().await;
    let said = shipper.losses(&run).text(" on worker w1").expect("told");
    assert!(
        said.starts_with("2 metrics lost on worker w1: refused by the store (2): 401"),
        "{said}"
    );
    assert_eq!(store.lines(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_sent_in_parts() {
    let (store, run) = (FakeStore::start(Mood::Small(100)), RunId::new(1));
    let shipping = started(&store, limits());
    let shipper = shipping.shipper();
    let mut sent = push(&shipper, &run, 0..60);
    shipper.line(&run, &format!("m f=\"{}\" 60", "x".repeat(200)));
    sent.extend(push(&shipper, &run, 61..63));
    until("all is settled", || shipper.totals().waiting == 0).await;
    shipping.stop().await;
    assert_eq!(store.lines(), sent, "in order, and without the one that is too long by itself");
    assert_eq!(shipper.totals().lost, BTreeMap::from([(Reason::Refused, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_is_left_alone_for_as_long_as_it_wants() {
    let (store, run) = (FakeStore::start(Mood::Busy(1)), RunId::new(1));
    let shipping = started(&store, limits());
    let shipper = shipping.shipper();
    let sent = push(&shipper, &run, 0..5);
    until("it is late", || shipper.losses(&run).late > 0).await;
    let losses = shipper.losses(&run);
    assert_eq!((losses.late, losses.why_late.as_str()), (5, "429 too many writes"));
    store.set(Mood::Good);
    until("all is there", || shipper.totals().waiting == 0).await;
    assert_eq!(store.lines(), sent);
    let asked = store.asked();
    assert_eq!(asked.iter().map(|asked| asked.lines).collect::<Vec<_>>(), [5, 0, 5], "{asked:?}");
    let waited = asked[2].at.duration_since(asked[1].at);
    assert!(
        waited >= Duration::from_millis(990),
        "after {waited:?}, not after the 20 ms of a backoff"
    );
    assert_eq!(shipper.losses(&run).text(""), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_passes_loses_nothing() {
    for mood in [Mood::Unavailable, Mood::Cut] {
        let (store, run) = (FakeStore::start(mood), RunId::new(1));
        let shipping = started(&store, limits());
        let shipper = shipping.shipper();
        let sent = push(&shipper, &run, 0..5);
        until("it was tried three times", || store.asked().len() >= 3).await;
        assert_eq!(shipper.losses(&run).late, 5, "{mood:?}");
        store.set(Mood::Good);
        until("all is there", || shipper.totals().waiting == 0).await;
        shipping.stop().await;
        assert_eq!(store.lines(), sent, "{mood:?}");
        assert_eq!(shipper.losses(&run).count(), 0, "{mood:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_slow_store_and_what_is_late_is_told() {
    let (store, run) = (FakeStore::start(Mood::Slow(Duration::from_secs(60))), RunId::new(1));
    let shipping = started(&store, Limits { lines: 1000, batch_lines: 100, ..limits() });
    let shipper = shipping.shipper();
    push(&shipper, &run, 0..100);
    let begun = Instant::now();
    push(&shipper, &run, 100..5000);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    until("it is late", || shipper.losses(&run).late > 0).await;
    let losses = shipper.losses(&run);
    assert_eq!(losses.why_late, "the store is slow");
    // The oldest that is not on its way goes.
    assert_eq!(losses.lost.get(&Reason::Overflow).copied(), Some(5000 - losses.late));
    assert!((1000..=1100).contains(&losses.late), "{losses:?}");
    let begun = Instant::now();
    shipping.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "it says farewell in time");
    let lost: u64 = shipper.totals().lost.values().sum();
    assert_eq!((lost, shipper.totals().sent, shipper.totals().waiting), (5000, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_gets_the_newest_that_fit() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let url = format!("http://{address}");
    let silent = check(&config(&url, TOKEN)).await.expect_err("nobody is there");
    assert!(silent.to_string().contains("does not answer"), "{silent}");
    let run = RunId::new(1);
    let few = Limits { lines: 20, batch_lines: 10, ..limits() };
    let shipping = Shipping::start(Some(&config(&url, TOKEN)), few).expect("started");
    let shipper = shipping.shipper();
    let first = push(&shipper, &run, 0..10);
    until("it is in trouble", || shipper.losses(&run).late > 0).await;
    let why = shipper.losses(&run).why_late;
    assert!(why.contains("refused"), "{why}");
    let rest = push(&shipper, &run, 10..100);
    let store = FakeStore::listen(TcpListener::bind(address).expect("free"), Mood::Good);
    until("it has all that is left", || shipper.totals().waiting == 0).await;
    shipping.stop().await;
    let newest: Vec<String> = first.into_iter().chain(rest[70..].to_vec()).collect();
    assert_eq!(store.lines(), newest);
    assert_eq!(shipper.totals().lost, BTreeMap::from([(Reason::Overflow, 70)]));
}
