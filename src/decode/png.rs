//! The chunks of a PNG: whether they are all there, and the EXIF block among them. Pure.

/// First bytes of every PNG.
pub(super) const START: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// What the chunks say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outline<'a> {
    /// The EXIF block: a TIFF header and what follows.
    pub(super) exif: Option<&'a [u8]>,
    /// The bytes stop before the last chunk is whole: where the one in front of it ends.
    pub(super) cut: Option<usize>,
}

/// The last chunk of every PNG.
pub(super) const END: [u8; 12] = *b"\0\0\0\0IEND\xAE\x42\x60\x82";

/// Width and height, as the header says; none if it is not there.
pub(super) fn size(bytes: &[u8]) -> Option<(u64, u64)> {
    let header = bytes.get(START.len() + 4..)?.strip_prefix(b"IHDR")?;
    let (width, rest) = header.split_first_chunk::<4>()?;
    let (height, _) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*width).into(), u32::from_be_bytes(*height).into()))
}

/// Walks the chunks. Starts with [`START`].
pub(super) fn outline(bytes: &[u8]) -> Outline<'_> {
    let mut outline = Outline::default();
    let mut at = START.len();
    loop {
        // A length, a name, the body, a checksum.
        let rest = bytes.get(at..).unwrap_or_default();
        let head =
            rest.split_first_chunk::<4>().and_then(|(length, rest)| Some((length, rest.split_first_chunk::<4>()?)));
        let whole = head.and_then(|(length, (name, behind))| {
            let (body, checksum) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            (checksum.len() >= 4).then_some((name, body))
        });
        match whole {
            None => return Outline { cut: Some(at), ..outline },
            Some((b"IEND", _)) => return outline,
            Some((b"eXIf", body)) if outline.exif.is_none() => outline.exif = Some(body),
            Some(_) => {}
        }
        at += 12 + whole.map_or(0, |(_, body)| body.len());
    }
}
