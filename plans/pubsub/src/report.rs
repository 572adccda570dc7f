//! What an honest instance has to say at the end.

use std::collections::BTreeMap;

use groundswell_sdk::prelude::*;
use serde::{Deserialize, Serialize};

use crate::honest::Honest;
use crate::params::GossipVersion;
use crate::receipts::{Sent, Tally};
use crate::watch;
use crate::world::{Role, World};

/// What a node received for each byte of messages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Cost {
    /// Whether it tells its mesh what it has, so that nobody sends it again.
    idontwant: bool,
    /// The ratio for each peer in its mesh: whoever has more of them gets more
    /// copies. Publishers and nodes that were away have none to compare.
    ratio: Option<f64>,
}

impl Honest<'_> {
    /// Learns what others sent, and records everything that was measured.
    pub(crate) async fn report(&self, world: &World) -> Result {
        // While all nodes are there: with this exchange the first ones go.
        let cost = self.report_cost().await?;
        if self.scenario.compares {
            self.compare_costs(cost).await?;
        }
        self.report_scores(world).await?;
        let told = self.cx.exchange::<Sent>("sent", &self.sent).await?;
        let sent: BTreeMap<u32, Sent> = told
            .into_iter()
            .filter(|member| member.index != self.cx.index())
            .map(|member| (member.index, member.value))
            .collect();
        let tally = self.heard().receipts.tally(&sent, &self.present, self.p.deadline);
        self.report_deliveries(tally)?;
        self.report_mesh();
        if self.scenario.churn {
            self.cx.point("restarts", self.restarts).unit("count").record();
        }
        Ok(())
    }

    fn report_deliveries(&self, tally: Tally) -> Result {
        let latency = self.cx.timer("delivery_latency_s");
        let heard = self.heard();
        for (delay, bytes) in heard.receipts.delays() {
            if self.scenario.sizes {
                latency.clone().tag("size", bytes).observe(delay);
            } else {
                latency.observe(delay);
            }
        }
        let ratio = tally.ratio().ok_or("nobody sent a message that counts")?;
        self.cx.point("delivery_ratio", ratio).unit("ratio").record();
        self.cx.point("messages_expected", tally.expected).unit("count").record();
        self.cx.point("deadline_missed", tally.missed()).unit("count").record();
        if self.role == Role::Publisher {
            self.cx.point("messages_published", self.sent.len()).unit("count").record();
            self.cx.point("messages_unsent", self.unsent).unit("count").record();
        }
        self.cx.check(heard.receipts.foreign == 0, "messages came that are none of this plan");
        ensure!(
            heard.overlooked == 0,
            "{} events were overlooked: this machine is too slow for the run",
            heard.overlooked
        );
        Ok(())
    }

    /// Bytes on the wire for each byte of messages.
    async fn report_cost(&self) -> Result<Option<f64>> {
        // A node that came back has counted from its last start only.
        if self.restarts > 0 {
            return Ok(None);
        }
        let stats = self.node.stats().await?;
        let heard = self.heard();
        let useful = ratio(heard.receipts.useful_bytes);
        ensure!(useful > 0.0, "not one message came");
        let carried = ratio(stats.bytes_in) / useful;
        self.cx.point("bytes_per_useful_byte", carried).unit("ratio").record();
        self.cx.point("peers", stats.peers).unit("count").record();
        Ok(Some(carried))
    }

    /// Has the first instance compare what nodes cost that do not say
    /// IDONTWANT with what those do that say it.
    async fn compare_costs(&self, cost: Option<f64>) -> Result {
        let newest = self.p.gossip_version == GossipVersion::Newest;
        let idontwant = newest && self.node.version().name() != "libp2p-0_53";
        let cost = cost.filter(|_| self.role == Role::Lurker);
        let own =
            Cost { idontwant, ratio: cost.zip(self.mesh_size()).map(|(all, size)| all / size) };
        let told = self.cx.exchange::<Cost>("costs", &own).await?;
        if self.cx.index() == 0 {
            let all: Vec<Cost> = told.into_iter().map(|member| member.value).collect();
            if let (Some(without), Some(with)) = (mean(&all, false), mean(&all, true)) {
                let ratio = without / with;
                self.cx.point("cost_ratio_without_idontwant", ratio).unit("ratio").record();
            }
        }
        Ok(())
    }

    /// How many peers the mesh had on average.
    fn mesh_size(&self) -> Option<f64> {
        let sizes = self.samples.iter().map(|sample| sample.honest + sample.sybils);
        let sum = ratio(sizes.sum::<usize>() as u64);
        (sum > 0.0).then(|| sum / ratio(self.samples.len() as u64))
    }

    fn report_mesh(&self) {
        let attack = self.p.attack_delay;
        for sample in &self.samples {
            let part = sample.part(attack, self.p.t_run).name();
            let size = sample.honest + sample.sybils;
            self.cx.histogram("mesh_size").unit("count").tag("when", part).observe(size);
            if let (true, Some(honest)) = (self.scenario.has_sybils(), sample.honest_ratio()) {
                let share = self.cx.histogram("mesh_honest_ratio").unit("ratio");
                share.tag("when", part).observe(honest);
            }
        }
        if !self.scenario.has_sybils() {
            return;
        }
        let recovered = watch::recovery(&self.samples, attack);
        self.cx.point("mesh_recovered", recovered.is_some()).unit("ratio").record();
        if let Some(time) = recovered {
            self.cx.point("mesh_recovery_s", time).record();
        }
    }

    async fn report_scores(&self, world: &World) -> Result {
        if !self.scenario.has_sybils() {
            return Ok(());
        }
        let honest = world.honest_peers();
        for (peer, score) in self.node.peer_scores().await? {
            let name = if honest.contains(&peer) { "score_honest" } else { "score_sybil" };
            self.cx.histogram(name).unit("points").observe(score);
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio is a float")]
fn ratio(count: u64) -> f64 {
    count as f64
}

/// The mean cost of nodes of one kind; nothing where there are none.
fn mean(all: &[Cost], idontwant: bool) -> Option<f64> {
    let of_kind = all.iter().filter(|cost| cost.idontwant == idontwant);
    let ratios: Vec<f64> = of_kind.filter_map(|cost| cost.ratio).collect();
    (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratio(ratios.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_compared_by_kind_and_publishers_left_out() {
        let cost = |idontwant, ratio| Cost { idontwant, ratio };
        let all = [cost(true, Some(2.0)), cost(true, Some(4.0)), cost(true, None)];
        assert_eq!(mean(&all, true), Some(3.0));
        assert_eq!(mean(&all, false), None);
    }
}
