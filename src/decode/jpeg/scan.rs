//! The scans of a JPEG, block by block: what a block holds besides its mean is only passed over. Pure.

use super::header::{Fault, Frame, Scan};
use super::huffman::{BadCode, Bits, Table};
use super::markers::{
    End, HUFFMAN_TABLES, QUANTISATION_TABLES, RESTART_INTERVAL, START_OF_SCAN, Segments, is_frame_header,
};
use super::progressive::{Band, Told};
use super::tables::Tables;

/// Progressive JPEGs have some 10 scans; each costs a pass over all blocks, so a hostile one could hold a lane.
pub(super) const SCANS_MAX: usize = 32;
/// Real ones have a dozen segments and some more for each scan.
const SEGMENTS_MAX: usize = 4096;

const ADOBE: u8 = 0xEE;

/// Walks from scan to scan of a picture that has all its tables, and reads what stands between them.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    segments: Segments<'a>,
    tables: &'a mut Tables,
    frame: Frame,
    /// How the three colours were made of red, green and blue, where Adobe's segment says so.
    adobe_transform: Option<u8>,
    /// Units of blocks from one restart marker to the next; 0: there are none.
    restart: usize,
    max_pixels: u64,
}

impl<'a> Walk<'a> {
    /// # Errors
    /// The bytes do not begin as a JPEG does.
    pub(super) fn new(bytes: &'a [u8], tables: &'a mut Tables, max_pixels: u64) -> Result<Self, Fault> {
        tables.forget();
        let segments = Segments::of(bytes).map_err(|_| Fault::Corrupt)?;
        Ok(Self { bytes, segments, tables, frame: Frame::default(), adobe_transform: None, restart: 0, max_pixels })
    }

    /// The frame header, behind the first scan's header.
    pub(super) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Whether the first colour is luma, in blocks of 8 x 8 pixels.
    pub(super) fn has_luma(&self) -> bool {
        self.frame.has_luma(self.adobe_transform)
    }

    /// The step of the means of a colour, as the tables are now.
    pub(super) fn step(&self, at: usize) -> u16 {
        self.frame.components.get(at).map_or(0, |part| self.tables.step(part.quantisation))
    }

    /// The next scan; none behind the last.
    ///
    /// # Errors
    /// As [`Fault`]; a picture of more pixels than may be is not read here.
    pub(super) fn next_scan(&mut self) -> Result<Option<(Scan, Bits<'a>)>, Fault> {
        for _ in 0..SEGMENTS_MAX {
            let segment = match self.segments.next() {
                Ok(segment) => segment,
                Err(End::Broken) => return Err(Fault::Corrupt),
                Err(End::Truncated | End::At(_)) => return Ok(None),
            };
            match segment.code {
                0xC0..=0xC2 if self.frame.components.is_empty() => {
                    self.frame = Frame::parse(&segment)?;
                    if (self.frame.width * self.frame.height) as u64 > self.max_pixels {
                        return Err(Fault::Unsupported);
                    }
                }
                code if is_frame_header(code) => return Err(Fault::Unsupported),
                HUFFMAN_TABLES => self.tables.read_codes(segment.body)?,
                QUANTISATION_TABLES => self.tables.read_steps(segment.body)?,
                RESTART_INTERVAL => {
                    let units = segment.body.first_chunk().map(|word| usize::from(u16::from_be_bytes(*word)));
                    self.restart = units.unwrap_or(0);
                }
                ADOBE if segment.body.starts_with(b"Adobe") => self.adobe_transform = segment.body.get(11).copied(),
                START_OF_SCAN => {
                    let scan = Scan::parse(&segment, &self.frame)?;
                    return Ok(Some((scan, Bits::new(self.bytes, segment.end))));
                }
                _ => {}
            }
        }
        Err(Fault::Corrupt)
    }

    /// Passes over a scan with means, and tells those of the first colour: the block's place from the left and from the top,
    /// and its mean in steps, or the bit that is added to it.
    ///
    /// # Errors
    /// As [`Fault`].
    pub(super) fn means(
        &self,
        scan: &Scan,
        mut bits: Bits<'_>,
        mut tell: impl FnMut(usize, usize, i16),
    ) -> Result<(), Fault> {
        let parts: Result<Vec<Part<'_>>, Fault> = scan.parts.iter().map(|&spec| self.part(scan, spec)).collect();
        let mut parts = parts?;
        for unit in self.units(scan) {
            if unit.is_restart {
                unit.restart(&mut bits)?;
                parts.iter_mut().for_each(|part| part.mean = 0);
            }
            for part in &mut parts {
                for block in 0..part.across * part.down {
                    let mean = part.next_mean(&mut bits, scan.band).map_err(|fault| unit.fault(&bits, fault))?;
                    if part.is_first {
                        let (dx, dy) = (block % part.across, block / part.across);
                        tell(unit.x * part.across + dx, unit.y * part.down + dy, mean);
                    }
                }
            }
            if bits.is_overdrawn() {
                return Err(unit.missing());
            }
        }
        Ok(())
    }

