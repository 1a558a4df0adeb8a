//! What a flow gives to the world outside. A worker sends it to Kafka, a replay writes it down, a test collects it.

use super::entrance::{Entered, Subject};
use crate::cascade::Answer;
use crate::frame::Rejection;
use crate::heads::HeadSet;
use crate::learn::{Sample, SampleRejection};
use crate::prediction::AuditNote;

/// The parts of a flow's work, told apart where time is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Bytes to pixels; dead letters go out here.
    Decode,
    /// Rows through the cut backbone and its exits.
    Serve,
    /// Rows through the whole backbone, with what the exits would have said.
    Audit,
    /// Copies of audited rows.
    Copy,
}

/// A frame's answer and how it came about.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The answer.
    pub answer: Answer,
    /// What the exits would have said of an audited frame; none also where the policy has no exits.
    pub note: Option<&'a AuditNote>,
    /// The policy that was in force.
    pub heads: &'a HeadSet,
    /// FLOPs spent on the frame, heads included; its copies are told apart ([`Outlet::copied`]).
    pub flops: u64,
}

/// Takes what a flow makes. Every frame that went in comes out once, answered or rejected, unless the flow fails.
///
/// The flow has no clock: [`Outlet::begins`] and [`Outlet::ends`] are there for those who take the time.
pub trait Outlet<T> {
    /// Why nothing can be given out any more.
    type Error;

    /// A frame has its answer.
    ///
    /// # Errors
    /// When it cannot be given out; the flow then fails.
    fn answer(&mut self, entered: Entered<T>, answered: &Answered<'_>) -> Result<(), Self::Error>;

    /// A frame can never have an answer. `flops` were spent to find that out.
    ///
    /// # Errors
    /// As [`Outlet::answer`].
    fn reject(&mut self, entered: Entered<T>, why: &Rejection, flops: u64) -> Result<(), Self::Error>;

    /// An audited frame, or a copy of one, may teach; what could not become a sample says why. It may be dropped.
    fn sample(&mut self, sample: Result<Sample, SampleRejection>);

    /// A copy of this frame was run, for so many FLOPs.
    fn copied(&mut self, of: &Subject, flops: u64);

    /// A frame was decoded into one row of the backbone's input.
    fn decoded(&mut self, _entered: &Entered<T>, _row: &[f32]) {}

    /// A part of the work begins.
    fn begins(&mut self, _part: Part) {}

    /// It ends; not called where the flow fails in between.
    fn ends(&mut self, _part: Part) {}
}
