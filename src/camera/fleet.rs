//! What a worker tells the learner once a minute, and what the learner keeps of it for the fleet: what was served, and which
//! cameras are admitted.
//!
//! ```text
//! a minute: magic "OFMN" | format u16 | backbone [32] | plan [32] | bincode payload
//! ```
//! Minutes travel in the samples topic. The sums of all workers are a record of the learner's in the heads topic, with the
//! position in the log up to which they hold every minute: a new learner adds what came after, and nothing twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::News;
use crate::audit::CameraId;
use crate::heads::codec;
use crate::plan::Plan;
use crate::promise::history::History;
use crate::promise::served::Tally;

const MAGIC: [u8; 4] = *b"OFMN";
const FORMAT: u16 = 1;
/// Most cameras in the fleet's record, the last admitted: 8 bytes each.
const ADMITTED_MAX: usize = 32_768;
/// Most changes of cameras in one minute's record; those of more cameras follow with the next.
const NEWS_MAX: usize = 4_096;
/// Workers whose last minute is remembered, to count none twice.
const WORKERS_MAX: usize = 4_096;

/// Why bytes are no minute of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MinuteRejection {
    /// Other first bytes.
    #[error("not a worker's minute")]
    Other,
    /// A newer worker's: passed over quietly.
    #[error("a worker's minute of format {0}, which is not known here")]
    Format(u16),
    /// Of another model or other candidate exits.
    #[error("a minute of another model or plan")]
    OtherPlan,
    /// Numbers that cannot be.
    #[error("a broken minute: {0}")]
    Malformed(String),
}

/// One worker's minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// The worker's process, by bits of its own.
    pub worker: u64,
    /// Minutes of this process before it: a minute that Kafka delivers twice is counted once.
    pub number: u64,
    /// Minutes since the Unix epoch.
    pub minute: u64,
    /// What was served.
    pub tally: Tally,
    /// Cameras that were admitted.
    pub admitted: Vec<CameraId>,
    /// Cameras that were quarantined.
    pub quarantined: Vec<CameraId>,
}

impl Minute {
    /// A minute without frames yet.
    #[must_use]
    pub fn new(worker: u64, number: u64, minute: u64, tally: Tally, news: &[News]) -> Self {
        let of = |news: &News| match news {
            News::Admitted(id) => (Some(*id), None),
            News::Quarantined(id) => (None, Some(*id)),
        };
        let admitted = news.iter().filter_map(|news| of(news).0).take(NEWS_MAX).collect();
        let quarantined = news.iter().filter_map(|news| of(news).1).take(NEWS_MAX).collect();
        Self { worker, number, minute, tally, admitted, quarantined }
    }

    /// The record's value.
    ///
    /// # Errors
    /// When it is too large, which bounded news never make it.
    pub fn encode(&self, plan: &Plan) -> Result<Vec<u8>, MinuteRejection> {
        let payload = codec::encode(self).map_err(|why| MinuteRejection::Malformed(why.to_string()))?;
        let mut bytes = Vec::with_capacity(70 + payload.len());
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(plan.backbone.0);
        bytes.extend(plan.plan.0);
        bytes.extend(payload);
        Ok(bytes)
    }

    /// Whether a record of the samples topic is a minute, of whatever format.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Takes a record's value apart and checks it.
    ///
    /// # Errors
    /// With the first check that fails.
    pub fn decode(plan: &Plan, bytes: &[u8]) -> Result<Self, MinuteRejection> {
        let short = || MinuteRejection::Malformed("it is cut off".to_owned());
        let rest = bytes.strip_prefix(&MAGIC).ok_or(MinuteRejection::Other)?;
        let (format, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        if u16::from_le_bytes(*format) != FORMAT {
            return Err(MinuteRejection::Format(u16::from_le_bytes(*format)));
        }
        let (backbone, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let (cuts, payload) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        if *backbone != plan.backbone.0 || *cuts != plan.plan.0 {
            return Err(MinuteRejection::OtherPlan);
        }
        let minute: Self = codec::decode(payload).map_err(|why| MinuteRejection::Malformed(why.to_string()))?;
        if minute.admitted.len() > NEWS_MAX || minute.quarantined.len() > NEWS_MAX {
            return Err(MinuteRejection::Malformed("more cameras than one minute tells of".to_owned()));
        }
        Ok(minute)
    }
}

/// What the learner keeps of all minutes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Fleet {
    served: History,
    /// The newest position in the samples log whose minute is in the sums.
    position: i64,
    workers: HashMap<u64, u64>,
    /// Admitted cameras, each with when it was: a count that ascends.
    admitted: BTreeMap<CameraId, u64>,
    admissions: u64,
}

impl Fleet {
    /// Nothing heard yet; `least` as in [`Tally::new`].
    #[must_use]
    pub fn new(least: f64) -> Self {
        let (workers, admitted) = (HashMap::new(), BTreeMap::new());
        Self { served: History::new(least), position: i64::MIN, workers, admitted, admissions: 0 }
    }

