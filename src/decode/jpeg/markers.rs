//! The marker structure of a JPEG: its segments, its scans, and where the picture ends.
//!
//! Pure bytes. Used to tell a truncated frame from a whole one, and to split Motion JPEG streams. A plain search for
//! `FF D9` would stop at the end of a thumbnail inside an APP segment, so segments are walked by their lengths.

/// First bytes of every JPEG: start of image and the first byte of the next marker.
pub(crate) const START: [u8; 3] = [0xFF, 0xD8, 0xFF];

/// Marker codes: what follows `FF`.
const END_OF_IMAGE: u8 = 0xD9;
pub(super) const HUFFMAN_TABLES: u8 = 0xC4;
pub(super) const QUANTISATION_TABLES: u8 = 0xDB;
pub(super) const RESTART_INTERVAL: u8 = 0xDD;
pub(super) const START_OF_SCAN: u8 = 0xDA;
const APP1: u8 = 0xE1;

/// The last bytes of every JPEG.
pub(super) const END_MARKER: [u8; 2] = [0xFF, END_OF_IMAGE];

/// Whether the marker begins a frame, of whatever kind.
pub(super) fn is_frame_header(code: u8) -> bool {
    matches!(code, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF)
}

/// What the walk over a JPEG found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The picture is the first so many bytes; its end marker is among them.
    At(usize),
    /// The bytes stop before the picture does.
    Truncated,
    /// These bytes cannot be a JPEG, whatever follows.
    Broken,
}

/// A marker and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    /// The byte behind `FF`.
    pub(super) code: u8,
    /// What stands behind the length field; empty for markers that stand alone.
    pub(super) body: &'a [u8],
    /// Where the marker's `FF` stands, fill bytes not counted.
    pub(super) start: usize,
    /// The first byte behind the segment; of a scan, the first of its entropy-coded data.
    pub(super) end: usize,
    /// Whether zero bytes stood in front of it, where none belong.
    pub(super) is_strayed: bool,
}

/// Walks the segments of a JPEG, from behind its start marker to its end marker.
#[derive(Debug, Clone)]
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
    /// `at` stands at the beginning of entropy-coded data, which is skipped only if it is walked on.
    is_in_scan: bool,
}

impl<'a> Segments<'a> {
    /// # Errors
    /// [`End::Truncated`] or [`End::Broken`] if the bytes do not begin as a JPEG does.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, End> {
        if bytes.starts_with(&START) {
            return Ok(Self { bytes, at: 2, is_in_scan: false });
        }
        Err(if START.starts_with(bytes) { End::Truncated } else { End::Broken })
    }

    /// The next segment; behind the header of a scan, the first one behind its entropy-coded data.
    ///
    /// # Errors
    /// The picture's end, or that there is none.
    pub(super) fn next(&mut self) -> Result<Segment<'a>, End> {
        let mut is_strayed = false;
        if std::mem::take(&mut self.is_in_scan) {
            self.at = end_of_scan(self.bytes, self.at);
        }
        loop {
            let lead = *self.bytes.get(self.at).ok_or(End::Truncated)?;
            if lead == 0 {
                // Some cameras pad their segments with zeros.
                (is_strayed, self.at) = (true, self.at + 1);
                continue;
            }
            if lead != 0xFF {
                return Err(End::Broken);
            }
            let start = self.at;
            let code = *self.bytes.get(start + 1).ok_or(End::Truncated)?;
            let alone = Segment { code, body: &[], start, end: start + 2, is_strayed };
            match code {
                // Any marker may be preceded by fill bytes FF.
                0xFF => self.at += 1,
                END_OF_IMAGE => return Err(End::At(start + 2)),
                // TEM and restart markers stand alone.
                0x01 | 0xD0..=0xD7 => {
                    self.at = alone.end;
                    return Ok(alone);
                }
                // A second start, or a stuffed zero outside entropy-coded data.
                0x00 | 0xD8 => return Err(End::Broken),
                _ => {
                    let length = self.bytes.get(start + 2..).and_then(<[u8]>::first_chunk).ok_or(End::Truncated)?;
                    let length = usize::from(u16::from_be_bytes(*length));
                    let end = start + 2 + length;
                    if length < 2 {
                        return Err(End::Broken);
                    }
                    let body = self.bytes.get(start + 4..end).ok_or(End::Truncated)?;
                    (self.at, self.is_in_scan) = (end, code == START_OF_SCAN);
                    return Ok(Segment { body, end, ..alone });
                }
            }
        }
    }
}

/// Finds the end of the picture that starts at the first byte.
pub(crate) fn end_of_picture(bytes: &[u8]) -> End {
    let mut segments = match Segments::of(bytes) {
        Ok(segments) => segments,
        Err(end) => return end,
    };
    loop {
        if let Err(end) = segments.next() {
            return end;
        }
    }
}

/// Where the entropy-coded data that starts at `from` ends: the next marker that is neither stuffing nor a restart.
fn end_of_scan(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(0xFF, rest)) {
        at += found;
        match bytes.get(at + 1) {
            Some(0x00 | 0xD0..=0xD7) => at += 2,
            Some(0xFF) => at += 1,
            _ => return at,
        }
    }
    bytes.len().max(from)
}

/// The EXIF block (a TIFF header and what follows) of the first APP1 segment in front of the first scan that holds one.
pub(crate) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut segments = Segments::of(bytes).ok()?;
    loop {
        let segment = segments.next().ok().filter(|segment| segment.code != START_OF_SCAN)?;
        if segment.code == APP1
            && let Some(block) = segment.body.strip_prefix(b"Exif\0\0")
        {
            return Some(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose APP1 segment holds a whole thumbnail, whose scan holds stuffing and restarts.
    fn sample() -> Vec<u8> {
        let thumbnail = [0xFF, 0xD8, 0xFF, 0xD9];
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1, 0x00, 0x06];
        bytes.extend_from_slice(&thumbnail);
        bytes.extend_from_slice(&[
            0xFF, 0xDA, 0x00, 0x03, 0x00, 0x12, 0xFF, 0x00, 0x34, 0xFF, 0xD0, 0x56, 0xFF, 0xFF, 0xD9,
        ]);
        bytes
    }

    #[test]
    fn the_end_is_found_behind_a_thumbnail_and_in_front_of_trailing_bytes() {
        let whole = sample();
        let length = whole.len();
        assert_eq!(end_of_picture(&whole), End::At(length));
        let mut longer = whole.clone();
        longer.extend_from_slice(b"\r\n--boundary");
        assert_eq!(end_of_picture(&longer), End::At(length));
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        let whole = sample();
        for length in 0..whole.len() {
            assert_eq!(end_of_picture(&whole[..length]), End::Truncated, "prefix of {length} bytes");
        }
    }

    #[test]
    fn what_cannot_be_a_jpeg_is_broken() {
        assert_eq!(end_of_picture(b"\x89PNG"), End::Broken);
        assert_eq!(end_of_picture(&[0xFF, 0xD8, 0xFF, 0xE0, 0x00, 0x01]), End::Broken);
    }
}
