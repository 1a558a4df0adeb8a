//! What cameras leave out of a JPEG, put back. Pure.
//!
//! USB cameras send no Huffman tables, because Motion JPEG has fixed ones; some pad segments with zeros, some never write the
//! end marker. Decoders want all of it in its place.

use super::markers::{END_MARKER, End, HUFFMAN_TABLES, START_OF_SCAN, Segment, Segments, is_frame_header};

/// What the segments in front of the first scan say, and how the picture ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outline {
    /// Width and height in pixels; no decoder is asked before they are checked.
    pub(super) size: Option<(u64, u64)>,
    /// Where the first scan's marker stands.
    first_scan: usize,
    /// Whether its coefficients come bit by bit.
    pub(super) is_progressive: bool,
    /// How many colours there are, and how many of them are in the first scan.
    colours: (Option<u8>, Option<u8>),
    has_tables: bool,
    is_strayed: bool,
    /// Bytes of the picture, the end marker among them; `None`: it has none, and the bytes end in or behind a scan.
    length: Option<usize>,
}

impl Outline {
    /// # Errors
    /// The bytes end before the first scan or within a segment, or are no JPEG.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, End> {
        let mut outline = Self {
            size: None,
            first_scan: 0,
            is_progressive: false,
            colours: (None, None),
            has_tables: false,
            is_strayed: false,
            length: None,
        };
        let mut segments = Segments::of(bytes)?;
        loop {
            match segments.next() {
                Ok(segment) => outline.note(&segment),
                Err(End::At(length)) if outline.first_scan > 0 => {
                    outline.length = Some(length);
                    return Ok(outline);
                }
                Err(End::At(_)) => return Err(End::Broken),
                // Perhaps nothing but the end marker is missing.
                Err(End::Truncated) if outline.first_scan > 0 => return Ok(outline),
                Err(end) => return Err(end),
            }
        }
    }

    fn note(&mut self, segment: &Segment<'_>) {
        if self.first_scan > 0 {
            return;
        }
        self.is_strayed |= segment.is_strayed;
        match segment.code {
            START_OF_SCAN => (self.first_scan, self.colours.1) = (segment.start, segment.body.first().copied()),
            HUFFMAN_TABLES => self.has_tables = true,
            code if is_frame_header(code) && self.size.is_none() => {
                let sides = segment.body.get(1..).and_then(<[u8]>::first_chunk::<4>);
                (self.is_progressive, self.colours.0) = (code == 0xC2, segment.body.get(5).copied());
                self.size = sides.map(|&[h1, h0, w1, w0]| {
                    (u64::from(u16::from_be_bytes([w1, w0])), u64::from(u16::from_be_bytes([h1, h0])))
                });
            }
            _ => {}
        }
    }

    /// Whether everything is in one scan.
    pub(super) fn is_one_scan(&self) -> bool {
        !self.is_progressive && self.colours.0 == self.colours.1
    }

    /// Whether the end marker is missing.
    pub(super) fn is_open(&self) -> bool {
        self.length.is_none()
    }
}

/// The picture with all that was left out, and nothing behind its end marker: `bytes` themselves, or `room`.
pub(super) fn mended<'a>(bytes: &'a [u8], outline: &Outline, room: &'a mut Vec<u8>) -> &'a [u8] {
    let length = outline.length.unwrap_or(bytes.len());
    let (header, rest) = bytes.split_at_checked(outline.first_scan).unwrap_or((bytes, &[]));
    let rest = rest.get(..length.saturating_sub(header.len())).unwrap_or(rest);
    if outline.has_tables && !outline.is_strayed && !outline.is_open() {
        return bytes.get(..length).unwrap_or(bytes);
    }
    room.clear();
    room.extend_from_slice(&[0xFF, 0xD8]);
    if !outline.has_tables {
        room.extend(standard_tables());
    }
    let mut segments = Segments::of(bytes).ok();
    while let Some(Ok(segment)) = segments.as_mut().map(Segments::next)
        && segment.start < header.len()
    {
        room.extend_from_slice(header.get(segment.start..segment.end).unwrap_or_default());
    }
    room.extend_from_slice(rest);
    if outline.is_open() {
        room.extend_from_slice(&END_MARKER);
    }
    room
}

/// The segment of Huffman tables that Motion JPEG takes for granted: ITU-T T.81, tables K.3 to K.6.
fn standard_tables() -> impl Iterator<Item = u8> {
    let tables: [(u8, [u8; 16], &[u8]); 4] = [
        (0x00, [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &MEANS),
        (0x10, [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D], &LUMA),
        (0x01, [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &MEANS),
        (0x11, [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], &CHROMA),
    ];
    let length = 2 + tables.iter().map(|(_, _, symbols)| 17 + symbols.len()).sum::<usize>();
    let head = [0xFF, HUFFMAN_TABLES].into_iter().chain((length as u16).to_be_bytes());
    let bodies = tables
        .into_iter()
        .flat_map(|(place, counts, symbols)| std::iter::once(place).chain(counts).chain(symbols.iter().copied()));
    head.chain(bodies)
}

const MEANS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

#[rustfmt::skip]
const LUMA: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
    0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72,
    0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
    0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3,
    0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];

#[rustfmt::skip]
const CHROMA: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
    0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0, 0x15, 0x62, 0x72, 0xD1,
    0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x35, 0x36,
    0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
    0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
    0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
    0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
    0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];
