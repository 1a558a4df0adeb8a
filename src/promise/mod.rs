//! The statistics of the promise: which audits are trials, what they prove, and what was really served.
//!
//! At work are [`served`] and [`history`] (each worker's own answers) and [`watch`]; the others wait for workers that place their
//! frames, as docs/promise.md says.
//!
//! Pure: no clock, no Kafka, no metrics; numbers in, numbers out. Serving and learning both use it, and it knows neither.
//!
//! * [`served`] bounds, from the random draws alone, how often a served answer differed from the full model's; [`history`]
//!   keeps that for the last hour, the last day and since the start.
//! * [`effect`] says how many consecutive frames of a camera tell as much as one, [`blocks`] makes one trial of each such
//!   block, and [`versions`] shares delta out among all versions that are ever tested on trials.
//! * [`wald`] admits a camera, [`watch`] notices that the promise broke: for the fleet, or for one camera.

pub mod blocks;
pub mod effect;
pub mod history;
pub mod served;
pub mod versions;
pub mod wald;
pub mod watch;

#[cfg(test)]
pub(crate) mod dice;
