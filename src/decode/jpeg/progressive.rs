//! Whether a progressive JPEG is whole. Its scans give the coefficients bit by bit, and which bits follow depends on which
//! coefficients are zero so far: that alone is kept. Pure.

use super::huffman::{BadCode, Bits, Table};

/// Coefficients of a block.
const COEFFICIENTS: usize = 64;
/// No bit of the coefficient is known.
const UNKNOWN: u8 = u8::MAX;

/// What the scans so far have told of one colour.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// For each block a bit for each coefficient that is not zero.
    blocks: Vec<u64>,
    /// For each coefficient the lowest bit that is known.
    lowest: [u8; COEFFICIENTS],
}

/// Part of the coefficients, down to one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) low: u8,
    pub(super) is_refining: bool,
}

impl Told {
    pub(super) fn new(blocks: usize) -> Self {
        Self { blocks: vec![0; blocks], lowest: [UNKNOWN; COEFFICIENTS] }
    }

    /// Whether every bit of every coefficient is known.
    pub(super) fn is_all(&self) -> bool {
        self.lowest.iter().all(|&low| low == 0)
    }

    /// Notes that a scan has told these coefficients.
    pub(super) fn note(&mut self, band: Band) {
        self.lowest.iter_mut().take(band.last + 1).skip(band.first).for_each(|lowest| *lowest = band.low);
    }

    /// Passes over one block of a scan. `run`: so many blocks, this one the first, hold nothing new.
    ///
    /// # Errors
    /// The bits are no code of the table.
    pub(super) fn pass(
        &mut self,
        at: usize,
        band: Band,
        bits: &mut Bits<'_>,
        table: &Table,
        run: &mut u32,
    ) -> Result<(), BadCode> {
        let block = self.blocks.get_mut(at).ok_or(BadCode)?;
        if band.is_refining {
            return refine(block, band, bits, table, run);
        }
        if *run > 0 {
            *run -= 1;
            return Ok(());
        }
        let mut at = band.first;
        while at <= band.last {
            let (zeros, size) = bits.pair(table)?;
            if size > 0 {
                at += zeros;
                bits.pass(size);
                set(block, at);
                at += 1;
            } else if zeros == 15 {
                at += 16;
            } else {
                *run = bits.run(zeros) - 1;
                break;
            }
        }
        Ok(())
    }
}

/// One bit more of each coefficient of the band: of those that are not zero a bit each, of the others whether they become so.
fn refine(block: &mut u64, band: Band, bits: &mut Bits<'_>, table: &Table, run: &mut u32) -> Result<(), BadCode> {
    let mut at = band.first;
    while *run == 0 && at <= band.last {
        let (mut zeros, size) = bits.pair(table)?;
        if size > 0 {
            bits.pass(1);
        } else if zeros < 15 {
            *run = bits.run(zeros);
            break;
        }
        // So many coefficients stay zero; those that are not have their bit in between.
        while at <= band.last {
            if *block >> at & 1 == 1 {
                bits.pass(1);
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size > 0 {
            set(block, at);
        }
        at += 1;
    }
    if *run > 0 {
        let rest = (at..=band.last).filter(|at| *block >> at & 1 == 1).count();
        (0..rest).for_each(|_| bits.pass(1));
        *run -= 1;
    }
    Ok(())
}

fn set(block: &mut u64, at: usize) {
    *block |= if at < COEFFICIENTS { 1 << at } else { 0 };
}
