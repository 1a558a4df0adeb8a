//! The wire form of learned state: records of the compacted topic, checked on entry before anything is believed.
//!
//! A record's value is an envelope around a bincode payload. Nothing here knows Kafka; keys and values are bytes.
//!
//! ```text
//! magic "OFRS" | format u16 | kind u8 | flags u8 | backbone [32] | plan [32] | sequence u64 | length u32 |
//! blake3 of the payload [32] | payload | HMAC-SHA256 of everything before it [32], when flag 1 is set
//! ```
//! Numbers are little-endian. A format stands for the arithmetic of the heads too: those of formats 1 and 2 were certified by sums
//! of floats, and would decide a little otherwise here.

use half::f16;
use hmac::{Hmac, KeyInit, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::heads::codec;
use crate::heads::head::HeadParts;
use crate::heads::{Head, Policy};
use crate::plan::{ExitId, Fingerprint, Plan};

const MAGIC: [u8; 4] = *b"OFRS";
const FORMAT: u16 = 3;
const FLAG_SIGNED: u8 = 1;
const MAC_BYTES: usize = 32;
const HEADER_BYTES: usize = 4 + 2 + 1 + 1 + 32 + 32 + 8 + 4 + 32;

/// A secret that all workers of a fleet share; records without its signature are then refused.
#[derive(Clone)]
pub struct HmacKey(Vec<u8>);

impl HmacKey {
    /// Any bytes; 32 random ones are best.
    #[must_use]
    pub fn new(key: Vec<u8>) -> Self {
        Self(key)
    }

    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        // HMAC takes keys of any length: the error of this constructor cannot occur for it.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(bytes);
        mac
    }
}

impl std::fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacKey(secret)")
    }
}

/// What a record is about: the part of its key after the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// The head of one exit.
    Head(ExitId),
    /// The policy.
    Policy,
}

/// The key of a record: `<backbone>/<plan>/exit/<k>` or `<backbone>/<plan>/policy`, fingerprints as 64 hex digits.
#[must_use]
pub fn record_key(plan: &Plan, kind: RecordKind) -> String {
    match kind {
        RecordKind::Head(exit) => format!("{}/{}/exit/{exit}", plan.backbone, plan.plan),
        RecordKind::Policy => format!("{}/{}/policy", plan.backbone, plan.plan),
    }
}

/// Why a record is not believed. Counted by [`SnapshotRejection::as_str`] and otherwise ignored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRejection {
    /// The key has this model's prefix and names an exit that it does not have.
    #[error("the key {0:?} names no exit of this model")]
    Key(String),
    /// Larger than any record of ours.
    #[error("{bytes} bytes, at most {} are taken", codec::PAYLOAD_BYTES_MAX)]
    Size {
        /// Its size.
        bytes: usize,
    },
    /// Not one of our envelopes, or cut off.
    #[error("not a snapshot: {0}")]
    Magic(&'static str),
    /// Written by a version of this program with another format.
    #[error(
        "format {found}, this program reads {FORMAT}: run one version in a fleet; what another learned is learned anew"
    )]
    Version {
        /// The record's format.
        found: u16,
    },
    /// The payload is not what was written.
    #[error("the checksum does not fit the payload")]
    Checksum,
    /// A key is configured and the record is not signed with it.
    #[error("not signed with this fleet's key")]
    Signature,
    /// Key, envelope and payload are not about the same thing, or it is about another model.
    #[error("the record is about another {0}")]
    Fingerprint(&'static str),
    /// Lengths or classes do not fit this backbone.
    #[error("{0}")]
    Shape(String),
    /// NaN, infinities, numbers out of range.
    #[error("{0}")]
    Number(String),
    /// The payload is not bincode of the expected type.
    #[error("the payload cannot be decoded: {0}")]
    Payload(String),
    /// Older than what is in force or held.
    #[error("sequence {found} is older than {held}")]
    Stale {
        /// The record's.
        found: u64,
        /// Ours.
        held: u64,
    },
}

impl SnapshotRejection {
    /// Every word that [`SnapshotRejection::as_str`] can say.
    pub const REASONS: [&'static str; 11] = [
        "key",
        "size",
        "magic",
        "version",
        "checksum",
        "signature",
        "fingerprint",
        "shape",
        "number",
        "payload",
        "stale",
    ];

    /// The word for a metric label.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Size { .. } => "size",
            Self::Magic(_) => "magic",
            Self::Version { .. } => "version",
            Self::Checksum => "checksum",
            Self::Signature => "signature",
            Self::Fingerprint(_) => "fingerprint",
            Self::Shape(_) => "shape",
            Self::Number(_) => "number",
            Self::Payload(_) => "payload",
            Self::Stale { .. } => "stale",
        }
    }
}

