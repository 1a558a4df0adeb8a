//! What became of each frame, counted at the end from the topics alone.

use std::collections::BTreeMap;
use std::fmt;

/// Where a frame stands in the frames topic: partition and offset.
pub type Place = (i32, i64);

/// A frame as it was fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fed {
    /// Its number: cameras count through.
    pub number: u64,
    /// Its camera.
    pub key: Vec<u8>,
    /// Whether it is a picture; what is none must become a dead letter.
    pub is_picture: bool,
}

/// A prediction or a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The frame it is about.
    pub origin: Place,
    /// The record's key.
    pub key: Vec<u8>,
    /// Whether it is a prediction.
    pub is_prediction: bool,
}

/// The counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames in the topic.
    pub frames: usize,
    /// Frames without an answer.
    pub lost: Vec<Place>,
    /// Answers beyond the first of their frame.
    pub doubled: usize,
    /// Answers to no frame, with another key, or of the wrong kind: a prediction of what is no picture, a dead letter of what is.
    pub wrong: Vec<Answer>,
    /// Numbers that were fed and are not in the topic exactly once: the cameras' fault.
    pub misfed: Vec<u64>,
}

impl Tally {
    /// Counts `answers` against the frames of the topic; the cameras sent the numbers below `sent`.
    pub fn of(sent: u64, frames: &BTreeMap<Place, Fed>, answers: &[Answer]) -> Self {
        let mut counts: BTreeMap<Place, usize> = frames.keys().map(|place| (*place, 0)).collect();
        let mut wrong = Vec::new();
        for answer in answers {
            let fits = |fed: &&Fed| fed.is_picture == answer.is_prediction && fed.key == answer.key;
            match (frames.get(&answer.origin).filter(fits), counts.get_mut(&answer.origin)) {
                (Some(_), Some(count)) => *count += 1,
                _ => wrong.push(answer.clone()),
            }
        }
        let mut times = vec![0; usize::try_from(sent).expect("few")];
        for fed in frames.values() {
            times[usize::try_from(fed.number).expect("few")] += 1;
        }
        Self {
            frames: frames.len(),
            lost: counts.iter().filter(|(_, count)| **count == 0).map(|(place, _)| *place).collect(),
            doubled: counts.values().map(|count| count.saturating_sub(1)).sum(),
            wrong,
            misfed: (0..).zip(times).filter(|(_, times)| *times != 1).map(|(number, _)| number).collect(),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames, {} lost, {} doubled", self.frames, self.lost.len(), self.doubled)
    }
}

#[test]
fn every_way_to_go_wrong_is_counted() {
    let fed = |number, is_picture| Fed { number, key: b"cam".to_vec(), is_picture };
    let answer = |offset, is_prediction| Answer { origin: (0, offset), key: b"cam".to_vec(), is_prediction };
    let frames: BTreeMap<Place, Fed> = [((0, 0), fed(0, true)), ((0, 1), fed(1, false)), ((0, 2), fed(2, true))].into();
    let good = [answer(0, true), answer(1, false), answer(2, true)];
    let tally = Tally::of(3, &frames, &good);
    assert_eq!(tally, Tally { frames: 3, ..Tally::default() }, "nothing is wrong");

    let other = Answer { key: b"other".to_vec(), ..answer(2, true) };
    let bad =
        [answer(0, true), answer(0, true), answer(0, true), answer(1, true), answer(0, false), answer(7, true), other];
    let tally = Tally::of(4, &frames, &bad);
    assert_eq!(tally.lost, [(0, 1), (0, 2)]);
    assert_eq!(tally.doubled, 2);
    assert_eq!(tally.wrong, bad[3..]);
    assert_eq!(tally.misfed, [3], "a number that is not in the topic");
}
