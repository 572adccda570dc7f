//! Networks that change: by destination, by address, and often.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_sdk::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::party::{Party, STREAMS};
use crate::ping::{self, Pings};
use crate::theory::Window;

#[derive(Debug, Deserialize)]
struct Rules {
    latency_default: Duration,
    latency_network: Duration,
    latency_far: Duration,
    pings: u32,
}

/// Of three, one has a rule for one of the others, and then also one for everybody.
pub(crate) async fn per_subnet_rules(cx: Ctx) -> Result {
    let params: Rules = cx.params()?;
    let party = Party::meet(&cx, 3).await?;
    let (near, far) = (party.members[1], party.members[2]);
    let everybody = network(&cx)?.to_string();
    let delayed = |latency| Shape::new().latency(latency);
    let configure = || {
        let configuration = cx.network().configure().shape(delayed(params.latency_default));
        configuration.rule(&format!("{far}/32"), delayed(params.latency_far))
    };
    // The rule with the longest prefix counts, and the default where there is no rule.
    let steps = [
        ("one-rule", configure(), params.latency_default),
        (
            "two-rules",
            configure().rule(&everybody, delayed(params.latency_network)),
            params.latency_network,
        ),
    ];
    for (name, configuration, to_near) in steps {
        cx.phase(&format!("configure-{name}"), async {
            if party.asks() { timed(&cx, configuration.apply()).await } else { Ok(()) }
        })
        .await?;
        cx.phase(&format!("ping-{name}"), async {
            if party.asks() {
                for (link, to, latency) in
                    [("near", near, to_near), ("far", far, params.latency_far)]
                {
                    let mut pings = Pings::between(party.ip(), to).await?;
                    party.measure(&mut pings, params.pings, Window::of(latency), link).await?;
                }
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The run's network.
fn network(cx: &Ctx) -> Result<groundswell_sdk::Subnet> {
    let env = cx.env();
    Ok(env.run_subnet.or(env.subnet).ok_or("the run has no data network")?)
}

/// Records how long a configuration took.
async fn timed(
    cx: &Ctx,
    apply: impl Future<Output = std::result::Result<(), groundswell_sdk::NetworkError>>,
) -> Result {
    let begun = Instant::now();
    apply.await?;
    cx.timer("apply_s").observe(begun.elapsed());
    Ok(())
}

/// How far from the first address of the network instances move to. Theirs are below.
const AWAY: u32 = 0x8000;
/// How long a connection may take to show that it is still there.
const SURVIVAL: Duration = Duration::from_secs(3);

#[derive(Debug, Deserialize)]
struct Move {
    latency: Duration,
    pings: u32,
}

/// One of a pair moves to another address. It is reached there at once, and at the old one no more.
pub(crate) async fn address_change(cx: Ctx) -> Result {
    let params: Move = cx.params()?;
    let mut party = Party::meet(&cx, 2).await?;
    let (old, new) = (party.members[0], moved(network(&cx)?.address, party.number));
    let mut connection = connect(&mut party).await?;
    cx.phase("move", async {
        if party.asks() {
            let shape = Shape::new().latency(params.latency);
            timed(&cx, cx.network().configure().address(new).shape(shape).apply()).await?;
            let now = cx.network().ip()?;
            ensure!(now == new, "the address is {now} and was to be {new}");
            ping::echo(new, &mut party.tasks).await?;
        }
        Ok(())
    })
    .await?;
    cx.phase("ping", async {
        let (from, to) = if party.asks() { (new, party.peer()) } else { (party.ip(), new) };
        let mut pings = Pings::between(from, to).await?;
        party.measure(&mut pings, params.pings, Window::of(params.latency), "new").await?;
        Ok(())
    })
    .await?;
    cx.phase("look-back", async {
        if let Some(connection) = &mut connection {
            let survives = says_it_back(connection).await;
            cx.point("old_conn_survives", survives).unit("ratio").record();
        } else {
            let answers = Pings::between(party.ip(), old).await?.ping().await.is_some();
            cx.point("old_address_answers", answers).unit("ratio").record();
        }
        Ok(())
    })
    .await
}

fn moved(network: Ipv4Addr, party: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network) + AWAY + party + 1)
}

/// The first one's connection to the second, which says everything back.
async fn connect(party: &mut Party) -> Result<Option<TcpStream>> {
    if party.asks() {
        return Ok(Some(TcpStream::connect((party.peer(), STREAMS)).await?));
    }
    let (mut stream, _) = party.streams.accept().await?;
    party.tasks.spawn(async move {
        let (mut from, mut to) = stream.split();
        // It ends with the connection, however that ends.
        drop(tokio::io::copy(&mut from, &mut to).await);
    });
    Ok(None)
}

async fn says_it_back(connection: &mut TcpStream) -> bool {
    let mut heard = [0; 5];
    let said = async {
        connection.write_all(b"hello").await?;
        connection.read_exact(&mut heard).await
    };
    matches!(timeout(SURVIVAL, said).await, Ok(Ok(_)))
}

/// Latencies that a round trip tells apart, also where it is late by a little.
const STEPS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(180)];

/// Whether a round trip met the latency after a change, and not the one before it. One that is late has still met
/// the new latency, unless it is so late that it may have met the old one.
fn met(rtt: Duration, before: Duration, after: Duration) -> bool {
    rtt >= after && (after > before || rtt < before)
}

#[derive(Debug, Deserialize)]
struct Storm {
    changes: u32,
    per_minute: u32,
}

/// The latency changes again and again, and each change is in force when the call returns.
pub(crate) async fn reconfigure_storm(cx: Ctx) -> Result {
    let params: Storm = cx.params()?;
    ensure!(params.per_minute > 0, "the parameter `per_minute` is 0: nothing would ever change");
    let party = Party::meet(&cx, 2).await?;
    cx.phase("storm", async {
        if !party.asks() {
            return Ok(());
        }
        let mut rng = cx.rng("storm");
        let mut pings = Pings::between(party.ip(), party.peer()).await?;
        pings.ping().await;
        let mut last = STEPS[0];
        party.shape(Shape::new().latency(last)).await?;
        let mut ticks = interval(Duration::from_secs(60) / params.per_minute);
        // A change that is late does not hurry those that follow.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..params.changes {
            ticks.tick().await;
            let others: Vec<Duration> = STEPS.into_iter().filter(|step| *step != last).collect();
            let next = others[rng.index(others.len())];
            change(&party, &mut pings, last, next).await?;
            last = next;
        }
        Ok(())
    })
    .await
}

/// Changes the latency and sends one ping, at once.
async fn change(party: &Party, pings: &mut Pings, before: Duration, after: Duration) -> Result {
    party.shape(Shape::new().latency(after)).await?;
    let rtt = pings.ping().await;
    let cx = &party.cx;
    cx.histogram("answered_ratio").unit("ratio").observe(rtt.is_some());
    let Some(rtt) = rtt else { return Ok(()) };
    cx.timer("rtt_s").observe(rtt);
    cx.histogram("rtt_late_s").unit("s").observe(Window::of(after).late_s(rtt));
    cx.histogram("in_force_ratio").unit("ratio").observe(met(rtt, before, after));
    Ok(())
}

#[cfg(test)]
mod tests {
    use groundswell_sdk::testing::Local;

    use super::*;
    use crate::party::TURN;

    #[test]
    fn a_round_trip_tells_the_new_latency_from_the_old_one() {
        let [low, middle, _] = STEPS;
        let late = Duration::from_millis(30);
        assert!(met(low + late, middle, low));
        assert!(met(middle + late, low, middle));
        assert!(!met(middle, middle, low));
        assert!(!met(low + late, low, middle));
    }

    #[test]
    fn nobody_moves_to_where_somebody_is() {
        let network = Ipv4Addr::new(16, 3, 0, 0);
        assert_eq!(moved(network, 0), Ipv4Addr::new(16, 3, 128, 1));
        assert_eq!(moved(network, 2999), Ipv4Addr::new(16, 3, 139, 184));
    }

    #[tokio::test]
    async fn a_storm_is_answered() {
        let _turn = TURN.lock().await;
        let run = Local::new(2).unshaped().param("changes", 3).param("per_minute", 6000);
        run.run(reconfigure_storm).await.assert_success();
    }

    #[tokio::test]
    async fn rules_are_tried_on_two_others() {
        let _turn = TURN.lock().await;
        let run = Local::new(3).unshaped().param("pings", 2).param("latency_default", "1ms");
        let run = run.param("latency_network", "2ms").param("latency_far", "3ms");
        run.run(per_subnet_rules).await.assert_success();
    }
}