/// A head as it travels. Shapes as in [`HeadParts`]; weights are `f16` bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HeadSnapshot {
    exit: u8,
    width: u32,
    hidden: u32,
    classes: Vec<u32>,
    other: bool,
    mean: Vec<f32>,
    scale: Vec<f32>,
    w1: Vec<u16>,
    b1: Vec<f32>,
    w2: Vec<u16>,
    b2: Vec<f32>,
    temperature: f32,
}

/// A checked record.
#[derive(Debug, Clone)]
pub enum Snapshot {
    /// A head; its sequence number is the record's.
    Head(Box<Head>),
    /// A policy and its sequence number.
    Policy {
        /// Version of the policy.
        sequence: u64,
        /// The policy.
        policy: Policy,
    },
}

/// What an envelope says about itself, for people: nothing is verified but its form.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordHeader {
    /// Which backbone.
    pub backbone: Fingerprint,
    /// Which plan.
    pub plan: Fingerprint,
    /// Head or policy.
    pub is_policy: bool,
    /// Whether a signature is there.
    pub signed: bool,
    /// Sequence number.
    pub sequence: u64,
    /// Size of the payload.
    pub payload_bytes: usize,
}

/// Encodes a head as `(key, value)`.
pub(crate) fn encode_head(plan: &Plan, head: &Head, key: Option<&HmacKey>) -> Result<(String, Vec<u8>), String> {
    let parts = head.parts();
    let bits = |weights: &[f16]| weights.iter().map(|weight| weight.to_bits()).collect();
    let snapshot = HeadSnapshot {
        exit: parts.exit.0,
        width: u32::try_from(parts.mean.len()).map_err(|why| why.to_string())?,
        hidden: u32::try_from(parts.b1.len()).map_err(|why| why.to_string())?,
        classes: parts.classes.clone(),
        other: parts.other,
        mean: parts.mean.clone(),
        scale: parts.scale.clone(),
        w1: bits(&parts.w1),
        b1: parts.b1.clone(),
        w2: bits(&parts.w2),
        b2: parts.b2.clone(),
        temperature: parts.temperature,
    };
    let payload = codec::encode(&snapshot).map_err(|why| why.to_string())?;
    let kind = RecordKind::Head(parts.exit);
    Ok((record_key(plan, kind), seal(plan, kind, parts.sequence, &payload, key)?))
}

/// Encodes a policy as `(key, value)`.
pub(crate) fn encode_policy(
    plan: &Plan,
    sequence: u64,
    policy: &Policy,
    key: Option<&HmacKey>,
) -> Result<(String, Vec<u8>), String> {
    let payload = codec::encode(policy).map_err(|why| why.to_string())?;
    Ok((record_key(plan, RecordKind::Policy), seal(plan, RecordKind::Policy, sequence, &payload, key)?))
}

fn seal(plan: &Plan, kind: RecordKind, seq: u64, payload: &[u8], key: Option<&HmacKey>) -> Result<Vec<u8>, String> {
    let length = u32::try_from(payload.len()).map_err(|why| why.to_string())?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + MAC_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.push(u8::from(kind == RecordKind::Policy));
    bytes.push(if key.is_some() { FLAG_SIGNED } else { 0 });
    bytes.extend(plan.backbone.0);
    bytes.extend(plan.plan.0);
    bytes.extend(seq.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(blake3::hash(payload).as_bytes());
    bytes.extend(payload);
    if let Some(key) = key {
        let tag = key.mac(&bytes).finalize().into_bytes();
        bytes.extend(tag);
    }
    Ok(bytes)
}

/// Takes the next `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], SnapshotRejection> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(SnapshotRejection::Magic("it is cut off"))?;
    *bytes = rest;
    Ok(*head)
}

/// An envelope taken apart; only its form is checked.
struct Envelope<'a> {
    header: RecordHeader,
    checksum: [u8; 32],
    payload: &'a [u8],
    /// The signature, or nothing.
    tag: &'a [u8],
}

fn open(value: &[u8]) -> Result<Envelope<'_>, SnapshotRejection> {
    if value.len() > codec::PAYLOAD_BYTES_MAX + HEADER_BYTES + MAC_BYTES {
        return Err(SnapshotRejection::Size { bytes: value.len() });
    }
    let mut rest = value;
    if take::<4>(&mut rest)? != MAGIC {
        return Err(SnapshotRejection::Magic("other first bytes"));
    }
    let format = u16::from_le_bytes(take(&mut rest)?);
    if format != FORMAT {
        return Err(SnapshotRejection::Version { found: format });
    }
    let [kind, flags] = take::<2>(&mut rest)?;
    if kind > 1 || flags > FLAG_SIGNED {
        return Err(SnapshotRejection::Magic("unknown kind or flags"));
    }
    let header = RecordHeader {
        backbone: Fingerprint(take(&mut rest)?),
        plan: Fingerprint(take(&mut rest)?),
        is_policy: kind == 1,
        signed: flags == FLAG_SIGNED,
        sequence: u64::from_le_bytes(take(&mut rest)?),
        payload_bytes: u32::from_le_bytes(take(&mut rest)?) as usize,
    };
    let checksum = take::<32>(&mut rest)?;
    let trailer = if header.signed { MAC_BYTES } else { 0 };
    if rest.len() != header.payload_bytes.saturating_add(trailer) {
        return Err(SnapshotRejection::Magic("its length is not what it says"));
    }
    let (payload, tag) = rest.split_at(header.payload_bytes);
    Ok(Envelope { header, checksum, payload, tag })
}

