//! A batch that is run through a chain as it serves.

use crate::backbone::run::chain::Chain;
use crate::cascade::{self, EngineError, Segments};

/// Runs a loaded batch through the chain again.
pub(super) fn pass(
    chain: &mut Chain,
    rows: usize,
    run: impl FnMut(&mut Chain, usize, usize) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    chain.load(rows);
    cascade::through(chain, rows, run)
}