    /// Takes a minute from this position of the log, at `now` (minutes since the Unix epoch). A worker's clock may be wrong: no
    /// minute is counted later than now. Returns whether the minute was new.
    pub fn hear(&mut self, minute: &Minute, position: i64, now: u64) -> bool {
        let heard = self.workers.get(&minute.worker).is_some_and(|last| minute.number <= *last);
        if position <= self.position || heard {
            return false;
        }
        self.position = position;
        if self.workers.len() >= WORKERS_MAX {
            self.workers.clear();
        }
        self.workers.insert(minute.worker, minute.number);
        self.served.add(minute.minute.min(now), &minute.tally);
        self.admit(minute.admitted.iter().copied());
        for camera in &minute.quarantined {
            self.admitted.remove(camera);
        }
        true
    }

    /// Admits cameras: those of a worker's minute, or those whose audits certified a policy.
    pub fn admit(&mut self, cameras: impl IntoIterator<Item = CameraId>) {
        for camera in cameras {
            self.admissions += 1;
            self.admitted.insert(camera, self.admissions);
        }
        if self.admitted.len() > ADMITTED_MAX {
            let mut times: Vec<u64> = self.admitted.values().copied().collect();
            times.sort_unstable();
            // Room for a while: the oldest eighth goes at once.
            let keep_from = times.get(times.len() - ADMITTED_MAX / 8 * 7).copied().unwrap_or_default();
            self.admitted.retain(|_, time| *time >= keep_from);
        }
    }

    /// Time goes on, also where no minute comes.
    pub fn advance(&mut self, now: u64) {
        self.served.advance(now);
    }

    /// What the fleet served.
    #[must_use]
    pub fn served(&self) -> &History {
        &self.served
    }

    /// The cameras that need no admission.
    #[must_use]
    pub fn admitted(&self) -> HashSet<CameraId> {
        self.admitted.keys().copied().collect()
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    served: History,
    position: i64,
    workers: Vec<(u64, u64)>,
    /// In the order of their admission.
    admitted: Vec<CameraId>,
}

impl From<Fleet> for Wire {
    fn from(fleet: Fleet) -> Self {
        let mut admitted: Vec<(u64, CameraId)> = fleet.admitted.into_iter().map(|(id, time)| (time, id)).collect();
        admitted.sort_unstable();
        let admitted = admitted.into_iter().map(|(_, id)| id).collect();
        let mut workers: Vec<(u64, u64)> = fleet.workers.into_iter().collect();
        workers.sort_unstable();
        Self { served: fleet.served, position: fleet.position, workers, admitted }
    }
}

impl TryFrom<Wire> for Fleet {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        if wire.admitted.len() > ADMITTED_MAX || wire.workers.len() > WORKERS_MAX {
            return Err("more cameras or workers than a fleet is remembered to have");
        }
        let admissions = wire.admitted.len() as u64;
        let admitted = wire.admitted.into_iter().zip(1..).collect();
        let workers = wire.workers.into_iter().collect();
        Ok(Self { served: wire.served, position: wire.position, workers, admitted, admissions })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Channels, InputSpec, Layout, Resize};
    use crate::plan::Fingerprint;
    use crate::promise::history::Window;

