//! One version of the heads: trained on the past, judged on what came after.

use std::collections::HashSet;

use crate::heads::{HeadSet, Scratch};
use crate::learn::certify::{self, CandidateHead, CertifiedPath, LOOK_SHARES, Promise};
use crate::learn::config::LearnConfig;
use crate::learn::sample::Sample;
use crate::learn::select::{self, Row};
use crate::learn::window::Entry;
use crate::plan::{CostTable, Plan};

/// Rows kept per version; far more than any certificate needs. From then on the newest count.
const ROWS_MAX: usize = 50_000;

/// A frozen set of candidate heads and how they did on audits that came after their training.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) heads: Vec<CandidateHead>,
    /// Bit k: candidate k is in the chosen set.
    pub(crate) subset: u8,
    /// Audits that trained it, copies not counted.
    pub(crate) trained: usize,
    /// Samples from this serial on were not seen in training.
    pub(crate) judged_to: u64,
    /// Frames that trained it, as copies perhaps: they never certify it.
    trained_frames: HashSet<u64>,
    /// Samples up to this offset may have trained it; known of a policy that was taken over.
    trained_position: i64,
    pub(crate) rows: Vec<Row>,
    /// Planned looks that are still to come: audits needed, share of delta.
    looks: Vec<(usize, f64)>,
    /// The sequence number under which its heads were published.
    pub(crate) published: Option<u64>,
    /// The boldest path certified so far.
    pub(crate) certified: Option<CertifiedPath>,
}

impl Version {
    /// `next_serial` is the first serial after the training's last sample.
    pub(crate) fn new(
        config: &LearnConfig,
        heads: Vec<CandidateHead>,
        subset: u8,
        trained: usize,
        trained_frames: HashSet<u64>,
        next_serial: u64,
    ) -> Self {
        let least = certify::least_audits(config.epsilon, config.delta * LOOK_SHARES[0]);
        let first = least.max(trained / 3);
        let main = first.saturating_mul(2);
        let looks = [first, main].into_iter().zip(LOOK_SHARES).collect();
        Self {
            heads,
            subset,
            trained,
            judged_to: next_serial,
            trained_frames,
            trained_position: i64::MIN,
            rows: Vec::new(),
            looks,
            published: None,
            certified: None,
        }
    }

    /// The heads of a policy that is already in force: judged on what came after `trained_position`, never certified again.
    pub(crate) fn resumed(set: &HeadSet, next_serial: u64, trained_position: i64) -> Self {
        let positions = 0..set.exits().len();
        let heads = positions.map(|position| CandidateHead::new(set.head(position).as_ref().clone())).collect();
        let subset = set.exits().iter().fold(0, |subset, exit| subset | 1u8 << (exit.index() & 7));
        Self {
            heads,
            subset,
            trained: 0,
            judged_to: next_serial,
            trained_frames: HashSet::new(),
            trained_position,
            rows: Vec::new(),
            looks: Vec::new(),
            published: Some(set.version()),
            certified: None,
        }
    }

    /// Judges one sample that came after the training.
    pub(crate) fn judge(&mut self, entry: &Entry, scratch: &mut Scratch) {
        self.judged_to = entry.serial + 1;
        let trained_on = entry.position <= self.trained_position
            || entry.sample.frame().is_some_and(|frame| self.trained_frames.contains(&frame));
        if entry.certifies && !trained_on {
            self.rows.push(row(&self.heads, self.subset, &entry.sample, scratch));
            if self.rows.len() > ROWS_MAX {
                // Planned looks count from the first row: they are over long before.
                self.rows.drain(..ROWS_MAX / 2);
                self.looks.clear();
            }
        }
    }

    /// The number of audits that the next look waits for.
    pub(crate) fn next_look(&self) -> Option<usize> {
        self.looks.first().map(|(audits, _)| *audits)
    }

    /// Whether it has exits and a look at them is still to come.
    pub(crate) fn may_certify(&self) -> bool {
        self.subset != 0 && self.next_look().is_some()
    }

    /// Takes the largest planned look that the rows allow; earlier ones are forgone, never taken late. True when there
    /// was one.
    pub(crate) fn look(&mut self, config: &LearnConfig) -> bool {
        let due = self.looks.iter().take_while(|(audits, _)| *audits <= self.rows.len()).count();
        let Some(look) = due.checked_sub(1).and_then(|last| self.looks.get(last)).copied() else {
            return false;
        };
        let (size, share) = look;
        self.looks.drain(..due);
        let look_delta = config.delta * share;
        let promise = Promise { epsilon: config.epsilon, delta: config.delta, look_delta };
        if let Some(path) = certify::certify(&self.heads, &self.rows[..size], self.subset, promise) {
            self.certified = Some(path);
        }
        true
    }