/// What an envelope says about itself, unverified.
///
/// # Errors
/// When the bytes are no envelope.
pub fn peek(value: &[u8]) -> Result<RecordHeader, SnapshotRejection> {
    open(value).map(|envelope| envelope.header)
}

/// Whether a record says of itself that a newer program wrote it: its format is above ours, or its kind unknown. Nothing of it
/// is believed, so nothing is verified.
pub(crate) fn is_newer(value: &[u8]) -> bool {
    let Some((magic, rest)) = value.split_first_chunk::<4>() else { return false };
    let Some(([low, high, kind], _)) = rest.split_first_chunk::<3>() else { return false };
    *magic == MAGIC && (u16::from_le_bytes([*low, *high]) > FORMAT || *kind > 1)
}

/// Checks a record about `kind` of this plan and takes it apart.
///
/// # Errors
/// With the first check that fails.
pub fn decode(
    plan: &Plan,
    kind: RecordKind,
    value: &[u8],
    key: Option<&HmacKey>,
) -> Result<Snapshot, SnapshotRejection> {
    let Envelope { header, checksum, payload, tag } = open(value)?;
    if header.backbone != plan.backbone {
        return Err(SnapshotRejection::Fingerprint("backbone"));
    }
    if header.plan != plan.plan {
        return Err(SnapshotRejection::Fingerprint("plan"));
    }
    if header.is_policy != (kind == RecordKind::Policy) {
        return Err(SnapshotRejection::Fingerprint("kind"));
    }
    if let Some(key) = key {
        let signed = &value[..value.len() - tag.len()];
        if !header.signed || key.mac(signed).verify_slice(tag).is_err() {
            return Err(SnapshotRejection::Signature);
        }
    }
    if blake3::hash(payload) != blake3::Hash::from_bytes(checksum) {
        return Err(SnapshotRejection::Checksum);
    }
    match kind {
        RecordKind::Head(exit) => decode_head(plan, exit, header.sequence, payload).map(Box::new).map(Snapshot::Head),
        RecordKind::Policy => {
            let policy: Policy = unpack(payload)?;
            match policy.fault(plan.candidates.len()) {
                Some(fault) => Err(SnapshotRejection::Number(format!("the policy has {fault}"))),
                None => Ok(Snapshot::Policy { sequence: header.sequence, policy }),
            }
        }
    }
}

fn unpack<T: DeserializeOwned>(payload: &[u8]) -> Result<T, SnapshotRejection> {
    codec::decode(payload).map_err(|why| SnapshotRejection::Payload(why.to_string()))
}

fn decode_head(plan: &Plan, exit: ExitId, sequence: u64, payload: &[u8]) -> Result<Head, SnapshotRejection> {
    let snapshot: HeadSnapshot = unpack(payload)?;
    if snapshot.exit != exit.0 {
        return Err(SnapshotRejection::Fingerprint("exit"));
    }
    let point = plan.candidates.iter().find(|point| point.exit == exit);
    let point = point.ok_or_else(|| SnapshotRejection::Shape(format!("the plan has no exit {exit}")))?;
    let stated = (snapshot.width as usize, snapshot.hidden as usize);
    if stated != (snapshot.mean.len(), snapshot.b1.len()) {
        return Err(SnapshotRejection::Shape(format!("head of exit {exit}: it states other sizes than it has")));
    }
    let half = |bits: &[u16]| bits.iter().map(|bits| f16::from_bits(*bits)).collect();
    let parts = HeadParts {
        exit,
        sequence,
        w1: half(&snapshot.w1),
        w2: half(&snapshot.w2),
        classes: snapshot.classes,
        other: snapshot.other,
        mean: snapshot.mean,
        scale: snapshot.scale,
        b1: snapshot.b1,
        b2: snapshot.b2,
        temperature: snapshot.temperature,
    };
    Head::new(parts, point.feature_width, plan.classes()).map_err(|why| match why {
        crate::heads::HeadError::Number { .. } => SnapshotRejection::Number(why.to_string()),
        _ => SnapshotRejection::Shape(why.to_string()),
    })
}
