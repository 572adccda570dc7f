//! Finds out what this kernel and this user can do, and refuses what they cannot. A refusal names the alternative.

use std::io;
use std::os::fd::AsFd as _;

use groundswell_common::link::{AccessLink, LinkRule, LinkShape, NetworkConfig};
use groundswell_common::network::{Action, NetworkPlan};

use super::intervals;
use super::links::Pair;
use super::nftables;
use super::steering::Steering;
use super::tc::{self, MOST_DEVIATION, MOST_JITTER, MOST_LANES};
use crate::network::nat::{NatError, nft};
use crate::network::netlink::{Netlink, routing_socket};
use crate::network::{NetworkError, jitter, namespace};

/// The alternative to this data path.
pub(super) const SWITCH: &str = "use the switch: `data_path = \"switch\"`";

/// What this kernel can do for the worker's user.
#[derive(Debug, Clone, Default)]
pub(super) struct Can {
    /// Delay, and what happens to packets by chance.
    pub(super) netem: bool,
    /// Why nothing works at all.
    pub(super) refused: Option<String>,
}

impl Can {
    /// Tries everything once, in namespaces that end at once.
    pub(super) fn probe() -> Self {
        match try_all() {
            Ok(netem) => Self { netem, refused: None },
            Err(refused) => Self { netem: false, refused: Some(refused) },
        }
    }

    /// Refuses everything where nothing works.
    pub(super) fn check(&self) -> Result<(), NetworkError> {
        match &self.refused {
            None => Ok(()),
            Some(why) => Err(refuse("use the kernel's data path", &format!("{why}, or "))),
        }
    }

    /// Refuses what a composition says and this kernel or path cannot do.
    pub(super) fn check_plan(&self, plan: &NetworkPlan) -> Result<(), NetworkError> {
        self.check()?;
        if plan.multicast {
            return Err(refuse("carry broadcast and multicast", ""));
        }
        if !plan.nats.is_empty() {
            return Err(refuse("put instances behind NATs", ""));
        }
        let mut links: Vec<&AccessLink> = plan.classes.iter().collect();
        let mut paths: Vec<&LinkShape> = plan.shapes.iter().collect();
        for firing in &plan.schedule {
            match &firing.action {
                Action::Access { link, .. } => links.push(link),
                Action::Path { shape, .. } => paths.push(shape),
                Action::Cut { .. }
                | Action::Heal { .. }
                | Action::Rebind { .. }
                | Action::Readdress { .. } => {}
            }
        }
        links.iter().try_for_each(|link| self.check_shape(&link.sends))?;
        match paths.iter().any(|path| has_shape(path)) {
            false => Ok(()),
            true => Err(refuse(
                "shape the paths between groups in the kernel",
                "give the groups access links, or ",
            )),
        }
    }

    /// Refuses what an instance's configuration asks for and this kernel or path cannot do.
    pub(super) fn check_config(&self, config: &NetworkConfig) -> Result<(), NetworkError> {
        self.check_shape(&config.default)?;
        intervals::lanes(&config.rules).try_for_each(|shape| self.check_shape(shape))?;
        check_together(&config.default, &config.rules)
    }

    fn check_shape(&self, shape: &LinkShape) -> Result<(), NetworkError> {
        if let Some(what) = needs_netem(shape).filter(|_| !self.netem) {
            return Err(refuse(
                &format!("{what}: this kernel has no netem"),
                "load the kernel module sch_netem, or ",
            ));
        }
        let correlated = [shape.duplicate_corr_pct, shape.corrupt_corr_pct, shape.reorder_corr_pct];
        if correlated.iter().any(|pct| *pct > 0.0) {
            return Err(refuse(
                "correlate duplication, corruption or reordering: netem changes their share then",
                "",
            ));
        }
        if shape.jitter > MOST_JITTER {
            return Err(refuse(&format!("spread delays by {:?} with netem", shape.jitter), ""));
        }
        let ends =
            [0.0, 1.0 - f64::EPSILON].map(|draw| jitter::deviation(shape.distribution, draw));
        // The ends of the normal distribution are beyond every table, and nobody will miss them.
        let tame = shape.distribution == groundswell_common::link::Distribution::Normal;
        if !shape.jitter.is_zero() && !tame && ends.iter().any(|end| end.abs() > MOST_DEVIATION) {
            return Err(refuse("delay packets by more than four times the jitter", ""));
        }
        Ok(())
    }
}

