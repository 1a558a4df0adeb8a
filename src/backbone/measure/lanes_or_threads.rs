//! Whether a machine's cores serve more frames as lanes of one thread each or as threads of one lane: measured.

use std::time::{Duration, Instant};

use super::timing::median;
use crate::backbone::cut::Backbone;
use crate::backbone::error::BackboneError;
use crate::backbone::options::LoadOptions;
use crate::backbone::run::noise::noise;
use crate::cascade::Segments;

/// Frames in a batch while measuring: what lanes see under moderate load.
const BATCH: usize = 8;
/// How long either way runs in one round.
const ROUND: Duration = Duration::from_millis(150);
const ROUNDS: usize = 3;
/// How much faster one wide lane must look: lanes of one thread are the way that is faster nearly everywhere.
const DOUBT: f64 = 1.05;

/// Frames per second of the whole model, both ways.
#[derive(Debug, Clone, Copy)]
pub struct LaneRates {
    /// As many lanes as cores, one thread each.
    pub many: f64,
    /// One lane with as many threads as cores.
    pub one: f64,
}

impl LaneRates {
    /// Whether one lane with many threads is clearly faster.
    #[must_use]
    pub fn one_is_faster(&self) -> bool {
        self.one > self.many * DOUBT
    }
}

impl Backbone {
    /// Measures both ways to use `cores` cores, in turns, the median of three rounds each.
    ///
    /// # Errors
    /// When the model cannot be loaded or run.
    pub fn lane_rates(&self, cores: usize) -> Result<LaneRates, BackboneError> {
        let narrow = self.with_threads(1);
        let wide = self.with_threads(cores);
        let mut many = (0..cores.max(1)).map(|_| narrow.chain(&[])).collect::<Result<Vec<_>, _>>()?;
        let mut one = [wide.chain(&[])?];
        let frames = noise(BATCH * self.plan().input.len());
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            rates[0].push(rate(&mut many, &frames)?);
            rates[1].push(rate(&mut one, &frames)?);
        }
        let [many, one] = rates.map(median);
        Ok(LaneRates { many, one })
    }

    /// The same backbone whose chains and auditors are loaded from now on with so many threads.
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> Self {
        let options = LoadOptions { intra_threads: threads.max(1), ..self.options.clone() };
        Self { options, ..self.clone() }
    }
}

/// Frames per second of these lanes together.
fn rate<S: Segments + Send>(lanes: &mut [S], frames: &[f32]) -> Result<f64, BackboneError> {
    let began = Instant::now();
    let counts: Vec<Result<usize, BackboneError>> = std::thread::scope(|scope| {
        let work = |lane: &mut S| {
            let mut done = 0;
            while began.elapsed() < ROUND {
                lane.load(BATCH).copy_from_slice(frames);
                lane.run(0, BATCH)?;
                done += BATCH;
            }
            Ok(done)
        };
        let threads: Vec<_> = lanes.iter_mut().map(|lane| scope.spawn(move || work(lane))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect()
    });
    let done: usize = counts.into_iter().sum::<Result<usize, _>>()?;
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