    /// Mean milliseconds per frame of a threshold on the newest rows.
    pub(crate) fn cost(&self, threshold: f32, costs: &CostTable, plan: &Plan, newest: usize) -> f64 {
        let from = self.rows.len().saturating_sub(newest);
        select::expected_cost(&self.rows[from..], self.subset, threshold, &priced(costs, plan, &self.heads))
    }
}

/// The costs with these heads, which may be larger than those that were timed: in proportion to their FLOPs.
pub(crate) fn priced(costs: &CostTable, plan: &Plan, heads: &[CandidateHead]) -> CostTable {
    let mut costs = costs.clone();
    for head in heads.iter().map(CandidateHead::head) {
        let k = head.exit().index();
        if let (Some(ms), Some(point)) = (costs.head_ms.get_mut(k), plan.candidates.get(k)) {
            *ms *= head.flops() as f64 / point.head_flops.max(1) as f64;
        }
    }
    costs
}

/// How the heads of `subset` judge a sample.
pub(crate) fn row(heads: &[CandidateHead], subset: u8, sample: &Sample, scratch: &mut Scratch) -> Row {
    let mut row = Row { confidences: [0.0; 8], agrees: 0 };
    for head in heads.iter().map(CandidateHead::head) {
        let k = head.exit().index();
        let Some(features) = sample.features(k).filter(|_| k < 8 && subset >> k & 1 == 1) else {
            continue;
        };
        let verdict = head.judge_stored(features, scratch);
        row.confidences[k] = verdict.confidence.get();
        row.agrees |= u8::from(verdict.class == sample.answer()) << k;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::rng::Rng;

    /// A frame whose confidence is uniform and whose chance to be wrong at that confidence is `steepness * (1 - c)^2`.
    fn frame(steepness: f32, rng: &mut Rng) -> Row {
        let confidence = rng.unit();
        let wrong = steepness * (1.0 - confidence).powi(2);
        let agrees = u8::from(rng.unit() >= wrong);
        Row { confidences: [confidence, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], agrees }
    }

    /// Share of all frames that leave and are wrong at a threshold: the integral of the above.
    fn true_risk(steepness: f32, threshold: f32) -> f64 {
        f64::from(steepness) * f64::from(1.0 - threshold).powi(3) / 3.0
    }

    /// Goal: at most a share delta of all streams ever publishes a certificate that is wrong. Method: 200 streams with a
    /// known risk curve; all planned looks are taken as the data grows, as in the learner.
    #[test]
    fn certificates_hold_over_all_looks() {
        let config = LearnConfig::default();
        let (mut broken, mut certificates) = (0, 0);
        for stream in 0..200u64 {
            let mut rng = Rng::new(stream);
            let steepness = [0.3, 1.0, 3.0, 10.0][stream as usize % 4];
            let mut version = Version::new(&config, Vec::new(), 1, 600, HashSet::new(), 0);
            let mut wrong = false;
            while let Some(look) = version.next_look() {
                while version.rows.len() < look {
                    version.rows.push(frame(steepness, &mut rng));
                }
                assert!(version.look(&config));
                if let Some(path) = &version.certified {
                    certificates += 1;
                    wrong |= true_risk(steepness, path.threshold.get()) > config.epsilon;
                }
            }
            broken += u32::from(wrong);
        }
        assert!(certificates > 300, "{certificates} certificates");
        assert!(broken <= 10, "{broken} of 200 streams published a wrong certificate");
    }

    #[test]
    fn looks_that_were_missed_are_forgone() {
        let config = LearnConfig::default();
        let mut version = Version::new(&config, Vec::new(), 1, 600, HashSet::new(), 0);
        let (second, _) = version.looks[1];
        version.rows = (0..second + 5).map(|_| Row { confidences: [0.9; 8], agrees: 1 }).collect();
        assert!(version.look(&config) && !version.look(&config));
        assert_eq!(version.looks.len(), 0);
        assert_eq!(version.certified.map(|path| path.certificate.n), Some(second as u64));
    }
}
