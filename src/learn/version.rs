//! One version of the heads: trained on the past, judged on what came after.

use std::collections::HashSet;

use crate::heads::{HeadSet, Scratch};
use crate::learn::certify::{self, CandidateHead, CertifiedPath, LOOKS, Promise};
use crate::learn::config::LearnConfig;
use crate::learn::sample::Sample;
use crate::learn::select::{self, Row};
use crate::learn::window::Entry;
use crate::plan::CostTable;

/// Rows kept per version; far more than any certificate needs.
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
    pub(crate) rows: Vec<Row>,
    looks: Vec<usize>,
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
        let least = certify::least_audits(config.epsilon, config.delta / f64::from(LOOKS));
        // Growing looks, the second of which comes when a version's tests are two thirds of its training.
        let first = least.max(trained / 3);
        let looks = (0..LOOKS).map(|look| first.saturating_mul(1 << look)).collect();
        Self {
            heads,
            subset,
            trained,
            judged_to: next_serial,
            trained_frames,
            rows: Vec::new(),
            looks,
            published: None,
            certified: None,
        }
    }

    /// The heads of a policy that is already in force: judged on, never certified again.
    pub(crate) fn resumed(set: &HeadSet, next_serial: u64) -> Self {
        let positions = 0..set.exits().len();
        let heads = positions
            .map(|position| CandidateHead::new(set.head(position).as_ref().clone()))
            .collect();
        let subset = set
            .exits()
            .iter()
            .fold(0, |subset, exit| subset | 1u8 << (exit.index() & 7));
        Self {
            heads,
            subset,
            trained: 0,
            judged_to: next_serial,
            trained_frames: HashSet::new(),
            rows: Vec::new(),
            looks: Vec::new(),
            published: Some(set.version()),
            certified: None,
        }
    }

    /// Judges one sample that came after the training.
    pub(crate) fn judge(&mut self, entry: &Entry, scratch: &mut Scratch) {
        self.judged_to = entry.serial + 1;
        let trained_on = entry
            .sample
            .frame()
            .is_some_and(|frame| self.trained_frames.contains(&frame));
        if entry.certifies && !trained_on && self.rows.len() < ROWS_MAX {
            self.rows.push(row(&self.heads, self.subset, &entry.sample, scratch));
        }
    }

    /// The number of audits that the next look waits for.
    pub(crate) fn next_look(&self) -> Option<usize> {
        self.looks.first().copied()
    }

    /// Takes the largest planned look that the rows allow; earlier ones are forgone, never taken late. True when there
    /// was one.
    pub(crate) fn look(&mut self, config: &LearnConfig) -> bool {
        let due = self.looks.iter().take_while(|look| **look <= self.rows.len()).count();
        let Some(size) = due.checked_sub(1).and_then(|last| self.looks.get(last)).copied() else {
            return false;
        };
        self.looks.drain(..due);
        let look_delta = config.delta / f64::from(LOOKS);
        let promise = Promise {
            epsilon: config.epsilon,
            delta: config.delta,
            look_delta,
        };
        if self.subset != 0 {
            if let Some(path) = certify::certify(&self.heads, &self.rows[..size], self.subset, promise) {
                self.certified = Some(path);
            }
        }
        true
    }

    /// Mean milliseconds per frame of a threshold on the newest rows.
    pub(crate) fn cost(&self, threshold: f32, costs: &CostTable, newest: usize) -> f64 {
        let from = self.rows.len().saturating_sub(newest);
        select::expected_cost(&self.rows[from..], self.subset, threshold, costs)
    }
}

/// How the heads of `subset` judge a sample.
pub(crate) fn row(heads: &[CandidateHead], subset: u8, sample: &Sample, scratch: &mut Scratch) -> Row {
    let mut row = Row {
        confidences: [0.0; 8],
        agrees: 0,
    };
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
