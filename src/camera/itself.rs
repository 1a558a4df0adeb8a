//! Suspicion: does the first exit look at this camera's frames as it used to?
//!
//! A camera is compared with its own past: how sure the first exit was in windows of frames. How much its windows differ from
//! each other while nothing is wrong is part of that past, so that scenes are no suspicion; and a suspicion that came to nothing
//! joins the past. It proves nothing, and only has this camera's frames audited for a while.

use std::collections::VecDeque;

use crate::heads::{BINS, Confidence, Reference};
use crate::promise::watch::Doubt;

/// Confidences after which is compared.
const SLICE: u32 = 50;
/// Slices that are compared at a time: 150 frames.
const SLICES: usize = 3;
/// Slices that make a past: 1,800 frames.
const SLICES_LEAST: usize = 36;
/// Slices remembered.
const SLICES_MOST: usize = 120;
/// By how much a past may tell more with every slice: how much it varied is forgotten more slowly than the slices are.
const RECOVERS: f64 = 1.003;
/// Blocks over which a past must reach.
const BLOCKS_LEAST: u64 = 40;
/// Audits that a suspicion lasts at least, unless what they say leaves a doubt.
const AUDITS: u64 = 400;
/// And blocks.
const AUDITED_BLOCKS: u64 = 4;

/// The memory of one camera's confidences.
#[derive(Debug, Clone)]
pub(super) struct Itself {
    /// The path that the confidences come from: another one's mean something else.
    path: u64,
    /// Confidences of the first slices, until bins are cut.
    first: Vec<Confidence>,
    edges: Option<[f32; BINS - 1]>,
    slice: [u32; BINS],
    seen: u32,
    past: VecDeque<[u32; BINS]>,
    reference: Option<Reference>,
    /// What the past tells, as a share of so many independent frames.
    worth: f64,
    suspicion: Option<Suspicion>,
}

#[derive(Debug, Clone)]
struct Suspicion {
    audits_left: u64,
    doubt: Doubt,
}

impl Suspicion {
    fn new(block: u64, epsilon: f64) -> Self {
        Self { audits_left: AUDITS.max(AUDITED_BLOCKS.saturating_mul(block)), doubt: Doubt::new(epsilon) }
    }
}

impl Itself {
    pub(super) fn new(path: u64) -> Self {
        Self {
            path,
            first: Vec::new(),
            edges: None,
            slice: [0; BINS],
            seen: 0,
            past: VecDeque::new(),
            reference: None,
            worth: 1.0,
            suspicion: None,
        }
    }

    pub(super) fn path(&self) -> u64 {
        self.path
    }

    pub(super) fn is_suspicious(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Takes how sure the first exit was of the camera's frame with this number. Of long blocks not every frame is looked at:
    /// windows are to reach over several.
    pub(super) fn observe(&mut self, number: u64, confidence: Confidence, block: u64, epsilon: f64) {
        let frames = SLICES_LEAST as u64 * u64::from(SLICE);
        let stride = (block * BLOCKS_LEAST).div_ceil(frames).max(1);
        if !number.is_multiple_of(stride) {
            return;
        }
        let Some(edges) = self.edges else {
            self.first.push(confidence);
            if self.first.len() >= SLICES * SLICE as usize {
                self.cut();
            }
            return;
        };
        count(&mut self.slice, &Reference { edges, counts: [0; BINS] }, confidence);
        self.seen += 1;
        if self.seen >= SLICE {
            self.seen = 0;
            let slice = std::mem::take(&mut self.slice);
            self.close(slice, block, epsilon);
        }
    }

    /// Cuts the bins, deciles of the first slices, which begin the past.
    fn cut(&mut self) {
        let first = std::mem::take(&mut self.first);
        let Some(reference) = Reference::of(&first) else { return };
        self.edges = Some(reference.edges);
        for confidences in first.chunks(SLICE as usize) {
            let mut slice = [0; BINS];
            confidences.iter().for_each(|confidence| count(&mut slice, &reference, *confidence));
            self.past.push_back(slice);
        }
    }

    fn close(&mut self, slice: [u32; BINS], block: u64, epsilon: f64) {
        self.past.push_back(slice);
        if self.past.len() > SLICES_MOST {
            self.past.pop_front();
        }
        let newest = sum(self.past.iter().rev().take(SLICES));
        let differs = self.reference.as_ref().is_some_and(|reference| reference.excess(&newest) > 1.0);
        if differs && self.suspicion.is_none() {
            self.suspicion = Some(Suspicion::new(block, epsilon));
        }
        // While it is suspected, what it was before is what it is held against.
        if self.suspicion.is_none() {
            self.refer();
        }
    }

    /// The past as one reference, as weak as its windows differ from each other.
    fn refer(&mut self) {
        let Some(edges) = self.edges.filter(|_| self.past.len() >= SLICES_LEAST) else { return };
        let all = sum(&self.past);
        let windows: Vec<_> =
            (0..=self.past.len() - SLICES).map(|from| sum(self.past.iter().skip(from).take(SLICES))).collect();
        let total = |counts: &[u32; BINS]| f64::from(counts.iter().sum::<u32>());
        let calmed = Reference { edges, counts: all }.calmed(&windows);
        self.worth = (self.worth * RECOVERS).min(total(&calmed.counts) / total(&all).max(1.0));
        let counts = all.map(|count| (f64::from(count) * self.worth).round() as u32);
        self.reference = Some(Reference { edges, counts });
    }

    /// Takes one audit: it shortens a suspicion, or prolongs it.
    pub(super) fn audited(&mut self, disagrees: bool, block: u64, epsilon: f64) {
        let Some(suspicion) = &mut self.suspicion else { return };
        suspicion.doubt.observe(disagrees);
        suspicion.audits_left = suspicion.audits_left.saturating_sub(1);
        if suspicion.audits_left > 0 {
            return;
        }
        if suspicion.doubt.stands() {
            *suspicion = Suspicion::new(block, epsilon);
        } else {
            self.suspicion = None;
            self.refer();
        }
    }
}

fn count(counts: &mut [u32; BINS], reference: &Reference, confidence: Confidence) {
    if let Some(count) = counts.get_mut(reference.bin(confidence)) {
        *count += 1;
    }
}

fn sum<'a>(slices: impl IntoIterator<Item = &'a [u32; BINS]>) -> [u32; BINS] {
    let mut all = [0; BINS];
    for slice in slices {
        all.iter_mut().zip(slice).for_each(|(sum, count)| *sum += count);
    }
    all
}
