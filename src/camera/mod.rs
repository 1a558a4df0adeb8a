//! What a worker knows of its cameras, in one place and bounded: how their frames are numbered, whether the fleet knows them,
//! how they compare with themselves, whether their early answers are right.
//!
//! Not asked by the flow of frames yet: until it is, suspicion is a lane's, about all of its frames.
//!
//! Pure: no clock, no Kafka, no metrics. One table for all lanes, as each lane sees only a part of a camera's frames:
//! [`Cameras::take`] is called where frames come in, in the order of their partition, [`Cameras::chance`] before a frame's draw,
//! [`Cameras::observe`] when its answer is known, both once a batch under one lock. What is known of a partition's cameras goes
//! with the partition ([`Cameras::revoke`]); who was admitted stays known to the fleet.

pub mod fleet;
mod itself;
mod recent;
mod standing;

use std::collections::{BTreeMap, HashSet};

use crate::audit::{CameraId, Place};
use crate::heads::Confidence;
use crate::promise::watch::Watch;

use itself::Itself;
use recent::Recent;
use standing::{Standing, Trial};

/// Frames of a partition after which its keys are judged.
const JUDGED_FRAMES: u64 = 10_000;
/// Frames that a key must have in the mean; with fewer the partition is the camera.
const FRAMES_PER_KEY: u64 = 10;
/// Characters of a key that are shown.
const NAME_CHARS: usize = 64;
/// Share of a camera's frames that is audited on probation.
const RAISED: f64 = 0.1;

/// What is asked of all cameras.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most cameras that are remembered.
    pub cameras_max: usize,
    /// The promised disagreement.
    pub epsilon: f64,
    /// Frames of the fleet to one camera that is quarantined without a cause, at least, in expectation.
    pub frames_per_false_alarm: f64,
}

/// What the policy in force means for cameras.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Tells paths apart: the same exits, heads and thresholds are the same path. 0: no exit is on.
    pub path: u64,
    /// The share of all frames that every worker audits.
    pub shared: f64,
    /// The share of frames whose samples the fleet can take at most.
    pub limit: f64,
    /// Frames in a block.
    pub block: u64,
}

/// With which probability a frame is audited, fixed before its draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance {
    /// The probability that it runs to the end and is compared.
    pub audited: f64,
    /// The probability that its sample is sent as well; at most `audited`.
    pub sampled: f64,
    /// Below which draw its sample speaks for all frames; at most `sampled`. 0 for a camera that is not one of the fleet: its
    /// answers are the full model's, and it must neither certify what others are served nor alarm them.
    pub shared: f64,
}

/// What came of a frame, as its camera sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The frame's place.
    pub place: Place,
    /// How sure the first exit was; none: there is no exit.
    pub confidence: Option<Confidence>,
    /// An audit: the frame's draw, the probability that it had, and whether the policy's answer differs from the full model's.
    pub audit: Option<(f64, f64, bool)>,
}

/// How many cameras stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Unknown or on probation.
    pub admission: u64,
    /// Admitted.
    pub admitted: u64,
    /// Without exits.
    pub quarantined: u64,
    /// Under suspicion, of those on probation or admitted.
    pub suspicious: u64,
    /// Forgotten for want of room since the start.
    pub forgotten: u64,
    /// Partitions whose keys are no cameras.
    pub keyless: u64,
}

/// A camera that people should look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Worst {
    /// Its key, as text, shortened.
    pub name: String,
    /// Its partition.
    pub partition: i32,
    /// One word for its standing.
    pub state: &'static str,
    /// Whether its frames look unusual.
    pub suspicious: bool,
    /// Audits under the path in force.
    pub audits: u64,
    /// Disagreements among them.
    pub disagreements: u64,
}

/// A change that the fleet should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The camera is one of the fleet.
    Admitted(CameraId),
    /// It is one no more.
    Quarantined(CameraId),
}

/// News kept until somebody asks; more are not worth a record.
const NEWS_MAX: usize = 4_096;

#[derive(Debug)]
struct Camera {
    id: CameraId,
    name: String,
    stream: u64,
    next: u64,
    standing: Standing,
    watch: Watch,
    itself: Itself,
}

