//! Which frames of a camera are keyframes, and which of them a frame is compared with.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::sameness::{Comparison, Sameness};
use crate::decode::Thumbnail;

/// Every how many frames of a camera one is a keyframe by count. Each divides the next, so a keyframe of a wide spacing is one
/// of every narrower: while a narrow one is in force, audits tell what a wider one would do.
pub const SPACINGS: [u16; 3] = [4, 8, 16];

/// Odds, as a logarithm, below which head 0 says from pixels alone that the view has changed.
/// 2.5 with the head that comes along: of 1.5, 2, 2.5 and 3 the best on six fixed cameras under SPACINGS (share answered from
/// memory in hindsight at 1 / 2 / 5 % disagreement, spacing 16: 59 / 70 / 87, 63 / 73 / 87, 65 / 80 / 86, 68 / 80 / 85 %).
const VIEW_LOGIT: f32 = 2.5;

/// What the full model said of a keyframe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// Index in the backbone's output.
    pub class: usize,
    /// Its probability.
    pub confidence: f32,
    /// And by how much that exceeds the second's.
    pub margin: f32,
}

/// A frame that later ones are compared with.
#[derive(Debug)]
pub struct Keyframe {
    /// Its number among the camera's frames, from 0.
    pub number: u64,
    /// Its capture time, milliseconds since the Unix epoch.
    pub captured_at_ms: Option<i64>,
    /// Its offset in its partition.
    pub offset: i64,
    thumbnail: Thumbnail,
    answer: OnceLock<Shown>,
}

impl Keyframe {
    /// The full model's answer; `None`: it has not run yet, or never will.
    #[must_use]
    pub fn answer(&self) -> Option<Shown> {
        self.answer.get().copied()
    }

    /// Notes the full model's answer; the first one stands.
    pub fn answered(&self, shown: Shown) {
        self.answer.get_or_init(|| shown);
    }
}

/// The keyframe that a frame is compared with, for each of [`SPACINGS`].
#[derive(Debug, Clone)]
pub struct Links {
    number: u64,
    thumbnail: Thumbnail,
    keyframes: [Arc<Keyframe>; SPACINGS.len()],
}

/// A frame beside a keyframe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compared {
    /// It is the keyframe: the full model runs.
    Keyframe,
    /// The keyframe has no answer yet.
    Unanswered,
    /// What head 0 sees, and the answer that would stand.
    With(Comparison, Shown),
}

impl Links {
    /// The frame's number among its camera's.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The keyframe under the spacing with this index in [`SPACINGS`], the widest for one beyond.
    #[must_use]
    pub fn keyframe(&self, spacing: usize) -> &Arc<Keyframe> {
        &self.keyframes[spacing.min(SPACINGS.len() - 1)]
    }

    /// Whether the frame itself is that keyframe.
    #[must_use]
    pub fn is_keyframe(&self, spacing: usize) -> bool {
        self.keyframe(spacing).number == self.number
    }

    /// The frame beside that keyframe.
    #[must_use]
    pub fn compare(&self, spacing: usize) -> Compared {
        let keyframe = self.keyframe(spacing);
        match keyframe.answer() {
            _ if self.is_keyframe(spacing) => Compared::Keyframe,
            None => Compared::Unanswered,
            Some(shown) => {
                let age = self.number - keyframe.number;
                let Shown { confidence, margin, .. } = shown;
                Compared::With(Comparison::new(&keyframe.thumbnail, &self.thumbnail, confidence, margin, age), shown)
            }
        }
    }
}

/// What is known of a frame when its pixels are.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its pixels, coarsely; `None`: it could not be decoded and is no frame of the camera.
    pub thumbnail: Option<Thumbnail>,
    /// Capture time, milliseconds since the Unix epoch.
    pub captured_at_ms: Option<i64>,
    /// Its offset in its partition.
    pub offset: i64,
}

