//! The exact disagreement of what the demo served: the full model on every frame, through the flow that served them.

use std::sync::Arc;

use anyhow::bail;
use indicatif::ProgressBar;

use super::observer::Seen;
use crate::backbone::{Audited, Chain};
use crate::cascade::OVERTAKEN_MAX;
use crate::decode::{DecodeLimits, Decoder};
use crate::engine::Engine;
use crate::flow::{Answered, Entered, Flow, FlowError, FlowOptions, Incoming, Outlet, Parts, Subject};
use crate::frame::{Origin, RawFrame, RejectReason, Rejection};
use crate::heads::HeadSet;
use crate::learn::{Sample, SampleRejection};
use crate::source::Picture;

const BATCH: usize = 32;

/// Runs the full model on every frame of the last half and compares: the exact disagreement of what was served.
pub(super) fn verify(engine: &Engine, frames: &[Seen], pictures: &[Picture]) -> anyhow::Result<f64> {
    let plan = engine.backbone.plan();
    let limits = DecodeLimits { max_bytes: usize::MAX, max_pixels: u64::MAX };
    // No exits and no audits: every frame goes all the way.
    let parts: Parts<Chain, Audited> = Parts {
        plan: Arc::clone(plan),
        decoder: Decoder::new(plan.input.clone(), limits),
        segments: engine.backbone.uncut()?,
        auditor: None,
        heads: Arc::new(HeadSet::empty()),
    };
    let options = FlowOptions { max_batch: BATCH, overtaken_max: OVERTAKEN_MAX, seed: 0, copies: 0 };
    let mut flow = Flow::new(parts, options);
    let bar = ProgressBar::new(frames.len() as u64).with_message("verifying");
    let mut compared = Compared::default();
    let half = frames.len() / 2;
    let mut pairs = frames.iter().zip(pictures).skip(half).peekable();
    while pairs.peek().is_some() {
        let some: Vec<_> = pairs.by_ref().take(BATCH).collect();
        bar.inc(some.len() as u64);
        let answered =
            some.iter().filter_map(|(seen, picture)| Some((seen.prediction.as_ref()?.class, seen, *picture)));
        let incoming =
            answered.map(|(served, seen, picture)| Incoming { frame: frame(seen, picture), carried: served });
        match flow.batch(incoming.collect(), &|| 0, &mut compared) {
            Err(FlowError::Outlet(why)) => bail!("a frame that was answered cannot be verified: {why}"),
            Err(FlowError::Engine(error)) => return Err(error.into()),
            Ok(()) => {}
        }
    }
    bar.finish_and_clear();
    Ok(compared.differ as f64 / compared.frames.max(1) as f64)
}

fn frame(seen: &Seen, picture: &Picture) -> RawFrame {
    RawFrame {
        origin: Origin { topic: Arc::from("verify"), partition: seen.partition, offset: seen.offset },
        key: None,
        payload: picture.bytes.clone(),
        captured_at_ms: None,
        headers: vec![("content-type".to_owned(), Some(picture.content_type.clone().into_bytes()))],
        headers_left_out: 0,
    }
}

/// Frames by the class that was served.
#[derive(Default)]
struct Compared {
    frames: u64,
    differ: u64,
}

impl Outlet<usize> for Compared {
    type Error = Rejection;

    fn answer(&mut self, entered: Entered<usize>, answered: &Answered<'_>) -> Result<(), Rejection> {
        self.frames += 1;
        self.differ += u64::from(entered.carried != answered.answer.class);
        Ok(())
    }

    fn reject(&mut self, _: Entered<usize>, why: &Rejection, _: u64) -> Result<(), Rejection> {
        // Any answer differs from one that is no number.
        if why.reason() != RejectReason::BadOutput {
            return Err(why.clone());
        }
        self.frames += 1;
        self.differ += 1;
        Ok(())
    }

    fn sample(&mut self, _: Result<Sample, SampleRejection>) {}

    fn copied(&mut self, _: &Subject, _: u64) {}
}
