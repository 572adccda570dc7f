//! Which file somebody wants: a few are popular.

use groundswell_sdk::Rng;

/// Zipf's law over `count` files: the chance of rank r is proportional to
/// 1/r^s. With s = 0 all are equally popular.
#[derive(Debug, Clone)]
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    pub(crate) fn new(count: usize, s: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count.max(1)).map(|rank| {
            sum += (rank as f64).powf(-s);
            sum
        });
        Self(weights.collect())
    }

    /// Draws a file's number.
    pub(crate) fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.0.last().copied().unwrap_or(1.0);
        let at = rng.ratio() * total;
        self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(s: f64) -> Vec<usize> {
        let zipf = Zipf::new(4, s);
        let mut rng = Rng::new(1, "zipf");
        let mut counts = vec![0; 4];
        for _ in 0..10_000 {
            counts[zipf.draw(&mut rng)] += 1;
        }
        counts
    }

    #[test]
    fn popularity_falls_with_the_rank() {
        let even = drawn(0.0);
        assert!(even.iter().all(|count| (2300..2700).contains(count)), "{even:?}");
        // 1 + 1/2 + 1/3 + 1/4 = 25/12: the first has 48 %.
        let steep = drawn(1.0);
        assert!((4600..5000).contains(&steep[0]), "{steep:?}");
        assert!(steep.is_sorted_by(|a, b| a > b));
    }
}
