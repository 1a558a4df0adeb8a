//! What a payload is that is no picture: most often a picture in a wrapping, which its sender can leave off. Pure.
//!
//! Only looked at for frames that are refused anyway; it guesses from the first bytes, and says so.

use super::refusal::shorten;

/// How far into a payload a picture is looked for.
const REACH: usize = 4096;
/// Characters of base64 that are looked at; they hold the first bytes of any picture.
const BASE64_LOOK: usize = 64;

/// First bytes that name a format or a wrapping, and what its sender should do.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"GIF8", "a GIF; send JPEG, PNG or WebP"),
    (b"BM", "perhaps a BMP; send JPEG, PNG or WebP"),
    (b"II*\0", "a TIFF; send JPEG, PNG or WebP"),
    (b"MM\0*", "a TIFF; send JPEG, PNG or WebP"),
    (b"\0\0\0\x0CjP  ", "a JPEG 2000; send JPEG, PNG or WebP"),
    (b"\xFF\x4F\xFF\x51", "a JPEG 2000; send JPEG, PNG or WebP"),
    (b"\xFF\x0A", "perhaps a JPEG XL; send JPEG, PNG or WebP"),
    (b"\0\0\0\x0CJXL ", "a JPEG XL; send JPEG, PNG or WebP"),
    (b"\0\0\0\x01", "H.264 or H.265 video; send single pictures (`offramp feed --camera` makes them of a stream)"),
    (b"RIFF", "a RIFF file that is no WebP (AVI?); send single pictures"),
    (b"\x1A\x45\xDF\xA3", "Matroska or WebM video; send single pictures (`offramp feed` makes them of a file)"),
    (b"%PDF", "a PDF; send JPEG, PNG or WebP"),
    (
        b"\x93NUMPY",
        "a NumPy file; send the array's bytes (`frame.tobytes()`) with the header content-type: application/x-raw; dtype=u8; shape=HEIGHTxWIDTHxCHANNELS",
    ),
    (b"PK\x03\x04", "a ZIP archive (an .npz?); send the picture's bytes alone"),
    (
        b"\x1F\x8B",
        "packed by gzip; send the picture as it is, and leave compression to the producer (compression.type)",
    ),
    (
        b"\x28\xB5\x2F\xFD",
        "packed by zstd; send the picture as it is, and leave compression to the producer (compression.type)",
    ),
    (
        b"\x04\x22\x4D\x18",
        "packed by lz4; send the picture as it is, and leave compression to the producer (compression.type)",
    ),
    (b"Obj\x01", "an Avro container; send the bytes of the field that holds the picture alone"),
    (b"\xAC\xED\0\x05", "a serialised Java object; send the picture's bytes with ByteArraySerializer"),
    (b"http://", "a URL; send the picture's bytes"),
    (b"https://", "a URL; send the picture's bytes"),
    (b"s3://", "a URL; send the picture's bytes"),
    (b"file://", "a URL; send the picture's bytes"),
];

/// What `payload`, which is no picture and no declared tensor, seems to be and what to do about it, without copying foreign
/// text into logs: hex digits and a shortened content type.
pub(super) fn words(payload: &[u8], content_type: Option<&str>, input_len: usize) -> String {
    let start = payload.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let declared = content_type.map_or_else(String::new, |text| format!(", content-type {:?}", shorten(text)));
    let what = format!("starts with {start}, which is neither JPEG, PNG nor WebP{declared}");
    match guess(payload).or_else(|| bare_tensor(payload, input_len)) {
        Some(guess) => format!("{what}; it looks like {guess}"),
        None => what,
    }
}

fn guess(payload: &[u8]) -> Option<String> {
    text(payload)
        .or_else(|| registry(payload))
        .or_else(|| pickle(payload))
        .or_else(|| {
            let found = SIGNATURES.iter().find(|(bytes, _)| payload.starts_with(bytes));
            found.map(|(_, words)| (*words).to_owned())
        })
        .or_else(|| video_file(payload))
        .or_else(|| inside(payload))
}

/// JSON, base64 and data: URLs, all of them text.
fn text(payload: &[u8]) -> Option<String> {
    let payload = payload.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(payload).trim_ascii_start();
    if payload.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:")) {
        return Some("a data: URL; send the bytes that its base64 stands for, without the URL".into());
    }
    let quoted = payload.strip_prefix(b"\"");
    if let Some(kind) = base64(quoted.unwrap_or(payload)) {
        let json = if quoted.is_some() { " in a JSON string" } else { "" };
        return Some(format!("{kind} in base64{json}; decode it and send the bytes (in Python base64.b64decode)"));
    }
    let head = payload.get(..payload.len().min(32)).unwrap_or_default();
    let is_text = head.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7E | 0x80..));
    let is_json = match head.split_first() {
        Some((b'{', rest)) => matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}')),
        Some((b'[', rest)) => {
            matches!(rest.trim_ascii_start().first(), Some(b'0'..=b'9' | b'-' | b'[' | b'{' | b'"' | b']'))
        }
        Some((b'"', _)) => true,
        _ => false,
    };
    let advice =
        "JSON; send the picture's bytes alone as the record's value, and what else there is as key and headers";
    (is_text && is_json).then(|| advice.into())
}

