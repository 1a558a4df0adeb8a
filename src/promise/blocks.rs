//! Trials from audits of frames that resemble their neighbours: of each block of B consecutive frames of a camera the audit
//! with the smallest draw.
//!
//! The frame with the smallest draw is a uniform choice within its block, at whatever rate was audited, as long as one was.
//! So a trial errs with the block's share of errors, the mean over equal blocks is the risk of a frame, and blocks as long as
//! errors hang together make trials that are nearly independent: the exact binomial test of single frames stays.

use std::collections::HashMap;

use crate::audit::{CameraId, Place};

/// Cameras remembered; beyond it all are forgotten at once, which costs each of them a block.
const CAMERAS_MAX: usize = 65_536;

/// The trials that came after a training, each carrying `T`.
#[derive(Debug, Clone)]
pub struct Blocks<T> {
    length: u64,
    cameras: HashMap<CameraId, Camera<T>>,
    trials: Vec<T>,
    /// Trials that were let go of before the first one held.
    gone: u64,
    audits: u64,
}

#[derive(Debug, Clone)]
struct Camera<T> {
    stream: u64,
    block: u64,
    /// The smallest draw of the block so far, and what was seen there.
    least: f64,
    trial: T,
    /// The camera's first block after the training may show the scene that was trained on: it certifies nothing.
    counts: bool,
    /// The newest block that is over, which audits from another lane may still belong to: its smallest draw, and its trial's
    /// number if it counts.
    before: Option<(u64, f64, Option<u64>)>,
}

impl<T> Blocks<T> {
    /// Blocks of so many frames; 1 or less: every frame is a trial, whatever came before it.
    #[must_use]
    pub fn new(length: u64) -> Self {
        Self { length: length.max(1), cameras: HashMap::new(), trials: Vec::new(), gone: 0, audits: 0 }
    }

    /// Frames in a block.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Audits that were looked at.
    #[must_use]
    pub fn audits(&self) -> u64 {
        self.audits
    }

    /// The trials held, in the order in which their blocks ended.
    #[must_use]
    pub fn trials(&self) -> &[T] {
        &self.trials
    }

    /// Lets go of all but the newest `keep` trials.
    pub fn keep_newest(&mut self, keep: usize) {
        let surplus = self.trials.len().saturating_sub(keep);
        self.trials.drain(..surplus);
        self.gone += surplus as u64;
    }

