//! The backbone together with what its parts and its heads cost on this machine.

mod cache;
mod record;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::f16;

use crate::backbone::{Backbone, BackboneError, LoadOptions, SplitChoice};
use crate::heads::{Head, HeadError, HeadParts, Scratch};
use crate::plan::{CostTable, ExitId, HEAD_HIDDEN};
use crate::provider::Provider;
pub use cache::Cache;
use record::{Key, Record};

/// Times that a head is timed.
const ROUNDS: usize = 15;

/// Loaded once, shared by all workers of a process.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The loaded backbone.
    pub backbone: Arc<Backbone>,
    /// Measured costs under moderate load.
    pub costs: CostTable,
}

impl Engine {
    /// Loads a backbone and measures what its parts cost on this machine.
    ///
    /// # Errors
    /// When the model cannot be used; the error names the file and the fix.
    pub fn load(model: &Path, options: &LoadOptions) -> Result<Self, BackboneError> {
        Self::measured(Backbone::load(model, options)?)
    }

    /// The same with nothing measured: exits are chosen by FLOPs and the cut is made after optimisation wherever that can
    /// be done, so that two runs on one machine choose alike.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_unmeasured(model: &Path, options: &LoadOptions) -> Result<Self, BackboneError> {
        let backbone = Backbone::load(model, &LoadOptions { split: SplitChoice::Optimised, ..options.clone() })?;
        Ok(Self { costs: CostTable::of_flops(backbone.plan()), backbone: Arc::new(backbone) })
    }

    /// The same for a worker; with `threads` 0 the cores become lanes or one lane's threads, whichever is faster. Gives the
    /// number of lanes beside the engine. What an earlier start has measured and `cache` has kept is not measured again.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_for(
        model: &Path,
        lanes: usize,
        threads: usize,
        provider: &Provider,
        cache: Option<&Cache>,
    ) -> Result<(Self, usize), BackboneError> {
        let options = LoadOptions::on(provider, threads);
        let (mut wanted, mut found) = (None, None);
        let (backbone, known) = Backbone::load_recalling(model, &options, |plan| {
            let (cache, key) = (cache?, Key::now(plan, lanes, threads, provider));
            found = cache.find(&key, plan.candidates.len());
            wanted = Some(key);
            found.as_ref().map(|record| record.measured.clone())
        })?;
        if let (true, Some(Record { lanes, threads, costs, .. })) = (known, found) {
            tracing::info!(lanes, threads, "measured at an earlier start");
            return Ok((Self { backbone: Arc::new(backbone.with_threads(threads)), costs }, lanes));
        }
        let (engine, lanes, threads) = Self::measured_for(backbone, lanes, threads)?;
        if let (Some(cache), Some(key)) = (cache, wanted) {
            let (measured, costs) = (engine.backbone.measured(), engine.costs.clone());
            cache.keep(&Record { key, lanes, threads, measured, costs });
        }
        Ok((engine, lanes))
    }

    /// Measures; gives the number of lanes and the threads in each beside the engine.
    fn measured_for(backbone: Backbone, lanes: usize, threads: usize) -> Result<(Self, usize, usize), BackboneError> {
        if threads > 0 || lanes == 1 {
            return Ok((Self::measured(backbone)?, lanes, threads.max(1)));
        }
        let rates = backbone.lane_rates(lanes)?;
        let one = rates.one_is_faster();
        let (lanes, threads) = if one { (1, lanes) } else { (lanes, 1) };
        tracing::info!(lanes, threads, frames_per_s.many = rates.many, frames_per_s.one = rates.one, "lanes chosen");
        Ok((Self::measured(backbone.with_threads(threads))?, lanes, threads))
    }

    fn measured(mut backbone: Backbone) -> Result<Self, BackboneError> {
        let classes = backbone.plan().classes();
        let costs = backbone.measure(|width, rows| head_ms(width, classes, rows))?;
        Ok(Self { backbone: Arc::new(backbone), costs })
    }
}

/// Values between -0.1 and 0.1: numbers of no meaning for what is only timed.
#[must_use]
pub fn wave(at: usize) -> f32 {
    (at as f32 * 0.37).sin() * 0.1
}

/// A head of the usual size to be timed; it has learned nothing.
///
/// # Errors
/// When no head can have that width or so many classes.
pub fn unlearned_head(width: usize, classes: usize) -> Result<Head, HeadError> {
    let halves = |length: usize| (0..length).map(|at| f16::from_f32(wave(at))).collect();
    let parts = HeadParts {
        exit: ExitId(1),
        sequence: 0,
        classes: (0..).take(classes).collect(),
        other: false,
        mean: vec![0.0; width],
        scale: vec![1.0; width],
        w1: halves(width * HEAD_HIDDEN),
        b1: vec![0.0; HEAD_HIDDEN],
        w2: halves(HEAD_HIDDEN * classes),
        b2: vec![0.0; classes],
        temperature: 1.0,
    };
    Head::new(parts, width, classes)
}

/// Times such a head with the code that serves; milliseconds per frame.
#[must_use]
pub fn head_ms(width: usize, classes: usize, batch: usize) -> f64 {
    // A width that no head can have is not for sale.
    let Ok(head) = unlearned_head(width, classes) else { return f64::MAX };
    let features: Vec<f32> = (0..batch * width).map(wave).collect();
    let mut scratch = Scratch::default();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            head.judge_rows(batch, &features, &mut scratch, |_, verdict| {
                black_box(verdict);
            });
            began.elapsed().as_secs_f64() * 1e3 / batch as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