/// Refuses shapes that one link cannot have side by side.
pub(super) fn check_together(default: &LinkShape, rules: &[LinkRule]) -> Result<(), NetworkError> {
    let own: Vec<&LinkShape> = intervals::lanes(rules).collect();
    let mut all = own.iter().copied().chain([default]);
    if !own.is_empty() && all.any(|shape| shape.duplicate_pct > 0.0) {
        return Err(refuse(
            "duplicate packets on a link that has rules with shapes of their own",
            "",
        ));
    }
    if own.len() >= MOST_LANES {
        return Err(refuse(&format!("give one link {} shapes", own.len()), ""));
    }
    Ok(())
}

/// Whether a path has more than a filter.
fn has_shape(path: &LinkShape) -> bool {
    *path != LinkShape { filter: path.filter, ..LinkShape::default() }
}

/// What of a shape takes netem.
fn needs_netem(shape: &LinkShape) -> Option<&'static str> {
    [
        (!shape.latency.is_zero() || !shape.jitter.is_zero(), "delay packets"),
        (shape.loss_pct > 0.0, "lose packets"),
        (shape.duplicate_pct > 0.0, "duplicate packets"),
        (shape.corrupt_pct > 0.0, "corrupt packets"),
        (shape.reorder_pct > 0.0, "reorder packets"),
    ]
    .into_iter()
    .find_map(|(asked, what)| asked.then_some(what))
}

pub(super) fn refuse(what: &str, first: &str) -> NetworkError {
    NetworkError::Unsupported { what: what.to_owned(), instead: format!("{first}{SWITCH}") }
}

/// Whether there is netem, or why nothing works.
fn try_all() -> Result<bool, String> {
    let namespace = namespace::fresh().map_err(|err| {
        format!("no network namespace can be made ({err}): run the worker as root")
    })?;
    let tried = namespace::inside(namespace.as_fd(), || {
        let link = Netlink::from(routing_socket()?);
        let pair = Pair {
            outer: "probe0",
            inner: "probe1",
            namespace: link.namespace()?,
            mtu: 1500,
            group: 1,
        };
        link.add_pair(&pair)?;
        let index = link.interface(pair.outer)?.index;
        let tried = try_queues(&link, index);
        Steering::here()?.steer(pair.outer, 0)?;
        let rules = nftables::router() + &nftables::classes(pair.outer, &trial());
        Ok((tried, nft::load(&rules)))
    });
    let (queues, rules) =
        tried.map_err(|err| format!("no veth interface can be made and steered ({err})"))?;
    rules.map_err(|err| nft_refused(&err))?;
    queues.map_err(|err| format!("the kernel module sch_htb is missing ({err})"))
}

/// A rule that takes all that rules can ask for.
fn trial() -> Vec<intervals::Interval> {
    let shape = LinkShape { bandwidth_bps: 1, ..LinkShape::default() };
    let subnet = "16.0.0.0/16".parse().expect("a subnet");
    intervals::intervals(subnet, &[LinkRule { subnet, shape }])
}

fn try_queues(link: &Netlink, index: u32) -> io::Result<bool> {
    link.set_part(index, &tc::root(), true)?;
    let parts = tc::lane(0, &LinkShape::default(), true, 0);
    let (class, rest) = parts.split_first().expect("a lane has parts");
    link.set_part(index, class, true)?;
    Ok(rest.iter().all(|part| link.set_part(index, part, true).is_ok()))
}

