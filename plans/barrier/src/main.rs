//! Everything the sync service promises, checked by the instances themselves.
//!
//! * `rounds`: barrier after barrier; reports how long a round takes.
//! * `exchange`: every instance publishes its address and reads everyone's; all must see the same order,
//!   and signal numbers must be dense.
//! * `ledger`: round after round every instance signals, publishes the number it got, and waits for all. In the end
//!   everyone reads everything: nothing that was acknowledged is missing, doubled or in another order. Made for runs
//!   under which something is broken meanwhile; reports the longest round.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use testground::client::Client;
use testground::network_conf::{
    DEFAULT_DATA_NETWORK, FilterAction, LinkShape, NetworkConfiguration, RoutingPolicyType,
};
use testground::{Timestamp, WriteQuery};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::new_and_init().await?;
    let done = match client.run_parameters().test_case.as_str() {
        "rounds" => rounds(&client).await,
        "exchange" => exchange(&client).await,
        "ledger" => ledger(&client).await,
        other => Err(format!("there is no case `{other}`").into()),
    };
    match done {
        Ok(()) => client.record_success().await?,
        Err(err) => client.record_failure(err.to_string()).await?,
    }
    Ok(())
}

fn parameter(client: &Client, name: &str) -> Result<u32> {
    let given = client.run_parameters().test_instance_params;
    let text = given.get(name).ok_or_else(|| format!("parameter `{name}` is missing"))?;
    Ok(text.parse().map_err(|_| format!("parameter `{name}` is `{text}`, not a number"))?)
}

async fn rounds(client: &Client) -> Result<()> {
    let all = client.run_parameters().test_instance_count;
    let mut numbers = BTreeSet::new();
    let mut times = Vec::new();
    for round in 0..parameter(client, "rounds")? {
        let start = Instant::now();
        let seq = client.signal_and_wait(format!("round {round}"), all).await?;
        times.push(start.elapsed());
        if seq == 0 || seq > all {
            return Err(
                format!("round {round}: signal number {seq} is not within 1 and {all}").into()
            );
        }
        numbers.insert(seq);
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    client.record_message(format!("median round {:.2} ms", median.as_secs_f64() * 1e3));
    record_round(client, median).await
}

/// Metrics never change an outcome, so a refused one is only mentioned.
async fn record_round(client: &Client, median: Duration) -> Result<()> {
    let point = WriteQuery::new(Timestamp::Milliseconds(0), "barrier_round")
        .add_field("median_ms", median.as_secs_f64() * 1e3);
    if let Err(err) = client.record_metric(point).await {
        client.record_message(format!("metric not taken: {err}"));
    }
    Ok(())
}

async fn exchange(client: &Client) -> Result<()> {
    let parameters = client.run_parameters();
    let all = parameters.test_instance_count;
    shape(client).await?;
    let address = parameters.data_network_ip()?.ok_or("no address on the data network")?;
    let mine = json!({ "seq": client.global_seq(), "address": address.to_string() });
    let position = client.publish("addresses", Cow::Owned(mine.clone())).await?;

    let seen = read(client, "addresses", all).await?;
    if seen.get(usize::try_from(position)? - 1) != Some(&mine) {
        return Err(format!("what was published as number {position} is not there").into());
    }
    let distinct: BTreeSet<String> = seen.iter().map(|item| item["address"].to_string()).collect();
    if distinct.len() != seen.len() {
        return Err(format!("{} instances share {} addresses", seen.len(), distinct.len()).into());
    }
    let numbers: BTreeSet<u64> = seen.iter().filter_map(|item| item["seq"].as_u64()).collect();
    if numbers != (1..=all).collect() {
        return Err(format!("global numbers are not 1 to {all}: {numbers:?}").into());
    }

    // Whoever came first says which order it saw; everyone compares.
    let order = Value::from(seen.iter().map(|item| item["seq"].clone()).collect::<Vec<_>>());
    if client.global_seq() == 1 {
        client.publish("order", Cow::Owned(order.clone())).await?;
    }
    let first = read(client, "order", 1).await?;
    if first != [order] {
        return Err("two instances saw the topic in different orders".into());
    }
    client.signal_and_wait("done", all).await?;
    Ok(())
}

async fn ledger(client: &Client) -> Result<()> {
    let all = client.run_parameters().test_instance_count;
    let rounds = u64::from(parameter(client, "rounds")?);
    let pause = Duration::from_millis(parameter(client, "pause_ms")?.into());
    let mut acked = Vec::new();
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let start = Instant::now();
        let number = client.signal(format!("ledger {round}")).await?;
        let entry = json!([round, number]);
        let position = client.publish("ledger", Cow::Owned(entry.clone())).await?;
        acked.push((position, entry));
        client.barrier(format!("ledger {round}"), all).await?;
        longest = longest.max(start.elapsed());
        if round == 0 {
            client.record_message("first round passed");
        }
        tokio::time::sleep(pause).await;
    }
    client.record_message(format!("longest round {} ms", longest.as_millis()));

    let seen = read(client, "ledger", all * rounds).await?;
    for (position, entry) in acked {
        if seen.get(usize::try_from(position)? - 1) != Some(&entry) {
            return Err(format!("number {position}, {entry}, was acknowledged and is not there").into());
        }
    }
    for round in 0..rounds {
        let of_round = seen.iter().filter(|entry| entry[0] == round);
        let mut numbers: Vec<u64> = of_round.filter_map(|entry| entry[1].as_u64()).collect();
        numbers.sort_unstable();
        if !numbers.iter().copied().eq(1..=all) {
            return Err(format!("round {round}: the numbers are {numbers:?}").into());
        }
    }
    one_order(client, &seen).await
}

/// Whether everyone has seen the same in the same order, by a digest of it.
async fn one_order(client: &Client, seen: &[Value]) -> Result<()> {
    let all = client.run_parameters().test_instance_count;
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(seen)?.hash(&mut hasher);
    let mine = json!(hasher.finish().to_string());
    client.publish("digests", Cow::Owned(mine.clone())).await?;
    let digests = read(client, "digests", all).await?;
    if digests.iter().any(|other| *other != mine) {
        return Err("two instances saw the ledger in different orders".into());
    }
    client.signal_and_wait("compared", all).await?;
    Ok(())
}

async fn shape(client: &Client) -> Result<()> {
    let all = client.run_parameters().test_instance_count;
    let config = NetworkConfiguration {
        network: DEFAULT_DATA_NETWORK.to_owned(),
        ipv4: None,
        ipv6: None,
        enable: true,
        default: LinkShape {
            latency: 1_000_000,
            jitter: 0,
            bandwidth: 0,
            filter: FilterAction::Accept,
            loss: 0.0,
            corrupt: 0.0,
            corrupt_corr: 0.0,
            reorder: 0.0,
            reorder_corr: 0.0,
            duplicate: 0.0,
            duplicate_corr: 0.0,
        },
        rules: None,
        callback_state: "shaped".to_owned(),
        callback_target: Some(all),
        routing_policy: RoutingPolicyType::DenyAll,
    };
    Ok(client.configure_network(config).await?)
}

async fn read(client: &Client, topic: &'static str, count: u64) -> Result<Vec<Value>> {
    let mut stream = client.subscribe(topic, u16::MAX.into()).await;
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(count)? {
        seen.push(stream.next().await.ok_or("the subscription ended early")??);
    }
    Ok(seen)
}
