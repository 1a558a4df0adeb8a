//! What happens to the fleet, and in which order: drawn from a seed, so that a run that failed can be had again.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

/// One thing that happens to a fleet under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// A worker that holds partitions gets SIGKILL, and is started again.
    KillWorker,
    /// The worker that learns for the fleet gets SIGKILL, and is started again; another must take its seat.
    KillLearner,
    /// The broker gets SIGKILL, and is started again on its data.
    KillBroker,
    /// A worker gets SIGTERM: it must drain and end with 0. It is started again.
    Terminate,
    /// A worker gets SIGSTOP until the group has thrown it out, then SIGCONT: it goes on with partitions that others hold.
    Freeze,
    /// A worker more joins, or leaves if it is there.
    JoinOrLeave,
    /// Members join and leave one upon the other.
    Storm,
}

/// What a round holds; its order is drawn anew for each.
const ROUND: [Blow; 9] = [
    Blow::KillWorker,
    Blow::KillWorker,
    Blow::KillLearner,
    Blow::KillBroker,
    Blow::Terminate,
    Blow::Freeze,
    Blow::JoinOrLeave,
    Blow::JoinOrLeave,
    Blow::Storm,
];

impl Blow {
    fn kills(self) -> bool {
        matches!(self, Self::KillWorker | Self::KillLearner | Self::KillBroker)
    }
}

/// Whole rounds with at least `kills` kills. A broker that is not ours is not killed.
pub fn script(seed: u64, kills: usize, broker_is_ours: bool) -> Vec<Blow> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut blows = Vec::new();
    while blows.iter().filter(|blow: &&Blow| blow.kills()).count() < kills {
        let mut round = ROUND.to_vec();
        round.retain(|blow| broker_is_ours || *blow != Blow::KillBroker);
        round.shuffle(&mut random);
        blows.extend(round);
    }
    blows
}

/// How often each blow is in `blows`, in words.
pub fn told(blows: &[Blow]) -> String {
    let count = |blow| blows.iter().filter(|other| **other == blow).count();
    let (workers, learners, brokers) = (count(Blow::KillWorker), count(Blow::KillLearner), count(Blow::KillBroker));
    format!(
        "{} kills ({workers} of a worker, {learners} of the learner, {brokers} of the broker), {} SIGTERM, {} freezes, \
         {} joins or leaves, {} storms",
        workers + learners + brokers,
        count(Blow::Terminate),
        count(Blow::Freeze),
        count(Blow::JoinOrLeave),
        count(Blow::Storm),
    )
}

#[test]
fn a_script_repeats_itself_and_holds_every_blow_in_each_round() {
    for (seed, ours) in [(1, true), (2, false)] {
        let blows = script(seed, 10, ours);
        assert_eq!(blows, script(seed, 10, ours));
        assert_ne!(blows, script(seed + 1, 10, ours), "the seed makes the order");
        assert!((10..14).contains(&blows.iter().filter(|blow| blow.kills()).count()));
        let mut expected: Vec<Blow> = ROUND.into_iter().filter(|blow| ours || *blow != Blow::KillBroker).collect();
        expected.sort();
        for round in blows.chunks(expected.len()) {
            let mut round = round.to_vec();
            round.sort();
            assert_eq!(round, expected);
        }
    }
}
