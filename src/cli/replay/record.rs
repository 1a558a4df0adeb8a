//! What is written down while a stream plays: the flow's way out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::played::{Alarm, Opinion, Outcome, Played};
use crate::backbone::{Clock, Moment};
use crate::flow::{Answered, Entered, Outlet, Part, Subject};
use crate::frame::{Origin, RejectReason, Rejection};
use crate::heads::HeadSet;
use crate::learn::{Sample, SampleRejection};

/// Room for every copy of every row of a batch before the next one.
const SAMPLES_PER_FRAME: usize = 256;

/// Frames by their number in the stream, from 0, which is what the flow carries them by.
#[derive(Debug)]
pub(super) struct Record {
    clock: Clock,
    began: Moment,
    /// Engine time of the present batch.
    spent: Duration,
    played: Vec<Played>,
    /// Whether each was decoded.
    decoded: Vec<bool>,
    /// The frames of the present batch by their places.
    numbers: HashMap<Origin, usize>,
    /// The decoded frames of the present batch, and their rows.
    fresh: Vec<usize>,
    pixels: Vec<f32>,
    samples: Vec<Result<Sample, SampleRejection>>,
    /// The present batch's first audited frame.
    first_audited: Option<usize>,
    opinions: Vec<(usize, Vec<Opinion>)>,
    first_rejection: Option<(usize, String)>,
}

impl Record {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            began: clock.now(),
            spent: Duration::ZERO,
            played: Vec::new(),
            decoded: Vec::new(),
            numbers: HashMap::new(),
            fresh: Vec::new(),
            pixels: Vec::new(),
            samples: Vec::new(),
            first_audited: None,
            opinions: Vec::new(),
            first_rejection: None,
        }
    }

    /// Frames so far, rejected ones included.
    pub(super) fn frames(&self) -> usize {
        self.played.len()
    }

    /// The number of the next frame.
    pub(super) fn begin(&mut self, origin: &Origin) -> usize {
        let number = self.add();
        self.numbers.insert(origin.clone(), number);
        number
    }

    /// A frame that could not be had.
    pub(super) fn skip(&mut self, why: String) {
        let number = self.add();
        self.rejected(number, why);
    }

    fn add(&mut self) -> usize {
        let frame = self.played.len();
        let (served, full, exit, audited) = (None, None, None, false);
        self.played.push(Played { frame, served, full, exit, audited, flops: 0, seconds: 0.0, plain_seconds: 0.0 });
        self.decoded.push(false);
        frame
    }

    /// The first is the one that stands first in the stream: audited frames are decoded last of their batch.
    fn rejected(&mut self, number: usize, why: String) {
        if self.first_rejection.as_ref().is_none_or(|(first, _)| number < *first) {
            self.first_rejection = Some((number, why));
        }
    }

    /// The rows of the frames that the present batch decoded, and the frames' numbers.
    pub(super) fn take_decoded(&mut self) -> (Vec<f32>, Vec<usize>) {
        self.numbers.clear();
        (std::mem::take(&mut self.pixels), std::mem::take(&mut self.fresh))
    }

    /// Shares the engine time since the last call among these frames; without any the newest is charged with it.
    pub(super) fn charge(&mut self, numbers: &[usize]) {
        let seconds = std::mem::take(&mut self.spent).as_secs_f64();
        if numbers.is_empty()
            && let Some(newest) = self.decoded.iter().rposition(|decoded| *decoded)
        {
            self.played[newest].seconds += seconds;
        }
        numbers.iter().for_each(|number| self.played[*number].seconds += seconds / numbers.len() as f64);
    }

    /// What was audited since the last call, each with its place in the order of all.
    pub(super) fn take_samples(&mut self) -> Vec<(i64, Result<Sample, SampleRejection>)> {
        let first = self.first_audited.take().unwrap_or_default() * SAMPLES_PER_FRAME;
        std::mem::take(&mut self.samples).into_iter().zip(first as i64..).map(|(sample, at)| (at, sample)).collect()
    }

    pub(super) fn opinions(&mut self, number: usize, opinions: Vec<Opinion>) {
        self.opinions.push((number, opinions));
    }

    /// What the plain model says of a frame, and how long it took.
    pub(super) fn plain(&mut self, number: usize, class: Option<usize>, seconds: f64) {
        let played = &mut self.played[number];
        (played.full, played.plain_seconds) = (class, seconds);
    }

    pub(super) fn outcome(self, heads: Arc<HeadSet>, alarms: Vec<Alarm>, learn_seconds: f64, why: String) -> Outcome {
        let Self { played, decoded, mut opinions, first_rejection, .. } = self;
        opinions.sort_by_key(|(number, _)| *number);
        let rejected = decoded.iter().filter(|decoded| !**decoded).count();
        Outcome {
            played: played.into_iter().zip(decoded).filter_map(|(played, decoded)| decoded.then_some(played)).collect(),
            opinions: opinions.into_iter().map(|(_, opinions)| opinions).collect(),
            rejected,
            first_rejection,
            heads,
            alarms,
            learn_seconds,
            why,
        }
    }
}

impl Outlet<usize> for Record {
    type Error = Infallible;

    fn answer(&mut self, entered: Entered<usize>, answered: &Answered<'_>) -> Result<(), Infallible> {
        let played = &mut self.played[entered.carried];
        (played.served, played.exit) = (Some(answered.answer.class), answered.answer.exit);
        played.audited = entered.draw.is_audited();
        played.flops += answered.flops;
        Ok(())
    }

    fn reject(&mut self, entered: Entered<usize>, why: &Rejection, flops: u64) -> Result<(), Infallible> {
        let number = entered.carried;
        // A frame to which the model gives no number was played all the same; it only has no answer.
        if why.reason() == RejectReason::BadOutput {
            let played = &mut self.played[number];
            (played.audited, played.flops) = (entered.draw.is_audited(), played.flops + flops);
        } else {
            self.rejected(number, why.to_string());
        }
        Ok(())
    }

    fn sample(&mut self, sample: Result<Sample, SampleRejection>) {
        self.samples.push(sample);
    }

    fn copied(&mut self, of: &Subject, flops: u64) {
        if let Some(number) = self.numbers.get(&of.origin) {
            self.played[*number].flops += flops;
        }
    }

    fn decoded(&mut self, entered: &Entered<usize>, row: &[f32]) {
        let number = entered.carried;
        self.decoded[number] = true;
        self.fresh.push(number);
        self.pixels.extend_from_slice(row);
        if entered.draw.is_audited() {
            self.first_audited.get_or_insert(number);
        }
    }

    fn begins(&mut self, _: Part) {
        self.began = self.clock.now();
    }

    /// Decoding is the plain model's too, and left out on both sides.
    fn ends(&mut self, part: Part) {
        if part != Part::Decode {
            self.spent += self.clock.since(self.began);
        }
    }
}
