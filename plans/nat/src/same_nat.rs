//! Two behind the same NAT.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundswell_p2p::{Multiaddr, Protocol, echo};
use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::host::{Card, Host, Role, record_ratio, wait_direct};
use crate::punch::limits;

/// How long bytes there and back may take.
const ECHO: Duration = Duration::from_secs(20);
const ECHO_BYTES: u64 = 1024;

#[derive(Debug, Clone, Deserialize)]
struct Params {
    /// Whether the NAT takes back what its members send to its outer address.
    hairpin: bool,
    /// Whether neighbours learn each other's inner addresses.
    share_lan: bool,
    punch_timeout: Duration,
}

/// Neighbours meet at a relay. Without a hairpin they get through only if they know each other's inner addresses.
pub(crate) async fn same_nat(cx: Ctx) -> Result {
    let params: Params = cx.params()?;
    let host = Host::join(&cx, |config, role| match role {
        Role::Relay => config.relay_server = Some(limits()),
        Role::Neighbour | Role::Dialer | Role::Listener => {
            config.relay_client = true;
            config.dcutr = true;
        }
        Role::AutonatServer | Role::Host => {}
    })
    .await?;
    let doors = cx.phase("reserve", reserve(&host)).await?;
    let partner = partner(&doors, cx.index())?;
    cx.phase("punch", async {
        match partner {
            Some(partner) => meet(&host, &params, partner).await,
            None => Ok(()),
        }
    })
    .await?;
    host.leave().await
}

/// How a neighbour can be reached from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Door {
    /// The address of its NAT, as the relay sees it.
    nat: Ipv4Addr,
    /// Its address at the relay.
    circuit: Multiaddr,
}

async fn reserve(host: &Host) -> Result<Vec<Member<Option<Door>>>> {
    let mut own = None;
    if host.card.role == Role::Neighbour {
        let relay = host.relays()?[0];
        let observed = host.meet_relay(relay).await?;
        let nat = observed
            .iter()
            .find_map(|part| if let Protocol::Ip4(ip) = part { Some(ip) } else { None });
        let nat = nat.ok_or("the relay sees no IPv4 address")?;
        own = Some(Door { nat, circuit: host.reserve(relay).await? });
    }
    Ok(host.cx.exchange("doors", &own).await?)
}

/// Whom this instance dials: of those behind one NAT the first dials the second, the third the fourth, and so on.
fn partner(doors: &[Member<Option<Door>>], me: u32) -> Result<Option<&Member<Option<Door>>>> {
    let nat_of = |member: &Member<Option<Door>>| member.value.as_ref().map(|door| door.nat);
    let own = doors.iter().find(|member| member.index == me).and_then(nat_of);
    let Some(own) = own else { return Ok(None) };
    let mut neighbours = doors.iter().filter(|member| nat_of(member) == Some(own));
    while let Some(first) = neighbours.next() {
        let second = neighbours.next();
        if first.index == me {
            return Ok(Some(second.ok_or("this instance has no neighbour behind its NAT")?));
        }
    }
    Ok(None)
}

async fn meet(host: &Host, params: &Params, next: &Member<Option<Door>>) -> Result {
    let (cx, node) = (&host.cx, &host.node);
    let card = host.card_of(next.index)?;
    let circuit = next.value.as_ref().map(|door| door.circuit.clone()).ok_or("no address")?;

    let mut events = node.events();
    let begun = Instant::now();
    node.dial(circuit).await?;
    cx.point("time_to_relayed_s", begun.elapsed()).record();
    if params.share_lan {
        dial_inside(host, card).await;
    }
    let direct = wait_direct(node, &mut events, card.peer, params.punch_timeout).await?.is_some();
    if direct {
        cx.point("time_to_direct_s", begun.elapsed()).record();
    }
    let pair = (host.card.nat, card.nat);
    record_ratio(cx, "direct_ratio", direct, pair);
    record_ratio(cx, "as_theory", direct == (params.hairpin || params.share_lan), pair);
    let back = echo::through(node, card.peer, ECHO_BYTES, ECHO).await;
    record_ratio(cx, "reached_ratio", back == ECHO_BYTES, pair);
    Ok(())
}

/// Dials a neighbour at its inner address, as whoever it is: the relayed connection stands already.
async fn dial_inside(host: &Host, card: &Card) {
    let inner: Multiaddr =
        card.address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    if let Err(error) = host.node.dial(inner.clone()).await {
        host.cx.message(format!("dialling {inner}: {error}"));
    }
}
