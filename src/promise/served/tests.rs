use proptest::prelude::*;

use super::*;
use crate::promise::dice::Dice;

/// What a stream does with frame `i` of `n`, after what was seen so far: the probability of an audit, and whether it errs.
type Nature = fn(u64, u64, &Seen, &mut Dice) -> (f64, bool);

/// What somebody who sees every draw knows before the next.
#[derive(Default)]
struct Seen {
    caught: u64,
    wrong: u64,
    since: u64,
}

const NATURES: [(&str, Nature); 6] = [
    ("stationary", |_, _, _, dice| (0.01, dice.unit() < 0.005)),
    ("drifting", |i, n, _, dice| (0.05, dice.unit() < 0.03 * i as f64 / n as f64)),
    ("bursty", |i, _, _, dice| (0.01, Dice::new(i / 100).unit() < 0.02 && dice.unit() < 0.9)),
    ("suspicious", |_, _, seen, dice| (if seen.since < 300 { 1.0 } else { 0.01 }, dice.unit() < 0.01)),
    // Errs until it is caught, then behaves; the luckiest are those that are caught late.
    ("until caught", |_, _, seen, _| (0.01, seen.caught < 2 && seen.wrong < 2_000)),
    // Errs as long as it is ahead of what the audits show, at rates that come and go.
    ("ahead", |i, _, seen, dice| {
        ([0.01, 0.3, 0.02][(i / 50 % 3) as usize], seen.wrong < 60 * (seen.caught + 1) && dice.unit() < 0.2)
    }),
];

/// Plays a stream; the tally and the number that was served wrong. `each` sees both on the way.
fn play(nature: Nature, n: u64, seed: u64, mut each: impl FnMut(&Tally, u64)) -> (Tally, u64) {
    let (mut dice, mut seen) = (Dice::new(seed), Seen { since: u64::MAX, ..Seen::default() });
    let (mut tally, mut served) = (Tally::new(0.01), 0);
    for i in 0..n {
        let (p, errs) = nature(i, n, &seen, &mut dice);
        let audited = dice.unit() < p;
        seen.since = seen.since.saturating_add(1);
        seen.wrong += u64::from(errs);
        if audited {
            tally.audited(p, if errs { Shown::Wrong } else { Shown::Right });
            seen.caught += u64::from(errs);
            seen.since = if errs { 0 } else { seen.since };
        } else {
            tally.served(p, errs || i % 2 == 0);
            served += u64::from(errs);
        }
        if i % 250 == 249 {
            each(&tally, served);
        }
    }
    (tally, served)
}

/// Goal: each bound is missed in at most one stream in twenty, at whatever time one looks, and however the stream behaves.
/// Method: 300 streams of each nature, looked at every 250 frames: one miss makes a missed stream.
#[test]
fn the_truth_is_within_the_bounds() {
    for (name, nature) in NATURES {
        let (mut above, mut below) = (0, 0);
        for seed in 0..300 {
            let (mut over, mut under) = (false, false);
            play(nature, 6_000, seed * 7 + 1, |tally, served| {
                let truth = served as f64 / tally.frames() as f64;
                let Interval { lower, upper, .. } = tally.bounds().all;
                over |= truth > upper;
                under |= truth < lower;
            });
            above += u32::from(over);
            below += u32::from(under);
        }
        // 5 % and two standard errors of a share of 300.
        assert!(above <= 22 && below <= 22, "{name}: {above} and {below} of 300 streams missed");
    }
}

/// Goal: the bounds are of use. Method: the figures of docs/promise.md, at a true half percent and one audit in a hundred.
#[test]
fn bounds_close_in_on_the_truth() {
    let clean = |frames: u64, disagreements: u64| {
        let mut tally = Tally::new(0.01);
        (0..frames)
            .for_each(|i| if i % 100 == 0 { tally.audited(0.01, Shown::Right) } else { tally.served(0.01, true) });
        (0..disagreements).for_each(|_| tally.audited(0.01, Shown::Wrong));
        tally.bounds().all
    };
    let early = clean(30_000, 1);
    assert!(early.upper < 0.025 && early.lower == 0.0, "{early:?}");
    let million = clean(1_000_000, 50);
    assert!(million.upper < 0.0078 && million.lower > 0.0029, "{million:?}");
    assert!((million.estimate - 0.005).abs() < 1e-4, "{million:?}");
    let nothing = clean(30_000, 0);
    assert!(nothing.upper < 0.015, "{nothing:?}");
    // A day that is clearly worse than 1 % is seen to be.
    assert!(clean(500_000, 80).lower > 0.01);
}

/// One frame of a stream that a property test makes up.
fn frames() -> impl Strategy<Value = Vec<(f64, u8)>> {
    let chance = prop_oneof![Just(0.01), Just(1.0), 0.01..1.0_f64, 0.0..0.01_f64, Just(f64::NAN)];
    prop::collection::vec((chance, 0..5_u8), 0..60)
}

