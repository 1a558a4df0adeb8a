//! Does the promise still hold? An e-detector on fresh audits of the policy in force.
//!
//! For every bet `b` on a disagreement above the promised `epsilon` there is a test martingale under "the disagreement is
//! at most epsilon": each audit multiplies it by `1 + b (x - epsilon)`, x = 1 on a disagreement. Restarted at every audit
//! and summed (Shiryaev and Roberts; Shin, Ramdas and Rinaldo, arXiv 2203.03532), the statistic minus the frames seen is a
//! supermartingale: the expected number of frames until it exceeds A without cause is at least A, whatever the audit rates
//! were, as long as each audit starts with the weight of the frames that it stands for.

/// Disagreements that are bet on. Each bet is the one that grows fastest if the disagreement is that.
const ALTERNATIVES: [f64; 4] = [0.02, 0.04, 0.10, 0.30];

/// The detector.
#[derive(Debug, Clone)]
pub struct Watch {
    epsilon: f64,
    limit: f64,
    bets: [f64; 4],
    sums: [f64; 4],
    /// Per bet, the logarithm of its best martingale over all starts (Page's CUSUM), and that start: the likeliest time
    /// of the change.
    excursions: [f64; 4],
    starts: [u64; 4],
    /// Seen since it began.
    audits: u64,
    disagreements: u64,
}

fn bets(epsilon: f64) -> [f64; 4] {
    ALTERNATIVES.map(|q| {
        let q = q.max(1.5 * epsilon).min(0.9);
        (q - epsilon) / (epsilon * (1.0 - epsilon))
    })
}

/// What one audit multiplies the wealth of a bet by.
fn payoff(bet: f64, epsilon: f64, disagrees: bool) -> f64 {
    1.0 + bet * (f64::from(u8::from(disagrees)) - epsilon)
}

impl Watch {
    /// `frames` is the expected number of frames between two false alarms, at least.
    #[must_use]
    pub fn new(epsilon: f64, frames: f64) -> Self {
        Self {
            epsilon,
            limit: frames,
            bets: bets(epsilon),
            sums: [0.0; 4],
            excursions: [0.0; 4],
            starts: [0; 4],
            audits: 0,
            disagreements: 0,
        }
    }

    /// Audits seen.
    #[must_use]
    pub fn audits(&self) -> u64 {
        self.audits
    }

    /// Disagreements among them.
    #[must_use]
    pub fn disagreements(&self) -> u64 {
        self.disagreements
    }

    /// Takes one fresh audit: whether the policy's answer differs from the backbone's, the frames it stands for (one over
    /// the audit rate) and a mark for its place. Returns the mark at which the change seems to have begun, on alarm.
    pub fn observe(&mut self, disagrees: bool, frames: f64, mark: u64) -> Option<u64> {
        self.audits += 1;
        self.disagreements += u64::from(disagrees);
        let share = frames.max(1.0) / self.bets.len() as f64;
        for (index, bet) in self.bets.into_iter().enumerate() {
            let factor = payoff(bet, self.epsilon, disagrees);
            self.sums[index] = (self.sums[index] + share) * factor;
            if self.excursions[index] <= 0.0 {
                self.excursions[index] = 0.0;
                self.starts[index] = mark;
            }
            self.excursions[index] += factor.ln();
        }
        let total: f64 = self.sums.iter().sum();
        if total < self.limit {
            return None;
        }
        let strongest = self.excursions.iter().zip(self.starts).max_by(|a, b| a.0.total_cmp(b.0));
        strongest.map(|(_, start)| start)
    }
}

/// What the audits of one suspicion say: the same bets, all begun with it. Decides nothing but how long to go on asking.
#[derive(Debug, Clone)]
pub struct Doubt {
    epsilon: f64,
    bets: [f64; 4],
    wealth: [f64; 4],
}

impl Doubt {
    /// Wealth that leaves a doubt: with a disagreement of at most epsilon, one suspicion in ten at most makes so much.
    const STANDS: f64 = 10.0;

    /// Nothing asked yet.
    #[must_use]
    pub fn new(epsilon: f64) -> Self {
        Self { epsilon, bets: bets(epsilon), wealth: [1.0 / 4.0; 4] }
    }

    /// Takes one audit since the suspicion: whether the policy's answer differs from the backbone's.
    pub fn observe(&mut self, disagrees: bool) {
        let bets = self.wealth.iter_mut().zip(self.bets);
        bets.for_each(|(wealth, bet)| *wealth *= payoff(bet, self.epsilon, disagrees));
    }

    /// Whether the promise is in doubt.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.wealth.iter().sum::<f64>() >= Self::STANDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::dice::Dice;

    /// Goal: a doubt is left by twice the promised disagreement more often than not, by what is usual hardly ever. Method:
    /// 200 suspicions of 800 audits each.
    #[test]
    fn doubts_are_left_by_what_is_doubtful() {
        let mut rng = Dice::new(3);
        let mut left = |disagreement: f64| {
            let suspicion = |_: &i32| {
                let mut doubt = Doubt::new(0.01);
                (0..800).for_each(|_| doubt.observe(rng.unit() < disagreement));
                doubt.stands()
            };
            (0..200).filter(suspicion).count()
        };
        assert!(left(0.022) > 100 && left(0.04) > 190);
        assert!(left(0.006) < 10 && left(0.01) < 20);
    }

    /// Audits until the alarm, at this disagreement; at most `most`.
    fn audits_until_alarm(disagreement: f64, frames_per_audit: f64, most: u64, rng: &mut Dice) -> u64 {
        let mut watch = Watch::new(0.01, 1e6);
        for audit in 0..most {
            let disagrees = rng.unit() < disagreement;
            if watch.observe(disagrees, frames_per_audit, audit).is_some() {
                return audit + 1;
            }
        }
        most
    }

    /// Goal: no more than one false alarm in a million frames at the worst disagreement that keeps the promise, whatever
    /// the audit rate. Method: runs are cut at three million frames, so the mean is a lower estimate.
    #[test]
    fn it_cries_wolf_at_most_once_in_a_million_frames() {
        for frames_per_audit in [1.0, 2.0, 100.0] {
            let mut rng = Dice::new(17);
            let runs = if frames_per_audit > 10.0 { 60 } else { 3 };
            let most = (3e6 / frames_per_audit) as u64;
            let total: u64 = (0..runs).map(|_| audits_until_alarm(0.01, frames_per_audit, most, &mut rng)).sum();
            let mean = total as f64 * frames_per_audit / f64::from(runs);
            assert!(mean > 1e6, "{mean} frames at one audit in {frames_per_audit}");
        }
    }

    /// At 50 % audits a rise to 4 % must be found within 2,000 frames, so within 1,000 audits.
    #[test]
    fn a_rise_to_four_percent_is_found_in_time() {
        let mut rng = Dice::new(5);
        let mut delays: Vec<u64> = (0..200).map(|_| audits_until_alarm(0.04, 2.0, 100_000, &mut rng)).collect();
        delays.sort_unstable();
        assert!(delays[100] < 500, "median {} audits", delays[100]);
        assert!(delays[180] < 1000, "nine in ten {} audits", delays[180]);
    }

    #[test]
    fn the_change_is_dated() {
        let mut rng = Dice::new(9);
        let mut watch = Watch::new(0.01, 1e6);
        for audit in 0..5000u64 {
            let disagreement = if audit < 3000 { 0.002 } else { 0.2 };
            if let Some(start) = watch.observe(rng.unit() < disagreement, 1.0, audit) {
                assert!((2900..3100).contains(&start), "dated {start}");
                return;
            }
        }
        panic!("no alarm");
    }
}