/// A camera's keyframes. Frames may arrive in any order, as several lanes decode them; they are linked in the order of their
/// turns.
#[derive(Debug)]
pub struct Chain {
    max_age_ms: i64,
    /// The turn whose frame is linked next.
    turn: u64,
    early: BTreeMap<u64, Arrival>,
    linked: BTreeMap<u64, Option<Links>>,
    /// Frames linked so far.
    frames: u64,
    keyframes: Option<[Arc<Keyframe>; SPACINGS.len()]>,
}

impl Chain {
    /// A camera of which nothing is remembered: its first frame is a keyframe. One is due, too, when the last is older than
    /// `max_age_ms`, or the camera's clock has jumped so far.
    #[must_use]
    pub fn new(max_age_ms: u32) -> Self {
        let max_age_ms = i64::from(max_age_ms);
        Self { max_age_ms, turn: 0, early: BTreeMap::new(), linked: BTreeMap::new(), frames: 0, keyframes: None }
    }

    /// The frame of `turn` (counted from 0 as frames are taken in, each given once) has arrived: links it and all that
    /// waited for it.
    pub fn arrive(&mut self, turn: u64, arrival: Arrival, judge: &Sameness) {
        self.early.insert(turn, arrival);
        while let Some(arrival) = self.early.remove(&self.turn) {
            let linked = arrival.thumbnail.map(|thumbnail| self.link(thumbnail, &arrival, judge));
            self.linked.insert(self.turn, linked);
            self.turn += 1;
        }
    }

    /// The links of the frame of `turn`, given out once. `None`: a frame before it has not arrived yet.
    pub fn take(&mut self, turn: u64) -> Option<Option<Links>> {
        self.linked.remove(&turn)
    }

    fn link(&mut self, thumbnail: Thumbnail, arrival: &Arrival, judge: &Sameness) -> Links {
        let number = self.frames;
        self.frames += 1;
        let widest = self.keyframes.as_ref().map(|keyframes| &keyframes[SPACINGS.len() - 1]);
        let changed = widest.is_none_or(|widest| {
            let pixels = Comparison::new(&widest.thumbnail, &thumbnail, 1.0, 1.0, number - widest.number);
            judge.logit(&pixels) < VIEW_LOGIT || self.is_too_old(widest, arrival.captured_at_ms)
        });
        let fresh = || {
            let (captured_at_ms, offset) = (arrival.captured_at_ms, arrival.offset);
            let answer = OnceLock::new();
            Arc::new(Keyframe { number, captured_at_ms, offset, thumbnail, answer })
        };
        let due = SPACINGS.map(|spacing| changed || number.is_multiple_of(u64::from(spacing)));
        let keyframes = match self.keyframes.take() {
            None => {
                let first = fresh();
                SPACINGS.map(|_| Arc::clone(&first))
            }
            Some(mut keyframes) => {
                if due.contains(&true) {
                    let fresh = fresh();
                    let due = keyframes.iter_mut().zip(due).filter(|(_, due)| *due);
                    due.for_each(|(keyframe, _)| *keyframe = Arc::clone(&fresh));
                }
                keyframes
            }
        };
        self.keyframes = Some(keyframes.clone());
        Links { number, thumbnail, keyframes }
    }

