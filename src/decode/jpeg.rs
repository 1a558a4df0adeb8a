//! The marker structure of a JPEG: where a picture ends.
//!
//! Pure bytes. Used to tell a truncated frame from a whole one, and to split Motion JPEG streams. A plain search for
//! `FF D9` would stop at the end of a thumbnail inside an APP segment, so segments are walked by their lengths.

/// First bytes of every JPEG: start of image and the first byte of the next marker.
pub(crate) const START: [u8; 3] = [0xFF, 0xD8, 0xFF];

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

/// Finds the end of the picture that starts at the first byte.
pub(crate) fn end_of_picture(bytes: &[u8]) -> End {
    if !bytes.starts_with(&START) {
        return if START.starts_with(bytes) { End::Truncated } else { End::Broken };
    }
    let mut at = 2;
    loop {
        // Any marker may be preceded by fill bytes FF.
        let Some(&lead) = bytes.get(at) else {
            return End::Truncated;
        };
        if lead != 0xFF {
            return End::Broken;
        }
        let Some(&marker) = bytes.get(at + 1) else {
            return End::Truncated;
        };
        match marker {
            0xFF => at += 1,
            0xD9 => return End::At(at + 2),
            // TEM and restart markers stand alone.
            0x01 | 0xD0..=0xD7 => at += 2,
            // A second start, or a stuffed zero outside entropy-coded data.
            0x00 | 0xD8 => return End::Broken,
            _ => {
                let Some(next) = end_of_segment(bytes, at + 2) else {
                    return End::Truncated;
                };
                let Some(next) = next else { return End::Broken };
                at = if marker == 0xDA { end_of_scan(bytes, next) } else { next };
            }
        }
    }
}

/// Where the segment whose length field stands at `at` ends. `None`: not enough bytes; `Some(None)`: no valid length.
#[allow(clippy::option_option, reason = "three outcomes of one look, both used on the spot")]
fn end_of_segment(bytes: &[u8], at: usize) -> Option<Option<usize>> {
    let (high, low) = (*bytes.get(at)?, *bytes.get(at + 1)?);
    let length = usize::from(u16::from_be_bytes([high, low]));
    Some((length >= 2).then_some(at + length))
}

/// Where the entropy-coded data that starts at `from` ends: the next marker that is neither stuffing nor a restart.
fn end_of_scan(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xFF)) {
        at += found;
        match bytes.get(at + 1) {
            Some(0x00 | 0xD0..=0xD7) => at += 2,
            Some(0xFF) => at += 1,
            _ => return at,
        }
    }
    bytes.len().max(from)
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
