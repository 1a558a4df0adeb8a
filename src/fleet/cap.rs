//! How many samples a second the whole fleet may make: more frames than that calls for a smaller share of audits.
//!
//! Pure: time comes in as arguments.

use std::time::Duration;

/// How long samples are counted before the share is set anew.
const PERIOD: Duration = Duration::from_secs(10);
/// A share that would move less than this, as a factor, stays.
const STEADY: f64 = 1.25;

/// Counts samples and says what share of frames may be audited.
#[derive(Debug)]
pub(crate) struct Cap {
    samples_per_s: f64,
    share: f64,
    since: Option<Duration>,
    samples: u64,
    frames: f64,
    originals: u64,
}

impl Cap {
    /// `share` is what holds so far.
    pub(crate) fn new(samples_per_s: f64, share: f64) -> Self {
        Self { samples_per_s, share, since: None, samples: 0, frames: 0.0, originals: 0 }
    }

    /// A sample came in; an original stands for `weight` frames.
    pub(crate) fn note(&mut self, weight: f32, copy: bool) {
        self.samples += 1;
        if !copy {
            self.originals += 1;
            self.frames += f64::from(weight);
        }
    }

    /// The share of frames that may be audited from now on, when it changes. `now` is the time since some start. The first
    /// call starts the count: what was read back from the log before it is not the present.
    pub(crate) fn share(&mut self, now: Duration) -> Option<f64> {
        let since = *self.since.get_or_insert_with(|| {
            (self.samples, self.frames, self.originals) = (0, 0.0, 0);
            now
        });
        let seconds = now.checked_sub(since).filter(|passed| *passed >= PERIOD)?.as_secs_f64();
        let each = self.samples as f64 / self.originals.max(1) as f64;
        let made_by_all = self.frames / seconds * each.max(1.0);
        (self.since, self.samples, self.frames, self.originals) = (Some(now), 0, 0.0, 0);
        let share = if made_by_all > self.samples_per_s { self.samples_per_s / made_by_all } else { 1.0 };
        let moves = share > self.share * STEADY || share * STEADY < self.share;
        moves.then(|| {
            self.share = share;
            share
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whatever the frame rate and the share so far, the next share keeps the fleet within the cap.
    #[test]
    fn the_share_follows_the_fleet() {
        let mut cap = Cap::new(100.0, 1.0);
        assert_eq!(cap.share(Duration::ZERO), None);
        let mut play = |from: u64, frames_per_s: f64, share: f64, copies: u64| {
            let audits = (frames_per_s * share * 10.0) as u64;
            for _ in 0..audits {
                cap.note((1.0 / share) as f32, false);
                (0..copies).for_each(|_| cap.note(1.0, true));
            }
            cap.share(Duration::from_secs(from + 10))
        };
        assert_eq!(play(0, 50.0, 1.0, 0), None, "within the cap");
        let share = play(10, 1000.0, 1.0, 1).expect("2,000 samples a second");
        assert!((share - 0.05).abs() < 1e-6, "{share}");
        assert_eq!(play(20, 1000.0, share, 1), None, "as it should be");
        let share = play(30, 1000.0, share, 0).expect("no copies any more");
        assert!((share - 0.1).abs() < 1e-6, "{share}");
        assert_eq!(play(40, 10.0, share, 0), Some(1.0));
    }
}
