//! The acts of a case, in which every instance takes part.

use groundswell_sdk::prelude::*;

use crate::honest::Honest;
use crate::nodes;
use crate::params::P;
use crate::scenario::{Join, Scenario};
use crate::sybil::Sybils;
use crate::world::{Entry, Role, World};

/// Plays a case to its end.
pub(crate) async fn play(cx: &Ctx, scenario: Scenario) -> Result {
    let p: P = cx.params()?;
    p.check()?;
    let role = role(cx)?;
    cx.tag_kpis("role", cx.role());
    cx.tag_kpis("scoring", if p.scoring { "on" } else { "off" });
    if !p.t_latency.is_zero() {
        let shape = Shape::new().latency(p.t_latency).jitter_pct(p.jitter_pct);
        cx.network().shape(shape).await?;
    }
    match role {
        Role::Publisher | Role::Lurker => play_honest(cx, role, scenario, &p).await,
        Role::Sybil => play_sybils(cx, scenario, &p).await,
    }
}

fn role(cx: &Ctx) -> Result<Role> {
    match cx.role() {
        "publisher" => Ok(Role::Publisher),
        "lurker" => Ok(Role::Lurker),
        "sybil" => Ok(Role::Sybil),
        other => Err(format!(
            "group `{}` has the role `{other}`; there are publisher, lurker and sybil: \
             set the parameter role, or call the group so",
            cx.group()
        )
        .into()),
    }
}

async fn play_honest(cx: &Ctx, role: Role, scenario: Scenario, p: &P) -> Result {
    let mut honest = Honest::start(cx, role, scenario, p).await?;
    let world = meet(cx, role, vec![honest.address().await?], scenario, p).await?;
    if let Some(target) = world.target(scenario) {
        let node = if target.instance == cx.index() { "target" } else { "other" };
        cx.tag_kpis("node", node);
    }
    cx.phase("sybils-first", async { Ok(()) }).await?;
    cx.phase("connect", async {
        cx.stagger(p.stagger).await;
        honest.join(&world).await
    })
    .await?;
    cx.phase("sybils-join", async { Ok(()) }).await?;
    cx.phase("warm", honest.warm(&world)).await?;
    cx.phase("run", honest.run(&world)).await?;
    cx.phase("cool", async {
        tokio::time::sleep(p.t_cool).await;
        Ok(())
    })
    .await?;
    honest.report(&world).await
}

async fn play_sybils(cx: &Ctx, scenario: Scenario, p: &P) -> Result {
    let sybils = Sybils::start(cx, scenario, p).await?;
    let world = meet(cx, Role::Sybil, sybils.addresses().await?, scenario, p).await?;
    let joins = |when: Join| scenario.sybils_join == when;
    cx.phase("sybils-first", sybils.join_if(joins(Join::First), &world)).await?;
    cx.phase("connect", sybils.join_if(joins(Join::Together), &world)).await?;
    cx.phase("sybils-join", sybils.join_if(joins(Join::Covertly), &world)).await?;
    cx.phase("warm", async {
        tokio::time::sleep(p.t_warm).await;
        Ok(())
    })
    .await?;
    cx.phase("run", sybils.run(&world)).await?;
    cx.phase("cool", async {
        tokio::time::sleep(p.t_cool).await;
        Ok(())
    })
    .await?;
    sybils.report().await
}

/// Tells everybody where the own nodes are, and learns about the others.
async fn meet(
    cx: &Ctx,
    role: Role,
    addresses: Vec<String>,
    scenario: Scenario,
    p: &P,
) -> Result<World> {
    let book = cx.exchange("nodes", &Entry { role, nodes: addresses }).await?;
    let world = World::new(book, scenario, p)?;
    cx.message(format!(
        "{} honest nodes, {} Sybils, topic {}",
        world.honest.len(),
        world.sybils.len(),
        nodes::TOPIC
    ));
    Ok(world)
}