/// What to do when nftables does not work.
pub(super) fn nft_refused(err: &NatError) -> String {
    match err {
        NatError::NoProgram => err.to_string(),
        NatError::Ruleset { said } => {
            format!("`nft` refused the rules ({said}); they take Linux 5.16 and nftables 1.0.1")
        }
        NatError::Refused(_) | NatError::Empty | NatError::Host { .. } => {
            format!("`nft` does not work ({err})")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use groundswell_common::link::{Distribution, Filter, Quantiles, RoutingPolicy};

    use super::*;

    const BARE: Can = Can { netem: false, refused: None };
    const FULL: Can = Can { netem: true, refused: None };

    fn refusal(done: Result<(), NetworkError>) -> String {
        let said = done.expect_err("refused").to_string();
        assert!(said.ends_with(SWITCH), "{said}");
        said
    }

    #[test]
    fn without_netem_only_rates_are_shaped() {
        let rate = LinkShape { bandwidth_bps: 5, ..LinkShape::default() };
        BARE.check_shape(&rate).expect("HTB is enough");
        let late = LinkShape { latency: Duration::from_millis(1), ..rate };
        assert!(
            refusal(BARE.check_shape(&late)).contains("delay packets: this kernel has no netem")
        );
        FULL.check_shape(&late).expect("netem is enough");
        let lossy = LinkShape { loss_pct: 1.0, loss_corr_pct: 9.0, ..rate };
        assert!(refusal(BARE.check_shape(&lossy)).contains("lose packets"));
        FULL.check_shape(&lossy).expect("netem is enough");
    }

    #[test]
    fn what_netem_does_wrong_is_refused() {
        let shape = LinkShape { jitter: Duration::from_millis(5), ..LinkShape::default() };
        FULL.check_shape(&LinkShape { distribution: Distribution::Normal, ..shape })
            .expect("it is in its tables");
        refusal(FULL.check_shape(&LinkShape { distribution: Distribution::Pareto, ..shape }));
        let wide = Distribution::Table(Quantiles::new(&[-1.0, 9.0]).expect("a table"));
        refusal(FULL.check_shape(&LinkShape { distribution: wide, ..shape }));
        refusal(FULL.check_shape(&LinkShape { jitter: Duration::from_secs(3), ..shape }));
        refusal(FULL.check_shape(&LinkShape { duplicate_corr_pct: 1.0, ..shape }));
    }

    #[test]
    fn duplication_beside_other_shapes_is_refused() {
        let rule = |shape| LinkRule { subnet: "16.0.0.0/24".parse().expect("a subnet"), shape };
        let plain = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        let mut config = NetworkConfig {
            enable: true,
            ipv4: None,
            default: LinkShape { duplicate_pct: 1.0, ..LinkShape::default() },
            rules: vec![rule(plain)],
            callback_state: String::new(),
            routing_policy: RoutingPolicy::DenyAll,
        };
        FULL.check_config(&config).expect("a filter is no shape");
        config.rules.push(rule(LinkShape { bandwidth_bps: 1, ..plain }));
        refusal(FULL.check_config(&config));
    }

    #[test]
    fn a_plan_may_cut_and_filter_paths_but_not_shape_them() {
        let path = |shape| NetworkPlan { shapes: vec![shape], ..NetworkPlan::default() };
        FULL.check_plan(&path(LinkShape { filter: Filter::Drop, ..LinkShape::default() }))
            .expect("a filter");
        let late = LinkShape { latency: Duration::from_millis(1), ..LinkShape::default() };
        assert!(refusal(FULL.check_plan(&path(late))).contains("paths between groups"));
        let broken = Can { netem: false, refused: Some("there is no root".to_owned()) };
        assert!(
            refusal(broken.check_plan(&NetworkPlan::default()))
                .contains("there is no root, or use")
        );
    }
}
