//! The mean of each block of 8 x 8 pixels without decoding the picture, and whether all blocks are there. Pure.

use super::header::{Fault, Frame};
use super::progressive::Told;
use super::scan::{SCANS_MAX, Walk};
use super::tables::Tables;

/// Sides of a block in pixels.
pub(crate) const BLOCK: usize = 8;

/// How the blocks of a picture lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Width of the picture in pixels.
    pub(crate) width: usize,
    /// Height of the picture in pixels.
    pub(crate) height: usize,
    /// Blocks in a row; those behind the picture's width are padding.
    pub(crate) stride: usize,
}

/// Takes the means out of JPEGs, with reused memory. In progressive pictures only the scans of means are read at all.
#[derive(Debug, Default)]
pub(super) struct Reducer {
    tables: Tables,
    /// In steps.
    raw: Vec<i16>,
    /// Mean luma of the blocks of the last picture, row by row.
    pub(super) means: Vec<u8>,
}

impl Reducer {
    /// The mean luma of each block of a picture that has all its tables.
    ///
    /// # Errors
    /// As [`Fault`]: unsupported where the first colour is no luma or has larger blocks.
    pub(super) fn reduce(&mut self, bytes: &[u8], max_pixels: u64) -> Result<Blocks, Fault> {
        let Self { tables, raw, means } = self;
        let mut walk = Walk::new(bytes, tables, max_pixels)?;
        let (mut stride, mut step) = (0, None);
        for _ in 0..SCANS_MAX {
            let Some((scan, bits)) = walk.next_scan()? else { break };
            if !walk.has_luma() {
                return Err(Fault::Unsupported);
            }
            if scan.band.first > 0 || !scan.has(0) {
                continue;
            }
            if step.is_none() {
                stride = room(raw, walk.frame());
                step = Some(walk.step(0));
            }
            walk.means(&scan, bits, |x, y, mean| {
                if let Some(slot) = raw.get_mut(y * stride + x) {
                    *slot = if scan.band.is_refining { *slot | mean } else { mean };
                }
            })?;
            if scan.band.low == 0 {
                break;
            }
        }
        // A picture that ends before its means were refined to the last bit has them nearly.
        let step = i32::from(step.ok_or(Fault::Cut { done: 0, of: 1 })?);
        // A mean is an eighth of the first coefficient, and 128 is grey.
        means.clear();
        means.extend(raw.iter().map(|&mean| ((i32::from(mean) * step + 4) / 8 + 128).clamp(0, 255) as u8));
        Ok(Blocks { width: walk.frame().width, height: walk.frame().height, stride })
    }

    /// Whether every bit of every block is there; if not, at least the scans that are there are whole. The picture's size has
    /// been checked.
    ///
    /// # Errors
    /// As [`Fault`].
    pub(super) fn is_whole(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let mut walk = Walk::new(bytes, &mut self.tables, u64::MAX)?;
        let mut told: Vec<Told> = Vec::new();
        for _ in 0..SCANS_MAX {
            let Some((scan, bits)) = walk.next_scan()? else { return Ok(false) };
            if told.is_empty() {
                let frame = walk.frame();
                // Only progressive pictures tell of a block more than once.
                let blocks = |part| if frame.is_progressive { frame.blocks_of(part) } else { (0, 0) };
                told.extend(frame.components.iter().map(blocks).map(|(across, down)| Told::new(across * down)));
            }
            match scan.parts.as_slice() {
                &[(at, ..)] if scan.band.first > 0 => {
                    let told = told.get_mut(at).ok_or(Fault::Corrupt)?;
                    walk.others(&scan, bits, told)?;
                }
                _ => walk.means(&scan, bits, |_, _, _| {})?,
            }
            let band = scan.band;
            told.iter_mut().enumerate().filter(|(at, _)| scan.has(*at)).for_each(|(_, told)| told.note(band));
            if told.iter().all(Told::is_all) {
                return Ok(true);
            }
        }
        // The decoder refuses so many scans in its own words.
        Err(Fault::Unsupported)
    }
}

/// Makes room for the first colour's blocks, and says how many there are in a row.
fn room(raw: &mut Vec<i16>, frame: &Frame) -> usize {
    let (across, down) = frame.units();
    let (wide, high) = frame.components.first().map_or((0, 0), |part| (part.across, part.down));
    // A colour that is alone in its scan has no blocks of padding; those behind the picture's width stay grey.
    raw.clear();
    raw.resize(across * wide * down * high, 0);
    across * wide
}
