//! Instances full of Sybils.

use groundswell_p2p::{Pool, Stats};
use groundswell_sdk::prelude::*;
use tokio::time::{Instant, sleep, sleep_until};

use crate::nodes;
use crate::params::P;
use crate::scenario::{Join, Scenario};
use crate::world::World;

/// The Sybils of an instance.
pub(crate) struct Sybils<'a> {
    cx: &'a Ctx,
    scenario: Scenario,
    p: &'a P,
    pool: Pool,
}

impl<'a> Sybils<'a> {
    /// Starts them; they know nobody yet.
    pub(crate) async fn start(cx: &'a Ctx, scenario: Scenario, p: &'a P) -> Result<Self> {
        let ip = cx.network().ip()?;
        let instance = u64::from(cx.index());
        let pool = Pool::start(p.n_nodes_per_container, p.seed, instance, |_, identity| {
            nodes::sybil(identity, nodes::listen(ip, 0), scenario, p)
        })
        .await?;
        for node in pool.nodes() {
            node.subscribe(nodes::TOPIC).await?;
        }
        Ok(Self { cx, scenario, p, pool })
    }

    /// Where they are.
    pub(crate) async fn addresses(&self) -> Result<Vec<String>> {
        let mut addresses = Vec::new();
        for node in self.pool.nodes() {
            addresses.push(node.address().await?.to_string());
        }
        Ok(addresses)
    }

    /// Connects them to their victims, if it is time.
    pub(crate) async fn join_if(&self, now: bool, world: &World) -> Result {
        if now { self.join(world).await } else { Ok(()) }
    }

    async fn join(&self, world: &World) -> Result {
        let before = world.sybils.iter().filter(|sybil| sybil.instance < self.cx.index()).count();
        let (mut dialled, mut failed) = (0_u64, 0_u64);
        for (place, node) in self.pool.nodes().iter().enumerate() {
            for victim in world.victims(before + place, self.scenario, self.p) {
                dialled += 1;
                let reached = node.dial_peer(victim.peer, vec![victim.address.clone()]).await;
                failed += u64::from(reached.is_err());
            }
        }
        self.cx.message(format!("dialled {dialled} times, {failed} in vain"));
        ensure!(failed < dialled, "no Sybil of this instance got a connection");
        Ok(())
    }

    /// Attacks when it is time, and goes on to the end.
    pub(crate) async fn run(&self, world: &World) -> Result {
        let begun = Instant::now();
        sleep_until(begun + self.p.attack_delay).await;
        for node in self.pool.nodes() {
            node.set_forward(nodes::attack(world, self.scenario, self.p)).await?;
        }
        self.join_if(self.scenario.sybils_join == Join::ForAttack, world).await?;
        sleep(self.p.t_heartbeat * 2).await;
        self.measure_meshes().await?;
        sleep_until(begun + self.p.t_run).await;
        Ok(())
    }

    /// How many meshes each Sybil got into: what the attack is worth.
    async fn measure_meshes(&self) -> Result {
        for node in self.pool.nodes() {
            let meshes = node.mesh_peers(nodes::TOPIC).await?.len();
            self.cx.histogram("sybil_meshes").unit("count").observe(meshes);
        }
        Ok(())
    }

    /// Records what they did.
    pub(crate) async fn report(&self) -> Result {
        let mut stats = Vec::new();
        for node in self.pool.nodes() {
            stats.push(node.stats().await?);
        }
        let sum = |count: fn(&Stats) -> u64| stats.iter().map(count).sum::<u64>();
        let (received, dropped) =
            (sum(|stats| stats.messages_in), sum(|stats| stats.messages_dropped));
        self.cx.point("sybil_received", received).unit("count").record();
        self.cx.point("sybil_dropped", dropped).unit("count").record();
        // What honest instances exchange, these only take part in.
        self.cx.exchange("sent", &Vec::<u64>::new()).await?;
        let attacked = !self.scenario.drops() || dropped > 0;
        self.cx.check(attacked, "the Sybils dropped nothing: the attack did not take place");
        Ok(())
    }
}