    fn is_too_old(&self, keyframe: &Keyframe, captured_at_ms: Option<i64>) -> bool {
        let apart = captured_at_ms.zip(keyframe.captured_at_ms).map(|(now, then)| now.abs_diff(then));
        apart.is_some_and(|apart| apart > self.max_age_ms.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    const AGE_MS: u32 = 10_000;

    fn arrival(shade: u8, captured_at_ms: i64) -> Arrival {
        // Another texture for every shade.
        let thumbnail = Thumbnail(std::array::from_fn(|at| (at * usize::from(shade) % 201) as u8 + 20));
        Arrival { thumbnail: Some(thumbnail), captured_at_ms: Some(captured_at_ms), offset: captured_at_ms }
    }

    fn links(chain: &mut Chain, arrivals: &[Arrival]) -> Vec<Links> {
        let judge = Sameness::shipped().expect("sound");
        let mut link = |(turn, arrival): (u64, &Arrival)| {
            chain.arrive(turn, arrival.clone(), &judge);
            chain.take(turn).expect("in order").expect("decoded")
        };
        (0..).zip(arrivals).map(&mut link).collect()
    }

    fn numbers(links: &[Links], spacing: usize) -> Vec<u64> {
        links.iter().filter(|links| links.is_keyframe(spacing)).map(Links::number).collect()
    }

    #[test]
    fn a_still_camera_has_keyframes_by_count_alone() {
        let still: Vec<Arrival> = (0..33).map(|frame| arrival(100, frame)).collect();
        let links = links(&mut Chain::new(AGE_MS), &still);
        assert_eq!(numbers(&links, 2), [0, 16, 32]);
        assert_eq!(numbers(&links, 1), [0, 8, 16, 24, 32]);
        assert_eq!(links[15].keyframe(0).number, 12);
        assert_eq!(links[15].compare(0), Compared::Unanswered);
        links[12].keyframe(0).answered(Shown { class: 3, confidence: 0.9, margin: 0.8 });
        assert!(matches!(links[15].compare(0), Compared::With(_, Shown { class: 3, .. })));
        assert_eq!(links[16].compare(0), Compared::Keyframe);
    }

    #[test]
    fn a_changed_view_and_a_lapse_of_time_are_keyframes() {
        let mut arrivals: Vec<Arrival> = (0..12).map(|frame| arrival(if frame < 6 { 37 } else { 90 }, frame)).collect();
        arrivals[9].captured_at_ms = Some(i64::from(AGE_MS) + 100);
        let links = links(&mut Chain::new(AGE_MS), &arrivals);
        // The clock leaps ahead with frame 9 and back with frame 10.
        assert_eq!(numbers(&links, 2), [0, 6, 9, 10]);
    }

    proptest! {
        /// Goal: what a frame is compared with depends on pixels and order alone, not on which lane was faster; a keyframe of a
        /// wide spacing is one of every narrower, and none is further away than its spacing.
        #[test]
        fn links_do_not_depend_on_the_order_of_arrival(
            shades in prop::collection::vec(prop_oneof![Just(90u8), Just(90), Just(37)], 1..60),
            order in prop::collection::vec(0u32.., 60),
            undecodable in prop::collection::vec(prop::bool::weighted(0.1), 60),
        ) {
            let judge = Sameness::shipped().expect("sound");
            let frame = |turn: usize| {
                let arrival = arrival(shades[turn], turn as i64);
                if undecodable[turn] { Arrival { thumbnail: None, ..arrival } } else { arrival }
            };
            let play = |turns: &[usize]| {
                let mut chain = Chain::new(AGE_MS);
                turns.iter().for_each(|turn| chain.arrive(*turn as u64, frame(*turn), &judge));
                let mut numbers = Vec::new();
                for turn in 0..shades.len() {
                    let links = chain.take(turn as u64).expect("all have arrived");
                    numbers.push(links.map(|links| [0, 1, 2].map(|at| links.keyframe(at).number).map(|key| (links.number(), key))));
                }
                assert!(chain.early.is_empty() && chain.linked.is_empty());
                numbers
            };
            let in_order: Vec<usize> = (0..shades.len()).collect();
            let mut shuffled = in_order.clone();
            shuffled.sort_by_key(|turn| order[*turn]);
            let links = play(&in_order);
            prop_assert_eq!(&links, &play(&shuffled));
            for links in links.into_iter().flatten() {
                for (spacing, (number, key)) in SPACINGS.iter().zip(links) {
                    prop_assert!(key <= number && number - key < u64::from(*spacing));
                }
                prop_assert!(links[0].1 >= links[1].1 && links[1].1 >= links[2].1);
            }
        }
    }
}