    fn plan(byte: u8) -> Plan {
        let input = InputSpec {
            width: 1,
            height: 1,
            channels: Channels::Gray,
            layout: Layout::Nchw,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            resize: Resize::Stretch,
            mirror: true,
        };
        let (backbone, plan) = (Fingerprint([byte; 32]), Fingerprint([2; 32]));
        Plan { backbone, plan, input, labels: vec!["a".into(), "b".into()], candidates: Vec::new(), flops: 1 }
    }

    fn minute(worker: u64, number: u64, frames: u64) -> Minute {
        let mut tally = Tally::new(0.01);
        (0..frames).for_each(|_| tally.served(0.01, true));
        let news = [News::Admitted(CameraId(worker * 1_000 + number)), News::Quarantined(CameraId(number))];
        Minute::new(worker, number, 1_000 + number, tally, &news)
    }

    proptest! {
        /// Goal: what a learner holds after it died and another read the log again, from wherever, is what one that lived has.
        #[test]
        fn nothing_is_counted_twice(minutes in prop::collection::vec((0..4_u64, 1..9_u64), 1..40), died in 0..40_usize, again in 0..40_usize) {
            let mut numbers = [0; 4];
            let log: Vec<Minute> = minutes.iter().map(|(worker, frames)| {
                numbers[*worker as usize] += 1;
                minute(*worker, numbers[*worker as usize], *frames)
            }).collect();
            let hear = |fleet: &mut Fleet, from: usize, to: usize| {
                for (at, minute) in log.iter().enumerate().take(to).skip(from) {
                    fleet.hear(minute, at as i64, 5_000);
                }
            };
            let mut lived = Fleet::new(0.01);
            hear(&mut lived, 0, log.len());
            let mut first = Fleet::new(0.01);
            let died = died.min(log.len());
            hear(&mut first, 0, died);
            let record = codec::encode(&first).expect("small");
            let mut second: Fleet = codec::decode(&record).expect("our own");
            hear(&mut second, again.min(died), log.len());
            prop_assert_eq!(second.served(), lived.served());
            prop_assert_eq!(second.admitted(), lived.admitted());
            prop_assert_eq!(lived.served().window(Window::Start).frames(), minutes.iter().map(|(_, frames)| frames).sum::<u64>());
        }

        #[test]
        fn foreign_bytes_are_no_minute(at in 0..500_usize, bit in 0..8_u8, cut in 0..500_usize) {
            let bytes = minute(1, 2, 3).encode(&plan(1)).expect("small");
            prop_assert_eq!(Minute::decode(&plan(1), &bytes), Ok(minute(1, 2, 3)));
            prop_assert_eq!(Minute::decode(&plan(7), &bytes), Err(MinuteRejection::OtherPlan));
            prop_assert!(Minute::decode(&plan(1), &bytes[..cut.min(bytes.len() - 1)]).is_err());
            let mut turned = bytes.clone();
            let at = at % bytes.len();
            turned[at] ^= 1 << bit;
            // Never a panic; a number that stays possible is believed, as nobody signs samples.
            if let Ok(minute) = Minute::decode(&plan(1), &turned) {
                prop_assert!(minute.tally.bounds().all.upper <= 1.0);
            }
            turned[4] = 9;
            prop_assert!(Minute::decode(&plan(1), &turned).is_err());
        }
    }

    #[test]
    fn the_fleets_cameras_are_bounded_and_the_newest_stay() {
        let mut fleet = Fleet::new(0.01);
        fleet.admit((0..100_000).map(CameraId));
        let admitted = fleet.admitted();
        assert!(admitted.len() <= ADMITTED_MAX && admitted.contains(&CameraId(99_999)));
        assert!(codec::encode(&fleet).expect("bounded").len() < 512 << 10);
    }

    #[test]
    fn a_clock_ahead_puts_no_minute_into_the_future() {
        let mut fleet = Fleet::new(0.01);
        fleet.hear(&Minute { minute: u64::MAX, ..minute(1, 1, 5) }, 0, 1_000);
        fleet.hear(&minute(2, 1, 7), 1, 1_001);
        assert_eq!(fleet.served().window(Window::Hour).frames(), 12);
    }
}