/// The kind of picture that the text stands for.
fn base64(text: &[u8]) -> Option<&'static str> {
    let head = text.get(..text.len().min(BASE64_LOOK))?;
    // Pad characters end it, and a JSON string's quote.
    let chars: Vec<u8> = head
        .iter()
        .copied()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
        .collect();
    // From here on it would be chance: eight characters hold the first six bytes.
    if chars.len() < 8 {
        return None;
    }
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' | b'-' => 62,
        _ => 63,
    };
    let bytes: Vec<u8> = chars
        .chunks_exact(4)
        .flat_map(|four| {
            let bits = four.iter().fold(0, |bits, &byte| bits << 6 | value(byte));
            [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]
        })
        .collect();
    kind_of(&bytes)
}

/// The kind of picture that begins with these bytes; a WebP is believed by its first four.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 3] = [(b"\xFF\xD8\xFF", "a JPEG"), (b"\x89PNG\r\n", "a PNG"), (b"RIFF", "a WebP")];
    kinds.into_iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| kind)
}

/// A schema registry's frame: a zero, the schema's number in four bytes, then Avro, Protobuf or JSON.
fn registry(payload: &[u8]) -> Option<String> {
    let (&[0, a, b, c, d], rest) = payload.split_first_chunk::<5>()? else { return None };
    let schema = u32::from_be_bytes([a, b, c, d]);
    // Numbers count from one; pictures without a header begin with zeros as well.
    let is_json = rest.first() == Some(&b'{');
    let found = find_picture(rest);
    if !(1..1 << 24).contains(&schema) || !(is_json || found.is_some()) {
        return None;
    }
    let what = found.map_or_else(|| "JSON".to_owned(), |(kind, at)| format!("{kind} from byte {}", at + 5));
    Some(format!(
        "a schema registry's frame (schema {schema}, with {what}); produce the picture's bytes with a byte-array serializer"
    ))
}

fn pickle(payload: &[u8]) -> Option<String> {
    let is_pickle = matches!(payload, [0x80, 2..=5, ..]) && payload.ends_with(b".");
    is_pickle.then(|| {
        "a Python pickle; send the bytes of the encoded picture (cv2.imencode(\".jpg\", frame)[1].tobytes()), never a pickle"
            .into()
    })
}

/// MP4 and its kin (HEIC and AVIF among them) name themselves behind a length.
fn video_file(payload: &[u8]) -> Option<String> {
    if payload.get(4..8)? != b"ftyp" {
        return None;
    }
    match payload.get(8..12) {
        Some(b"avif" | b"avis" | b"heic" | b"heix" | b"mif1") => Some("an AVIF or HEIC; send JPEG, PNG or WebP".into()),
        _ => Some("an MP4 video; send single pictures (`offramp feed` makes them of a file)".into()),
    }
}

/// A picture that begins behind something else: Protobuf, `MessagePack`, Avro, a header of one's own.
fn inside(payload: &[u8]) -> Option<String> {
    let (kind, at) = find_picture(payload)?;
    let what = if is_protobuf(payload, at) { "a Protobuf message" } else { "a message" };
    Some(format!("{what} with {kind} from byte {at}; send the picture's bytes alone as the record's value"))
}

/// Whether a field of bytes begins at `at`, in the message or in one inside it.
fn is_protobuf(payload: &[u8], at: usize) -> bool {
    let mut rest = payload;
    // A tag (the field's number and its kind) each, then a number, 8 or 4 bytes, or a length and so many bytes.
    for _ in 0..64 {
        let Some((tag, behind)) = varint(rest) else { return false };
        if tag >> 3 == 0 {
            return false;
        }
        let next = match tag & 7 {
            0 => varint(behind).map(|(_, behind)| behind),
            1 => behind.get(8..),
            5 => behind.get(4..),
            2 => varint(behind).and_then(|(length, body)| {
                let reaches = at.checked_sub(payload.len() - body.len())?;
                // A message inside this one is read on from its first field.
                if (reaches as u64) < length { Some(body) } else { body.get(usize::try_from(length).ok()?..) }
            }),
            _ => None,
        };
        match next {
            Some(next) if payload.len() - next.len() == at && tag & 7 == 2 => return true,
            Some(next) if payload.len() - next.len() < at => rest = next,
            _ => return false,
        }
    }
    false
}

/// A number of seven bits a byte, the lowest first, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * at);
        if byte < 0x80 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

fn find_picture(payload: &[u8]) -> Option<(&'static str, usize)> {
    let reach = payload.get(..payload.len().min(REACH))?;
    let starts =
        reach.windows(4).position(|four| matches!(four, [0xFF, 0xD8, 0xFF, 0xC0..=0xFF] | b"\x89PNG" | b"RIFF"))?;
    kind_of(payload.get(starts..)?).map(|kind| (kind, starts))
}

/// Pixels without the header that says so.
fn bare_tensor(payload: &[u8], input_len: usize) -> Option<String> {
    let dtype = match payload.len() {
        length if length == input_len => "u8",
        length if Some(length) == input_len.checked_mul(4) => "f32",
        _ => return None,
    };
    Some(format!(
        "a raw tensor of the model's own size; add the header content-type: application/x-raw; dtype={dtype}; \
         shape=HEIGHTxWIDTHxCHANNELS"
    ))
}
