//! The only user of bincode: fixed-width little-endian numbers, a size limit always, and no byte left over.
//!
//! Why bincode, which is no longer maintained: 2.0.1 is the form that was asked for and the last release that encodes
//! anything. What it does not check (trailing bytes, NaN, forged lengths) is checked here and by the callers.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No payload of ours is larger: a head for 4,096 features and 65,536 classes is refused long before.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

type Codec = Configuration<LittleEndian, Fixint, Limit<PAYLOAD_BYTES_MAX>>;

fn codec() -> Codec {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit()
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("{bytes} bytes, at most {PAYLOAD_BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("{left} bytes are left over")]
    LeftOver { left: usize },
    #[error("{0}")]
    Malformed(String),
}

/// Encodes a value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, codec()).map_err(|why| CodecError::Malformed(why.to_string()))?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Decodes a value from exactly these bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, codec()).map_err(|why| CodecError::Malformed(why.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::LeftOver { left }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_went_in_comes_out(value in prop::collection::vec((any::<u32>(), any::<u16>()), 0..50)) {
            prop_assert_eq!(decode::<Vec<(u32, u16)>>(&encode(&value).expect("small")), Ok(value));
        }

        #[test]
        fn a_trailing_byte_is_refused(value in any::<u64>(), extra in any::<u8>()) {
            let mut bytes = encode(&value).expect("small");
            bytes.push(extra);
            prop_assert_eq!(decode::<u64>(&bytes), Err(CodecError::LeftOver { left: 1 }));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decode::<Vec<String>>(&bytes).map_or_else(drop, drop);
        }
    }

    #[test]
    fn a_forged_length_asks_for_no_memory() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 8]);
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(CodecError::Malformed(_))));
    }
}
