//! The recent samples, in log order, bounded in number and bytes; and which of them may certify.
//!
//! Has no clock: it knows time only as the samples tell it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::learn::config::LearnConfig;
use crate::learn::sample::{Sample, SampleRejection};

/// A capture time this far behind the camera's last one is a jump of its clock, milliseconds.
const JUMP_BACK_MS: i64 = 3_600_000;
/// And this far ahead, milliseconds.
const JUMP_AHEAD_MS: i64 = 30 * 86_400_000;
/// Cameras remembered; beyond it all are forgotten at once, which costs a few dependent trials and no memory.
const CAMERAS_MAX: usize = 65_536;

/// A sample with its place in the order of acceptance.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Counts accepted samples from 0. Ascends; what was dropped leaves a gap.
    pub(crate) serial: u64,
    /// Its offset in the samples log.
    pub(crate) position: i64,
    pub(crate) sample: Arc<Sample>,
    /// Whether it is an independent trial: no copy, and not too close to the camera's last one.
    pub(crate) certifies: bool,
}

#[derive(Debug)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    samples_max: usize,
    bytes_max: usize,
    interval_ms: i64,
    bytes: usize,
    copies: usize,
    next_serial: u64,
    last_position: Option<i64>,
    /// Originals held, by frame: a frame that Kafka delivers twice counts once.
    frames: HashSet<u64>,
    /// Per camera: the last capture time and the last one that certified.
    cameras: HashMap<String, (i64, Option<i64>)>,
}

impl Window {
    pub(crate) fn new(config: &LearnConfig) -> Self {
        Self {
            entries: VecDeque::new(),
            samples_max: config.window_samples.max(1),
            bytes_max: config.window_bytes,
            interval_ms: config.camera_interval_ms,
            bytes: 0,
            copies: 0,
            next_serial: 0,
            last_position: None,
            frames: HashSet::new(),
            cameras: HashMap::new(),
        }
    }

    pub(crate) fn push(&mut self, sample: Sample, position: i64) -> Result<(), SampleRejection> {
        if self.last_position.is_some_and(|last| position <= last) {
            return Err(SampleRejection::Replayed { position });
        }
        self.last_position = Some(position);
        if !sample.is_copy() && sample.frame().is_some_and(|frame| self.frames.contains(&frame)) {
            return Err(SampleRejection::Duplicate);
        }
        let certifies = self.note_time(&sample)? && !sample.is_copy();
        if let Some(frame) = sample.frame().filter(|_| !sample.is_copy()) {
            self.frames.insert(frame);
        }
        self.bytes += sample.bytes();
        self.copies += usize::from(sample.is_copy());
        self.entries.push_back(Entry { serial: self.next_serial, position, sample: Arc::new(sample), certifies });
        self.next_serial += 1;
        self.make_room();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.entries.len() > self.samples_max || (self.bytes > self.bytes_max && self.entries.len() > 1)
    }

    /// Copies go before any original, the oldest first, a good part at a time.
    fn make_room(&mut self) {
        if self.is_full() && self.copies > 0 {
            let mut surplus = self.entries.len().div_ceil(16);
            let (bytes, copies) = (&mut self.bytes, &mut self.copies);
            self.entries.retain(|entry| {
                let goes = surplus > 0 && entry.sample.is_copy();
                if goes {
                    surplus -= 1;
                    *copies -= 1;
                    *bytes -= entry.sample.bytes();
                }
                !goes
            });
        }
        while self.is_full() {
            let Some(old) = self.entries.pop_front() else { return };
            self.bytes -= old.sample.bytes();
            if old.sample.is_copy() {
                self.copies -= 1;
            } else if let Some(frame) = old.sample.frame() {
                self.frames.remove(&frame);
            }
        }
    }

    /// Whether the sample is far enough from its camera's last trial. A clock that jumps costs one sample: the next one is
    /// measured against the new time.
    fn note_time(&mut self, sample: &Sample) -> Result<bool, SampleRejection> {
        let Some(now) = sample.captured_at_ms() else {
            return Ok(true);
        };
        if self.cameras.len() > CAMERAS_MAX {
            self.cameras.clear();
        }
        let Some((last, trial)) = self.cameras.get_mut(sample.camera()) else {
            let trial = (!sample.is_copy()).then_some(now);
            self.cameras.insert(sample.camera().to_owned(), (now, trial));
            return Ok(true);
        };
        let step = now - *last;
        *last = now;
        if !(-JUMP_BACK_MS..=JUMP_AHEAD_MS).contains(&step) {
            *trial = None;
            return Err(SampleRejection::Clock { captured_at_ms: now });
        }
        let apart = trial.is_none_or(|trial| (now - trial).abs() >= self.interval_ms);
        if apart && !sample.is_copy() {
            *trial = Some(now);
        }
        Ok(apart)
    }

    /// Entries from this serial on, in order.
    pub(crate) fn since(&self, serial: u64) -> impl Iterator<Item = &Entry> {
        let skip = self.entries.partition_point(|entry| entry.serial < serial);
        self.entries.iter().skip(skip)
    }

    /// Entries before this serial, in order.
    pub(crate) fn before(&self, serial: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.range(..self.entries.partition_point(|entry| entry.serial < serial))
    }

    /// The newest offset read from the log.
    pub(crate) fn last_position(&self) -> i64 {
        self.last_position.unwrap_or(i64::MIN)
    }

    /// The serial that the next sample will get.
    pub(crate) fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// The oldest serial held.
    pub(crate) fn front_serial(&self) -> u64 {
        self.entries.front().map_or(self.next_serial, |entry| entry.serial)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ExitId, ExitPoint, Fingerprint, Plan};

    fn sample(copy: bool) -> Sample {
        let input = crate::frame::InputSpec {
            width: 1,
            height: 1,
            channels: crate::frame::Channels::Gray,
            layout: crate::frame::Layout::Nchw,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            resize: crate::frame::Resize::Stretch,
            mirror: true,
        };
        let exit =
            ExitPoint { exit: ExitId(1), tensor: "t".into(), flops_fraction: 0.5, feature_width: 4, head_flops: 1 };
        let plan = Plan {
            backbone: Fingerprint([0; 32]),
            plan: Fingerprint([0; 32]),
            input,
            labels: vec!["a".into(), "b".into()],
            candidates: vec![exit],
            flops: 2,
        };
        Sample::from_audit(&plan, &[&[0.5; 4]], &[0.9, 0.1], "cam", None, 1.0, copy).expect("sound")
    }

    /// Goal: originals outlive copies, whatever came first, and what is left is found by its serial.
    #[test]
    fn copies_go_first() {
        let mut window = Window::new(&LearnConfig { window_samples: 32, ..LearnConfig::default() });
        for position in 0..60 {
            window.push(sample(position % 3 > 0), position).expect("sound");
        }
        let originals = window.since(0).filter(|entry| !entry.sample.is_copy()).count();
        assert_eq!(originals, 20, "all of them");
        assert!(window.len() <= 32 && window.since(59).count() == 1 && window.since(60).count() == 0);
        assert_eq!(window.bytes(), window.since(0).map(|entry| entry.sample.bytes()).sum::<usize>());
        for position in 60..100 {
            window.push(sample(false), position).expect("sound");
        }
        assert_eq!((window.len(), window.front_serial(), window.copies), (32, 68, 0));
    }
}