    /// Passes over a scan of a progressive picture that holds other coefficients.
    ///
    /// # Errors
    /// As [`Fault`].
    pub(super) fn others(&self, scan: &Scan, mut bits: Bits<'_>, told: &mut Told) -> Result<(), Fault> {
        let &[(.., table)] = scan.parts.as_slice() else { return Err(Fault::Corrupt) };
        let table = self.tables.others(table)?;
        let mut run = 0;
        for unit in self.units(scan) {
            if unit.is_restart {
                unit.restart(&mut bits)?;
                run = 0;
            }
            let passed = told.pass(unit.done, scan.band, &mut bits, table, &mut run);
            passed.map_err(|fault| unit.fault(&bits, fault))?;
            if bits.is_overdrawn() {
                return Err(unit.missing());
            }
        }
        Ok(())
    }

    /// What a scan consists of: interleaved units, or the blocks of one colour.
    fn units(&self, scan: &Scan) -> impl Iterator<Item = Unit> + use<> {
        let (across, down) = match (scan.parts.as_slice(), self.frame.components.as_slice()) {
            (&[(at, ..)], components) => components.get(at).map_or((0, 0), |part| self.frame.blocks_of(part)),
            _ => self.frame.units(),
        };
        let (of, restart) = (across * down, self.restart);
        let places = (0..down).flat_map(move |y| (0..across).map(move |x| (x, y)));
        places.enumerate().map(move |(done, (x, y))| {
            let is_restart = restart > 0 && done > 0 && done % restart == 0;
            Unit { x, y, is_restart, done, of }
        })
    }

    fn part(&self, scan: &Scan, (at, means, others): (usize, usize, usize)) -> Result<Part<'_>, Fault> {
        let component = self.frame.components.get(at).ok_or(Fault::Corrupt)?;
        let is_alone = scan.parts.len() == 1;
        Ok(Part {
            is_first: at == 0,
            across: if is_alone { 1 } else { component.across },
            down: if is_alone { 1 } else { component.down },
            mean: 0,
            // A scan that only refines needs no table, a progressive one none of the other coefficients.
            means: if scan.band.is_refining { None } else { Some(self.tables.means(means)?) },
            others: if self.frame.is_progressive { None } else { Some(self.tables.others(others)?) },
        })
    }
}

/// One of the units of a scan.
#[derive(Debug, Clone, Copy)]
struct Unit {
    /// Its place from the left.
    x: usize,
    /// Its place from the top.
    y: usize,
    /// Whether a restart marker stands in front of it.
    is_restart: bool,
    /// Units in front of it.
    done: usize,
    /// Units of the scan.
    of: usize,
}

impl Unit {
    fn missing(self) -> Fault {
        Fault::Cut { done: self.done, of: self.of }
    }

    /// What a code that is none says of the scan.
    #[cold]
    fn fault(self, bits: &Bits<'_>, fault: BadCode) -> Fault {
        if bits.is_spent() { self.missing() } else { fault.into() }
    }

    /// Goes to behind the restart marker in front of the unit.
    fn restart(self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        bits.restart().map_err(|fault| if bits.is_at_end() { self.missing() } else { fault.into() })
    }
}

/// A colour in a scan.
struct Part<'a> {
    is_first: bool,
    /// Its blocks in a unit.
    across: usize,
    down: usize,
    /// The mean of its last block, in steps.
    mean: i32,
    means: Option<&'a Table>,
    others: Option<&'a Table>,
}

impl Part<'_> {
    /// The mean of the next block, or the bit to be added to it.
    #[inline]
    fn next_mean(&mut self, bits: &mut Bits<'_>, band: Band) -> Result<i16, BadCode> {
        let Some(means) = self.means else {
            return Ok(bits.bit() << band.low);
        };
        self.mean = self.mean.wrapping_add(bits.difference(means)?);
        if let Some(others) = self.others {
            bits.skip_block(others)?;
        }
        Ok((self.mean << band.low) as i16)
    }
}
