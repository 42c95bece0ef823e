//! Ranks by Zipf's law: rank k of n comes with a probability in proportion to k to the power of -theta. Exact for every theta above 0, in
//! constant time and without a table, by rejection-inversion (W. Hörmann and G. Derflinger, *Rejection-inversion to generate variates from
//! monotone discrete distributions*, 1996): the area below a smooth hull of the probabilities is inverted, and the little that the hull
//! has too much is rejected. Pure; where the chance comes from is the caller's affair.

/// The law for a number of ranks.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    ranks: f64,
    theta: f64,
    area_first: f64,
    area_last: f64,
    /// Distances from a rank up to this one need no closer look.
    surely: f64,
}

impl Zipf {
    /// For ranks from 1 to `ranks`, which is at least 1; `theta` is above 0.
    pub(crate) fn new(ranks: u64, theta: f64) -> Zipf {
        assert!(ranks > 0 && theta > 0.0, "a law for {ranks} ranks with theta {theta}");
        let mut law = Zipf { ranks: ranks as f64, theta, area_first: 0.0, area_last: 0.0, surely: 0.0 };
        law.area_first = law.area(1.5) - 1.0;
        law.area_last = law.area(law.ranks + 0.5);
        law.surely = 2.0 - law.area_inverted(law.area(2.5) - law.height(2.0));
        law
    }

    /// A rank; `chance` gives numbers from 0 to below 1, one or seldom more of which are used.
    pub(crate) fn rank(&self, mut chance: impl FnMut() -> f64) -> u64 {
        loop {
            let area = self.area_last + chance() * (self.area_first - self.area_last);
            let x = self.area_inverted(area);
            let rank = (x + 0.5).floor().clamp(1.0, self.ranks);
            if rank - x <= self.surely || area >= self.area(rank + 0.5) - self.height(rank) {
                return rank as u64;
            }
        }
    }

    fn height(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// The area below the hull up to `x`; its logarithmic form holds for theta = 1, too.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_minus_one_over((1.0 - self.theta) * log) * log
    }

    fn area_inverted(&self, area: f64) -> f64 {
        // Rounding may lead out of what the logarithm is defined for.
        let scaled = (area * (1.0 - self.theta)).max(-1.0);
        (log_one_plus_over(scaled) * area).exp()
    }
}

/// `ln(1 + x) / x`, with its limit at 0.
fn log_one_plus_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x / 3.0) }
}

/// `(exp(x) - 1) / x`, with its limit at 0.
fn exp_minus_one_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x * 0.5 * (1.0 + x / 3.0) }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Chance;
    use super::*;

    /// How far the counts of many ranks are from the law, as chi-squared over its degrees of freedom: about 1 when they follow it.
    fn deviation(ranks: u64, theta: f64) -> f64 {
        const DRAWS: u32 = 400_000;
        let (law, mut chance) = (Zipf::new(ranks, theta), Chance::new(7));
        let mut counts = vec![0u32; ranks as usize];
        for _ in 0..DRAWS {
            counts[law.rank(|| chance.unit()) as usize - 1] += 1;
        }
        let weights: Vec<f64> = (1..=ranks).map(|rank| (rank as f64).powf(-theta)).collect();
        let all: f64 = weights.iter().sum();
        let squares = counts.iter().zip(&weights).map(|(count, weight)| {
            let expected = f64::from(DRAWS) * weight / all;
            (f64::from(*count) - expected).powi(2) / expected
        });
        squares.sum::<f64>() / (ranks - 1) as f64
    }

    #[test]
    fn ranks_follow_the_law_below_at_and_above_one() {
        for theta in [0.5, 0.99, 1.0, 1.2, 2.0] {
            let deviation = deviation(50, theta);
            assert!((0.4..1.8).contains(&deviation), "theta {theta}: chi-squared is {deviation} times its degrees of freedom");
        }
    }

    #[test]
    fn every_rank_is_within_the_ranks() {
        let mut chance = Chance::new(1);
        for (ranks, theta) in [(1, 0.99), (2, 0.01), (3, 10.0), (u64::from(u32::MAX), 0.99)] {
            let law = Zipf::new(ranks, theta);
            for _ in 0..10_000 {
                assert!((1..=ranks).contains(&law.rank(|| chance.unit())), "{ranks} ranks, theta {theta}");
            }
            for extreme in [0.0, 1.0 - f64::EPSILON] {
                let mut first = Some(extreme);
                assert!((1..=ranks).contains(&law.rank(|| first.take().unwrap_or_else(|| chance.unit()))), "{extreme} of {ranks} ranks");
            }
        }
    }
}