#[derive(Debug, Default)]
struct Partition {
    frames: u64,
    /// Cameras that came up among these frames.
    fresh: u64,
    /// Keys are not cameras here.
    whole: bool,
}

/// The cameras of a worker.
#[derive(Debug)]
pub struct Cameras {
    rules: Rules,
    known: Recent<(i32, CameraId), Box<Camera>>,
    partitions: BTreeMap<i32, Partition>,
    fleet: HashSet<CameraId>,
    news: Vec<News>,
}

impl Cameras {
    /// Knows no camera.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            known: Recent::new(rules.cameras_max),
            rules,
            partitions: BTreeMap::new(),
            fleet: HashSet::new(),
            news: Vec::new(),
        }
    }

    /// Numbers a frame of a partition, in the order of the partition. `bits` are uniform and belong to the frame
    /// ([`crate::batch::draw`]).
    pub fn take(&mut self, topic: &str, partition: i32, key: Option<&[u8]>, bits: u64) -> Place {
        let here = self.partitions.entry(partition).or_default();
        here.frames += 1;
        let key = key.filter(|_| !here.whole);
        let id = key.map_or_else(|| CameraId::of_partition(topic, partition), CameraId::of_key);
        let (epsilon, frames) = (self.rules.epsilon, self.rules.frames_per_false_alarm);
        let mut fresh = false;
        let make = || {
            fresh = true;
            let standing = if self.fleet.contains(&id) { Standing::Admitted } else { Standing::unknown(epsilon) };
            let (watch, itself) = (Watch::new(epsilon, frames), Itself::new(0));
            Box::new(Camera { id, name: name(key, partition), stream: bits, next: 0, standing, watch, itself })
        };
        let camera = self.known.see((partition, id), make, |camera| camera.next >= FRAMES_PER_KEY);
        let place = Place { camera: id, stream: camera.stream, number: camera.next };
        camera.next += 1;
        here.fresh += u64::from(fresh);
        if here.frames >= JUDGED_FRAMES {
            let whole = here.whole || here.frames < FRAMES_PER_KEY * here.fresh;
            if whole && !here.whole {
                self.known.retain(|(of, _)| *of != partition);
            }
            *here = Partition { whole, ..Partition::default() };
        }
        place
    }

    /// Forgets all cameras of a partition that is no longer ours.
    pub fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.known.retain(|(of, _)| *of != partition);
    }

    /// Takes over whom the fleet admitted, as its record says: they need no admission here.
    pub fn know(&mut self, fleet: HashSet<CameraId>) {
        for camera in self.known.values_mut() {
            if fleet.contains(&camera.id)
                && matches!(camera.standing, Standing::Unknown(_) | Standing::Probation { .. })
            {
                camera.standing = Standing::Admitted;
            }
        }
        self.fleet = fleet;
    }

    /// The probabilities of a frame's audit. A camera that was forgotten meanwhile is unknown.
    #[must_use]
    pub fn chance(&self, partition: i32, camera: CameraId, terms: &Terms) -> Chance {
        let Terms { path, shared, limit, .. } = *terms;
        let sampled = |audited: f64| audited.min(limit).max(shared);
        let apart = |sampled| Chance { audited: 1.0, sampled, shared: 0.0 };
        let among = |audited: f64| Chance { audited, sampled: sampled(audited), shared };
        let camera = self.known.get(&(partition, camera));
        match camera.map(|camera| &camera.standing) {
            // Every frame is compared, and as many are told of as of any other camera.
            Some(Standing::Quarantined { .. }) => apart(shared),
            // Without exits there is nothing to be admitted to.
            _ if path == 0 => among(shared),
            None | Some(Standing::Unknown(_)) => apart(sampled(1.0)),
            Some(_) if camera.is_some_and(|camera| camera.itself.is_suspicious()) => among(1.0),
            Some(Standing::Probation { .. }) => among(shared.max(RAISED)),
            Some(Standing::Admitted) => among(shared),
        }
    }

    /// Takes what came of a frame.
    pub fn observe(&mut self, partition: i32, seen: &Seen, terms: &Terms) {
        let Rules { epsilon, frames_per_false_alarm, .. } = self.rules;
        let Place { camera: id, stream, number } = seen.place;
        let Some(camera) = self.known.get_mut(&(partition, id)).filter(|camera| camera.stream == stream) else {
            return;
        };
        // A camera stays in quarantine while the fleet has no exits; nothing else is to be said of it then.
        if terms.path == 0 {
            return;
        }
        if camera.itself.path() != terms.path {
            camera.itself = Itself::new(terms.path);
            camera.watch = Watch::new(epsilon, frames_per_false_alarm);
            if let Standing::Unknown(_) = camera.standing {
                camera.standing = Standing::unknown(epsilon);
            }
        }
        if let Some(confidence) = seen.confidence {
            camera.itself.observe(number, confidence, terms.block, epsilon);
        }
        let Some((draw, probability, disagrees)) = seen.audit else { return };
        camera.itself.audited(disagrees, terms.block, epsilon);
        let broken = camera.watch.observe(disagrees, 1.0 / probability.max(f64::EPSILON), number).is_some();
        let served_early = matches!(camera.standing, Standing::Probation { .. } | Standing::Admitted);
        let changed = if broken && served_early {
            camera.standing = Standing::quarantined(epsilon);
            true
        } else {
            camera.standing.observe(Trial { number, draw, disagrees }, terms.block, epsilon)
        };
        if changed {
            camera.watch = Watch::new(epsilon, frames_per_false_alarm);
            let news = match camera.standing {
                Standing::Admitted => Some(News::Admitted(id)),
                Standing::Quarantined { .. } => Some(News::Quarantined(id)),
                Standing::Unknown(_) | Standing::Probation { .. } => None,
            };
            self.news.extend(news.filter(|_| self.news.len() < NEWS_MAX));
        }
    }

    /// What changed since this was asked last.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// How many cameras stand where.
    #[must_use]
    pub fn census(&self) -> Census {
        let keyless = self.partitions.values().filter(|partition| partition.whole).count() as u64;
        let mut census = Census { forgotten: self.known.forgotten(), keyless, ..Census::default() };
        for camera in self.known.values() {
            match camera.standing {
                Standing::Unknown(_) | Standing::Probation { .. } => census.admission += 1,
                Standing::Admitted => census.admitted += 1,
                Standing::Quarantined { .. } => census.quarantined += 1,
            }
            let served_early = matches!(camera.standing, Standing::Probation { .. } | Standing::Admitted);
            census.suspicious += u64::from(served_early && camera.itself.is_suspicious());
        }
        census
    }

    /// The `most` cameras that need a look most: in quarantine, suspicious, then by their disagreements.
    #[must_use]
    pub fn worst(&self, most: usize) -> Vec<Worst> {
        let mut cameras: Vec<(i32, &Camera)> = self.known.entries().map(|((of, _), camera)| (*of, &**camera)).collect();
        let rank = |camera: &Camera| {
            let quarantined = matches!(camera.standing, Standing::Quarantined { .. });
            (quarantined, camera.itself.is_suspicious(), camera.watch.disagreements())
        };
        cameras.sort_by(|(_, a), (_, b)| rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name)));
        let row = |(partition, camera): (i32, &Camera)| Worst {
            name: camera.name.clone(),
            partition,
            state: state(&camera.standing),
            suspicious: camera.itself.is_suspicious(),
            audits: camera.watch.audits(),
            disagreements: camera.watch.disagreements(),
        };
        cameras.into_iter().take(most).map(row).collect()
    }
}

fn state(standing: &Standing) -> &'static str {
    match standing {
        Standing::Unknown(_) => "unknown",
        Standing::Probation { .. } => "probation",
        Standing::Admitted => "admitted",
        Standing::Quarantined { .. } => "quarantined",
    }
}

/// What people see of a key: the beginning of it, as text.
fn name(key: Option<&[u8]>, partition: i32) -> String {
    // A character has four bytes at most.
    let text = |key: &[u8]| String::from_utf8_lossy(key.get(..NAME_CHARS * 4).unwrap_or(key)).into_owned();
    key.map_or_else(|| format!("partition {partition}"), |key| text(key).chars().take(NAME_CHARS).collect())
}

#[cfg(test)]
mod tests;
