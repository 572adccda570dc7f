//! What becomes of a node's mesh: how honest it is, and when it recovers.

use std::time::Duration;

/// The peers in a mesh at some time after the messages began to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When.
    pub(crate) at: Duration,
    /// Peers that are honest.
    pub(crate) honest: usize,
    /// Peers that are Sybils.
    pub(crate) sybils: usize,
}

/// When a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Before the attack.
    Before,
    /// In its first part.
    Attack,
    /// In the last quarter of the time from the attack to the end.
    End,
}

impl Part {
    /// The word for it in tags.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Attack => "attack",
            Self::End => "end",
        }
    }
}

impl Sample {
    /// The share of honest peers; nothing for an empty mesh.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is a float")]
    pub(crate) fn honest_ratio(self) -> Option<f64> {
        let all = self.honest + self.sybils;
        (all > 0).then(|| self.honest as f64 / all as f64)
    }

    /// Whether it is of before the attack, after it, or of the end.
    pub(crate) fn part(self, attack: Duration, end: Duration) -> Part {
        let last = end.saturating_sub(end.saturating_sub(attack) / 4);
        if self.at < attack {
            Part::Before
        } else if self.at < last {
            Part::Attack
        } else {
            Part::End
        }
    }
}

/// The share of honest peers that a mesh needs to count as recovered.
const RECOVERED: f64 = 0.75;

/// How long after the attack three quarters of a mesh were honest and stayed
/// so. Nothing if that never was, or if nobody looked. A mesh without peers
/// says nothing: in a small network those of others may be full.
pub(crate) fn recovery(samples: &[Sample], attack: Duration) -> Option<Duration> {
    let after = samples.iter().filter(|sample| sample.at >= attack);
    let shares = after.filter_map(|sample| Some((sample.at, sample.honest_ratio()?)));
    let mut since = None;
    for (at, share) in shares {
        match (share >= RECOVERED, since) {
            (true, None) => since = Some(at - attack),
            (true, Some(_)) => {}
            (false, _) => since = None,
        }
    }
    since
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(honest: &[usize]) -> Vec<Sample> {
        let at = |second: usize| Duration::from_secs(second as u64);
        honest
            .iter()
            .enumerate()
            .map(|(second, honest)| Sample { at: at(second), honest: *honest, sybils: 1 })
            .collect()
    }

    #[test]
    fn a_mesh_has_recovered_when_it_stays_so() {
        let recovered = |honest: &[usize]| {
            recovery(&samples(honest), Duration::from_secs(1)).map(|time| time.as_secs())
        };
        assert_eq!(recovered(&[5, 1, 3, 1, 4, 3]), Some(3));
        assert_eq!(recovered(&[5, 5, 5]), Some(0));
        assert_eq!(recovered(&[5, 5, 2]), None);
        assert_eq!(recovered(&[5]), None);
    }

    #[test]
    fn samples_belong_to_before_the_attack_to_it_and_to_the_end() {
        let parts: Vec<_> = samples(&[1; 9])
            .into_iter()
            .map(|sample| sample.part(Duration::from_secs(2), Duration::from_secs(10)).name())
            .collect();
        let wanted = ["before"; 2].into_iter().chain(["attack"; 6]).chain(["end"; 1]);
        assert_eq!(parts, wanted.collect::<Vec<_>>());
        assert_eq!(samples(&[3])[0].honest_ratio(), Some(0.75));
    }
}
