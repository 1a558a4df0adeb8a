//! One delta for a whole stream: every version that is tested gets its share, and the shares sum to delta.

/// The share of `delta` for the version `number`, counted from 1 since the last alarm: `delta / (v (v + 1))`. The sum over all
/// v is delta, so that all certificates of a stream hold together with probability 1 - delta, the choice of the cheapest
/// among them included (a union bound).
#[must_use]
pub fn delta_of_version(delta: f64, number: u64) -> f64 {
    let number = number.max(1) as f64;
    delta / (number * (number + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_sum_to_delta() {
        let sum: f64 = (1..100_000).map(|number| delta_of_version(0.05, number)).sum();
        assert!(sum < 0.05 && sum > 0.0499, "{sum}");
        assert!((delta_of_version(0.05, 0) - delta_of_version(0.05, 1)).abs() < 1e-12, "no version is number 0");
    }
}
