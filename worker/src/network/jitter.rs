//! Turns a draw into a deviation from the latency. Pure.

use std::time::Duration;

use groundswell_common::link::{Distribution, LinkShape};

/// The index of the Pareto distribution, netem's.
const PARETO: f64 = 3.0;
/// No packet is later than so many times the jitter: a draw in 10^15 would otherwise be late by days.
const LATEST: f64 = 30.0;

/// The delay for a draw in [0, 1). It is never negative.
#[must_use]
pub fn delay(shape: &LinkShape, draw: f64) -> Duration {
    if shape.jitter.is_zero() {
        return shape.latency;
    }
    let deviation = deviation(shape.distribution, draw);
    let late = shape.jitter.mul_f64(deviation.abs());
    if deviation < 0.0 {
        shape.latency.saturating_sub(late)
    } else {
        shape.latency.saturating_add(late)
    }
}

/// The deviation for a draw in [0, 1), in multiples of the jitter.
pub(super) fn deviation(distribution: Distribution, draw: f64) -> f64 {
    match distribution {
        Distribution::Uniform => 2.0 * draw - 1.0,
        Distribution::Normal => normal_quantile(draw),
        Distribution::Pareto => {
            let mean = PARETO / (PARETO - 1.0);
            let deviation = (PARETO / (PARETO - 2.0)).sqrt() / (PARETO - 1.0);
            (((1.0 - draw).powf(-1.0 / PARETO) - mean) / deviation).min(LATEST)
        }
        Distribution::Table(quantiles) => quantiles.at(draw),
    }
}

/// The quantile function of the standard normal distribution, by Acklam's rational approximation: its
/// relative error is below 1.2e-9 everywhere.
fn normal_quantile(draw: f64) -> f64 {
    const TAIL: f64 = 0.024_25;
    // The smallest draw that is not 0; 0 itself has no quantile.
    let draw = draw.max(f64::EPSILON / 2.0);
    if draw < TAIL {
        return tail((-2.0 * draw.ln()).sqrt());
    }
    if draw > 1.0 - TAIL {
        return -tail((-2.0 * (1.0 - draw).ln()).sqrt());
    }
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    let q = draw - 0.5;
    let r = q * q;
    polynomial(&A, r) * q / polynomial(&B, r)
}

fn tail(q: f64) -> f64 {
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    polynomial(&C, q) / polynomial(&D, q)
}

/// Coefficients from the highest power down.
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

#[cfg(test)]
mod tests {
    use groundswell_common::link::Quantiles;

    use super::*;

    const COUNT: u32 = 200_000;

    /// Mean and standard deviation over equally spaced draws.
    fn moments(distribution: Distribution) -> (f64, f64) {
        let values: Vec<f64> = (0..COUNT)
            .map(|k| deviation(distribution, (f64::from(k) + 0.5) / f64::from(COUNT)))
            .collect();
        let mean = values.iter().sum::<f64>() / f64::from(COUNT);
        let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        (mean, (square / f64::from(COUNT)).sqrt())
    }

    #[test]
    fn every_distribution_has_the_mean_and_the_spread_it_says() {
        let table = Distribution::Table(Quantiles::new(&[-2.0, 0.0, 2.0]).expect("a table"));
        for (distribution, spread, near) in [
            (Distribution::Uniform, 1.0 / 3.0_f64.sqrt(), 1e-6),
            (Distribution::Normal, 1.0, 1e-3),
            // Its spread lies in a tail so long that what is cut off of it shows.
            (Distribution::Pareto, 1.0, 0.06),
            (table, 2.0 / 3.0_f64.sqrt(), 1e-6),
        ] {
            let (mean, found) = moments(distribution);
            assert!(mean.abs() < 2e-3, "{distribution:?} has the mean {mean}");
            assert!((found - spread).abs() < near, "{distribution:?} spreads by {found}");
        }
    }

    #[test]
    fn known_quantiles_of_the_normal_distribution() {
        for (draw, value) in
            [(0.5, 0.0), (0.975, 1.959_964), (0.001, -3.090_232), (0.1, -1.281_552)]
        {
            assert!((normal_quantile(draw) - value).abs() < 1e-6, "{draw}");
        }
        assert!(normal_quantile(0.0).is_finite());
    }

    #[test]
    fn a_delay_is_never_negative_and_never_late_without_end() {
        let shape = |distribution| LinkShape {
            latency: Duration::from_millis(1),
            jitter: Duration::from_millis(10),
            distribution,
            ..LinkShape::default()
        };
        for distribution in [Distribution::Uniform, Distribution::Normal, Distribution::Pareto] {
            assert_eq!(delay(&shape(distribution), 0.0), Duration::ZERO);
            let latest = delay(&shape(distribution), 1.0 - f64::EPSILON / 2.0);
            assert!(latest <= Duration::from_millis(301), "{latest:?}");
        }
    }
}
