//! The tails of the two distributions that tests need: the normal one and Student's t.

/// More halvings than the 53 bits of a float have.
const HALVINGS: usize = 200;

/// How likely a number of the standard normal distribution is above `z`.
pub(super) fn normal_above(z: f64) -> f64 {
    let upper = half_erfc(z.abs() / std::f64::consts::SQRT_2);
    if z < 0.0 { 1.0 - upper } else { upper }
}

/// The number that a standard normal one exceeds with the probability `above`, which is at most a half.
pub(super) fn normal_quantile(above: f64) -> f64 {
    bisect(|z| normal_above(z) > above)
}

/// How likely a number of Student's t distribution is further from zero than `t`.
pub(super) fn student_beyond(t: f64, freedom: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(freedom / (freedom + t * t), freedom / 2.0, 0.5)
}

/// The number that is beyond zero as far as `beyond` of Student's t distribution is, both tails together.
pub(super) fn student_quantile(beyond: f64, freedom: f64) -> f64 {
    bisect(|t| student_beyond(t, freedom) > beyond)
}

/// The greatest number from 0 on for which `holds`, which does for all that are less.
fn bisect(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while holds(high) && high < 1e12 {
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Half the complementary error function, for `x` from 0 on.
///
/// Below 2 by the series of the error function (Abramowitz and Stegun, 7.1.6), from there on by the continued
/// fraction (7.1.14).
fn half_erfc(x: f64) -> f64 {
    let density = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let fraction = (1..120).rev().fold(x, |tail, n| x + f64::from(n) / 2.0 / tail);
    density / fraction / 2.0
}

/// The regularized incomplete beta function, by its continued fraction (Press et al., Numerical Recipes, 6.4).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

/// The continued fraction, by the method of Lentz.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    let away = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut product = d;
    for m in (1..1000).map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away(1.0 + even * d);
        c = away(1.0 + even / c);
        product *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away(1.0 + odd * d);
        c = away(1.0 + odd / c);
        product *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    product
}

/// The logarithm of the gamma function of a positive number, by Lanczos' approximation with g = 7 and nine terms.
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    // The approximation is good from 1/2 on, and no caller has less.
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    let mut at = x;
    for term in TERMS {
        at += 1.0;
        sum += term / at;
    }
    let base = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * base.ln() - base + sum.ln()
}
