//! The headers of a JPEG's frame and scans. Pure.

use super::huffman::BadCode;
use super::markers::Segment;
use super::progressive::Band;

/// Why the blocks of a JPEG cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The data ends first: so many of the blocks of a scan are there.
    #[error("only {done} of {of} parts of a scan are there")]
    Cut { done: usize, of: usize },
    /// The data is broken.
    #[error("its data is broken")]
    Corrupt,
    /// Another kind of JPEG than is read here; a decoder may know it.
    #[error("it is of a kind of which it cannot be told whether it is whole")]
    Unsupported,
}

impl From<BadCode> for Fault {
    fn from(_: BadCode) -> Self {
        Self::Corrupt
    }
}

/// One colour of the picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Component {
    id: u8,
    /// Blocks in a unit, from left to right and from top to bottom.
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) quantisation: usize,
}

/// What the frame header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_progressive: bool,
    /// One to four; the first is luma, unless they are red, green and blue.
    pub(super) components: Vec<Component>,
}

impl Frame {
    /// # Errors
    /// The header is broken, or of another kind than is read here.
    pub(super) fn parse(segment: &Segment<'_>) -> Result<Self, Fault> {
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = segment.body else { return Err(Fault::Corrupt) };
        let components = rest.chunks_exact(3).map(|spec| Component {
            id: spec[0],
            across: usize::from(spec[1] >> 4),
            down: usize::from(spec[1] & 15),
            quantisation: usize::from(spec[2]),
        });
        let frame = Self {
            width: usize::from(u16::from_be_bytes([w1, w0])),
            height: usize::from(u16::from_be_bytes([h1, h0])),
            is_progressive: segment.code == 0xC2,
            components: components.collect(),
        };
        let sound = |side: usize| (1..=4).contains(&side);
        let is_sound = frame.components.iter().all(|part| sound(part.across) && sound(part.down));
        if precision != 8 || frame.width == 0 || frame.height == 0 {
            return Err(Fault::Unsupported);
        }
        let named = (1..=4).contains(&count) && rest.len() == 3 * usize::from(count);
        if named && is_sound { Ok(frame) } else { Err(Fault::Corrupt) }
    }

    /// Blocks of the widest and of the highest component in a unit.
    fn most(&self) -> (usize, usize) {
        let most = |side: fn(&Component) -> usize| self.components.iter().map(side).max().unwrap_or(1);
        (most(|part| part.across), most(|part| part.down))
    }

    /// Units of interleaved blocks, from left to right and from top to bottom.
    pub(super) fn units(&self) -> (usize, usize) {
        let (across, down) = self.most();
        (self.width.div_ceil(8 * across), self.height.div_ceil(8 * down))
    }

    /// Blocks of a component where it is alone in its scan.
    pub(super) fn blocks_of(&self, part: &Component) -> (usize, usize) {
        let (across, down) = self.most();
        let blocks = |side: usize, own: usize, most: usize| (side * own).div_ceil(most).div_ceil(8);
        (blocks(self.width, part.across, across), blocks(self.height, part.down, down))
    }

    /// Whether the first component is luma, in blocks of 8 x 8 pixels.
    pub(super) fn has_luma(&self, adobe_transform: Option<u8>) -> bool {
        let Some(first) = self.components.first() else { return false };
        let ids = self.components.iter().map(|part| part.id);
        let is_rgb = adobe_transform == Some(0) || ids.eq(*b"RGB");
        match self.components.len() {
            1 => true,
            3 => !is_rgb && (first.across, first.down) == self.most(),
            _ => false,
        }
    }
}

/// The header of a scan.
#[derive(Debug)]
pub(super) struct Scan {
    /// Places in the frame's list of components, with their tables of means and of other coefficients.
    pub(super) parts: Vec<(usize, usize, usize)>,
    /// The coefficients that it holds: all of them in sequential pictures.
    pub(super) band: Band,
}

impl Scan {
    /// # Errors
    /// The header is broken.
    pub(super) fn parse(segment: &Segment<'_>, frame: &Frame) -> Result<Self, Fault> {
        let (&count, rest) = segment.body.split_first().ok_or(Fault::Corrupt)?;
        let (specs, tail) = rest.split_at_checked(2 * usize::from(count)).ok_or(Fault::Corrupt)?;
        let &[first, last, approximation, ..] = tail else { return Err(Fault::Corrupt) };
        let parts: Option<Vec<_>> = specs
            .chunks_exact(2)
            .map(|spec| {
                let at = frame.components.iter().position(|part| part.id == spec[0])?;
                Some((at, usize::from(spec[1] >> 4), usize::from(spec[1] & 15)))
            })
            .collect();
        let parts = parts.filter(|parts| (1..=4).contains(&parts.len())).ok_or(Fault::Corrupt)?;
        if !frame.is_progressive {
            return Ok(Self { parts, band: Band { first: 0, last: 63, low: 0, is_refining: false } });
        }
        let band = Band {
            first: usize::from(first),
            last: usize::from(last),
            low: approximation & 15,
            is_refining: approximation >> 4 > 0,
        };
        // Means come by themselves, several colours together; other coefficients of one colour at a time.
        let is_sound = band.first <= band.last && band.last < 64 && band.low <= 13;
        let is_apart = if band.first == 0 { band.last == 0 } else { parts.len() == 1 };
        if is_sound && is_apart { Ok(Self { parts, band }) } else { Err(Fault::Corrupt) }
    }

    /// Whether it holds the colour at this place of the frame's list.
    pub(super) fn has(&self, at: usize) -> bool {
        self.parts.iter().any(|part| part.0 == at)
    }
}