fn tally(frames: &[(f64, u8)]) -> Tally {
    let mut tally = Tally::new(0.01);
    for (chance, fate) in frames {
        match fate {
            0 => tally.served(*chance, false),
            1 => tally.served(*chance, true),
            2 => tally.audited(*chance, Shown::Right),
            3 => tally.audited(*chance, Shown::Wrong),
            _ => tally.audited(*chance, Shown::Lost),
        }
    }
    tally
}

fn sum(parts: &[&Tally]) -> Tally {
    parts.iter().fold(Tally::new(0.01), |mut sum, part| {
        sum.add(part);
        sum
    })
}

fn coded(tally: &Tally) -> Result<Tally, String> {
    let bytes = crate::heads::codec::encode(tally).map_err(|why| why.to_string())?;
    crate::heads::codec::decode(&bytes).map_err(|why| why.to_string())
}

proptest! {
    /// Goal: minutes and workers add in any order and grouping, to the same sums as the frames one by one.
    #[test]
    fn tallies_add(a in frames(), b in frames(), c in frames()) {
        let (x, y, z) = (tally(&a), tally(&b), tally(&c));
        let all: Vec<_> = [a, b, c].concat();
        prop_assert_eq!(sum(&[&x, &sum(&[&y, &z])]), tally(&all));
        prop_assert_eq!(sum(&[&sum(&[&z, &x]), &y]), tally(&all));
    }

    #[test]
    fn bounds_bracket_the_estimate(frames in frames()) {
        let Bounds { all, of_early, frames, .. } = tally(&frames).bounds();
        // Rounding of the estimate's parts.
        let slack = 1e-3 / frames.max(1) as f64;
        for Interval { lower, estimate, upper } in [all, of_early] {
            prop_assert!((0.0..=1.0).contains(&lower) && (0.0..=1.0).contains(&upper));
            prop_assert!(lower <= estimate + slack * 100.0 && estimate <= upper + slack * 100.0, "{lower} {estimate} {upper}");
        }
    }

    /// Goal: the more is seen to be wrong, the higher the bounds; and a lost audit is no better than a wrong one for the upper.
    #[test]
    fn bounds_rise_with_disagreements(frames in frames(), chance in 0.01..=1.0_f64) {
        let with = |shown| {
            let mut tally = tally(&frames);
            (0..500).for_each(|_| tally.served(0.5, true));
            tally.audited(chance, shown);
            tally.bounds().all
        };
        let (right, wrong, lost) = (with(Shown::Right), with(Shown::Wrong), with(Shown::Lost));
        prop_assert!(right.upper <= wrong.upper && right.lower <= wrong.lower && right.estimate <= wrong.estimate);
        prop_assert!(wrong.upper <= lost.upper && lost.lower <= wrong.lower);
    }

    #[test]
    fn what_travels_is_what_was_counted(frames in frames()) {
        let tally = tally(&frames);
        prop_assert_eq!(coded(&tally), Ok(tally));
    }

    /// Goal: nothing that no frames make is taken over. Method: one number of a sound tally is moved.
    #[test]
    fn forged_sums_are_refused(frames in frames(), bet in 0..BETS, forged in prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1_i64 << 45), Just(1_i64 << 45)]) {
        let tally = tally(&frames);
        let upper = Tally { upper: std::array::from_fn(|at| if at == bet { forged } else { tally.upper[at] }), ..tally.clone() };
        let lower = Tally { lower: std::array::from_fn(|at| if at == bet { forged } else { tally.lower[at] }), ..tally.clone() };
        prop_assert!(coded(&upper).is_err() && coded(&lower).is_err());
        let counts: [fn(&Tally) -> Tally; 7] = [
            |t| Tally { frames: 0, early: 1, ..t.clone() },
            |t| Tally { frames: u64::MAX, ..t.clone() },
            |t| Tally { disagreements: t.audits + 1, ..t.clone() },
            |t| Tally { lost: u64::MAX, ..t.clone() },
            |t| Tally { blind: t.early + 1, ..t.clone() },
            |t| Tally { estimate: u64::MAX, ..t.clone() },
            |t| Tally { least: f64::NAN, ..t.clone() },
        ];
        for forge in counts {
            prop_assert!(coded(&forge(&tally)).is_err());
        }
    }
}

#[test]
fn what_nobody_could_audit_counts_as_wrong() {
    let mut tally = Tally::new(0.01);
    (0..1_000).for_each(|_| tally.served(0.5, false));
    assert!(tally.bounds().all.upper < 1e-9, "the full model answered everything");
    (0..100).for_each(|_| tally.served(0.001, true));
    assert!(tally.bounds().all.upper >= 100.0 / 1_100.0);
    let mut other = Tally::new(0.02);
    (0..50).for_each(|_| other.served(1.0, true));
    tally.add(&other);
    assert!(tally.bounds().all.upper >= 150.0 / 1_150.0, "counted with other bets");
}