    /// Takes one audit whose draw every worker shares.
    pub fn push(&mut self, place: Place, draw: f64, trial: T) {
        self.audits += 1;
        if self.length == 1 {
            self.trials.push(trial);
            return;
        }
        if self.cameras.len() >= CAMERAS_MAX && !self.cameras.contains_key(&place.camera) {
            self.cameras.clear();
        }
        let block = place.number / self.length;
        let fresh = |trial, counts, before| Camera { stream: place.stream, block, least: draw, trial, counts, before };
        let Some(camera) = self.cameras.get_mut(&place.camera) else {
            self.cameras.insert(place.camera, fresh(trial, false, None));
            return;
        };
        if camera.stream != place.stream {
            // How far it is from the frames before is unknown: their last block was cut short, and says nothing.
            let counts = camera.counts;
            *camera = fresh(trial, counts, None);
        } else if block > camera.block {
            let ended = std::mem::replace(camera, fresh(trial, true, None));
            let number = ended.counts.then_some(self.gone + self.trials.len() as u64);
            camera.before = Some((ended.block, ended.least, number));
            self.trials.extend(ended.counts.then_some(ended.trial));
        } else if block == camera.block {
            if draw < camera.least {
                (camera.least, camera.trial) = (draw, trial);
            }
        } else if let Some((before, least, number)) = &mut camera.before {
            // A lane that was slower than another.
            if block > *before {
                (*before, *least, *number) = (block, draw, Some(self.gone + self.trials.len() as u64));
                self.trials.push(trial);
            } else if block == *before && draw < *least {
                *least = draw;
                let held = number.and_then(|number| self.trials.get_mut(number.checked_sub(self.gone)? as usize));
                if let Some(held) = held {
                    *held = trial;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::promise::dice::Dice;

    fn place(camera: u64, stream: u64, number: u64) -> Place {
        Place { camera: CameraId(camera), stream, number }
    }

    proptest! {
        /// Goal: of every whole block but each camera's first the smallest draw that was audited is the trial, in whatever order
        /// lanes bring neighbours. Method: against the definition; each pair of frames of a camera may be swapped.
        #[test]
        fn the_smallest_draw_of_a_block_is_its_trial(
            length in 1..12_u64,
            frames in prop::collection::vec((0..3_u64, 0.0..1.0_f64, any::<bool>()), 0..300),
            rate in 0.05..=1.0_f64,
        ) {
            let mut numbers = [0; 3];
            let mut audits: Vec<(Place, f64, bool)> = frames.into_iter().map(|(camera, draw, swap)| {
                numbers[camera as usize] += 1;
                (place(camera, 9, numbers[camera as usize] - 1), draw, swap)
            }).filter(|(_, draw, _)| *draw < rate).collect();
            let mut expected = std::collections::BTreeMap::new();
            for (place, draw, _) in &audits {
                let entry = expected.entry((place.camera, place.number / length)).or_insert(*draw);
                *entry = entry.min(*draw);
            }
            for at in (1..audits.len()).step_by(2) {
                // Within a block's length, as far as lanes are apart.
                if audits[at].2 && length > 1 && audits[at].0.number / length <= audits[at - 1].0.number / length + 1 {
                    audits.swap(at - 1, at);
                }
            }
            let first_seen = |camera: u64| audits.iter().find(|(place, ..)| place.camera.0 == camera).map(|(place, ..)| place.number / length);
            let (firsts, lasts) = ([0, 1, 2].map(first_seen), [0, 1, 2].map(|camera| expected.keys().filter(|(c, _)| c.0 == camera).map(|(_, block)| *block).max()));
            let mut blocks = Blocks::new(length);
            for (place, draw, _) in &audits {
                blocks.push(*place, *draw, *draw);
            }
            let mut trials = blocks.trials().to_vec();
            let counts = |((camera, block), _): &(&(CameraId, u64), &f64)| {
                let camera = camera.0 as usize;
                length == 1 || (firsts[camera].is_none_or(|first| *block > first) && lasts[camera].is_some_and(|last| *block < last))
            };
            let mut expected: Vec<f64> = expected.iter().filter(counts).map(|(_, draw)| *draw).collect();
            trials.sort_by(f64::total_cmp);
            expected.sort_by(f64::total_cmp);
            prop_assert_eq!(trials, expected);
        }

        #[test]
        fn what_is_let_go_of_is_the_oldest(count in 0..200_u64, keep in 0..50_usize, length in 1..5_u64) {
            let mut blocks = Blocks::new(length);
            for number in 0..count {
                blocks.push(place(1, 1, number), 0.5, number);
                // A late audit of the block before must find its trial, and no other.
                blocks.push(place(1, 1, number.saturating_sub(length)), 0.6, u64::MAX);
                if length > 1 {
                    blocks.keep_newest(keep.max(1));
                }
            }
            blocks.keep_newest(keep);
            prop_assert!(blocks.trials().len() <= keep && (length == 1 || blocks.trials().iter().all(|trial| *trial != u64::MAX)));
        }
    }

    /// Goal: a trial errs as often as a frame does. Method: the first half of each block errs, audited at changing rates.
    #[test]
    fn a_trial_is_a_uniform_choice() {
        let mut dice = Dice::new(5);
        let mut blocks = Blocks::new(10);
        for number in 0..400_000 {
            let (draw, rate) = (dice.unit(), [1.0, 0.3, 0.01][number as usize / 10 % 3]);
            if draw < rate {
                blocks.push(place(1, 1, number), draw, number % 10 < 5);
            }
        }
        let (trials, wrong) =
            (blocks.trials().len() as f64, blocks.trials().iter().filter(|wrong| **wrong).count() as f64);
        assert!((wrong / trials - 0.5).abs() < 4.0 * (0.25 / trials).sqrt(), "{wrong} of {trials}");
    }

    #[test]
    fn a_new_stream_cuts_the_block_short() {
        let mut blocks = Blocks::new(4);
        for (stream, number) in [(1, 3), (1, 4), (1, 6), (2, 0), (2, 5), (2, 8)] {
            blocks.push(place(1, stream, number), 0.5, (stream, number));
        }
        assert_eq!(blocks.trials(), [(2, 0), (2, 5)]);
    }

    #[test]
    fn cameras_are_bounded() {
        let mut blocks = Blocks::new(2);
        for camera in 0..200_000 {
            blocks.push(place(camera, 1, 0), 0.5, ());
        }
        assert!(blocks.cameras.len() <= CAMERAS_MAX);
    }
}
