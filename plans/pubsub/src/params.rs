//! The parameters of all cases, under their historic names.

use std::time::Duration;

use groundswell_sdk::{Bytes, Percent};
use serde::Deserialize;

/// Fewest bytes of a message: those of its header.
const HEADER: u64 = crate::message::HEADER as u64;

/// The parameters.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct P {
    pub(crate) seed: u64,
    pub(crate) stagger: Duration,
    pub(crate) t_heartbeat: Duration,
    pub(crate) t_warm: Duration,
    pub(crate) t_run: Duration,
    pub(crate) t_cool: Duration,
    pub(crate) t_latency: Duration,
    pub(crate) jitter_pct: f64,
    pub(crate) message_rate: f64,
    pub(crate) message_size: Bytes,
    #[serde(default)]
    pub(crate) message_sizes: Vec<Bytes>,
    pub(crate) degree: usize,
    pub(crate) overlay_d: usize,
    pub(crate) overlay_dlo: usize,
    pub(crate) overlay_dhi: usize,
    pub(crate) overlay_dlazy: usize,
    pub(crate) overlay_dout: usize,
    pub(crate) prune_backoff: Duration,
    pub(crate) gossip_factor: f64,
    pub(crate) flood_publishing: bool,
    pub(crate) gossip_version: GossipVersion,
    pub(crate) deadline: Duration,
    pub(crate) n_nodes_per_container: usize,
    pub(crate) scoring: bool,
    pub(crate) score_delivery_share: Percent,
    pub(crate) score_delivery_window: Duration,
    pub(crate) score_activation: Duration,
    #[serde(default)]
    pub(crate) score_colocation_threshold: f64,
    #[serde(default)]
    pub(crate) sybil_degree: usize,
    #[serde(default)]
    pub(crate) attack_delay: Duration,
    #[serde(default)]
    pub(crate) sybil_degrade: Percent,
    #[serde(default)]
    pub(crate) churn_pct: Percent,
    #[serde(default)]
    pub(crate) churn_interval: Duration,
    #[serde(default)]
    pub(crate) churn_downtime: Duration,
}

/// Which gossipsub an honest node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum GossipVersion {
    /// The newest of its rust-libp2p.
    #[serde(rename = "newest")]
    Newest,
    /// 1.1 alone.
    #[serde(rename = "1.1")]
    V1_1,
}

/// Parameters that do not go together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParamsError {
    /// The library would refuse the overlay, in words of its own.
    #[error(
        "overlay_dout {dout} <= overlay_dlo {dlo} <= overlay_d {d} <= overlay_dhi {dhi} does not hold, \
         or overlay_dout is more than half of overlay_d: change one of them"
    )]
    Overlay { dout: usize, dlo: usize, d: usize, dhi: usize },
    #[error("parameter `{0}` is 0; it must be more")]
    Zero(&'static str),
    #[error("a message of {0} bytes has no room for its header: make it at least {HEADER} bytes")]
    Small(u64),
    #[error("attack_delay {delay:?} is not within t_run {run:?}: the attack would never begin")]
    Late { delay: Duration, run: Duration },
}

impl P {
    /// Checks what types cannot.
    pub(crate) fn check(&self) -> Result<(), ParamsError> {
        let (dout, dlo, d, dhi) =
            (self.overlay_dout, self.overlay_dlo, self.overlay_d, self.overlay_dhi);
        if dout > dlo || dlo > d || d > dhi || dout * 2 > d {
            return Err(ParamsError::Overlay { dout, dlo, d, dhi });
        }
        if self.message_rate <= 0.0 {
            return Err(ParamsError::Zero("message_rate"));
        }
        if self.degree == 0 {
            return Err(ParamsError::Zero("degree"));
        }
        if self.n_nodes_per_container == 0 {
            return Err(ParamsError::Zero("n_nodes_per_container"));
        }
        let sizes = self.message_sizes.iter().chain([&self.message_size]);
        if let Some(small) = sizes.map(|size| size.0).find(|size| *size < HEADER) {
            return Err(ParamsError::Small(small));
        }
        if self.attack_delay >= self.t_run {
            return Err(ParamsError::Late { delay: self.attack_delay, run: self.t_run });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use groundswell_sdk::Params;

    use super::*;

    const GOOD: &str = "seed=42|stagger=0s|t_heartbeat=1s|t_warm=5s|t_run=10s|t_cool=5s|t_latency=0s|jitter_pct=10\
        |message_rate=10|message_size=256|degree=6|overlay_d=4|overlay_dlo=3|overlay_dhi=6|overlay_dlazy=6\
        |overlay_dout=1|prune_backoff=1m|gossip_factor=0.25|flood_publishing=true|gossip_version=newest|deadline=6s\
        |n_nodes_per_container=1|scoring=true|score_delivery_share=5%|score_delivery_window=500ms|score_activation=5s";

    pub(crate) fn params(more: &str) -> P {
        let mut params = Params::unpack(GOOD);
        for pair in more.split('|').filter_map(|pair| pair.split_once('=')) {
            params.set(pair.0, pair.1);
        }
        params.read().unwrap()
    }

    #[test]
    fn what_does_not_go_together_is_told_with_its_values() {
        let wrong = |more: &str| params(more).check().unwrap_err().to_string();
        assert!(params("").check().is_ok());
        assert!(wrong("overlay_dlo=5").contains("overlay_dlo 5 <= overlay_d 4"));
        assert!(wrong("overlay_dout=3").contains("more than half"));
        assert!(wrong("message_size=3").contains("3 bytes"));
        assert!(wrong("attack_delay=10s").contains("attack_delay 10s is not within t_run 10s"));
        assert!(wrong("message_rate=0").contains("`message_rate` is 0"));
    }
}
