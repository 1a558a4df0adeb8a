//! Which offsets may be committed: the finished prefix of each partition, although frames finish out of order.
//!
//! Pure: knows nothing of Kafka's client. A [`Ticket`] is the right to finish one offset once; one that is dropped
//! unfinished holds its partition back, so that the frame is read again after a restart.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whoever found no room goes on when so much of both limits is free again (one part in so many), not at every frame.
const FREE_SHARE: usize = 8;

/// What may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Frames.
    pub frames: usize,
    /// Their bytes. The frame that reaches the limit may go beyond it.
    pub bytes: usize,
}

impl Limits {
    /// Whether another frame may come while so much is in flight.
    #[must_use]
    pub fn admit(&self, frames: usize, bytes: usize) -> bool {
        frames < self.frames && bytes < self.bytes
    }

    /// The limits below which one who waited goes on.
    fn relieved(&self) -> Self {
        let less = |limit: usize| limit - limit / FREE_SHARE;
        Self { frames: less(self.frames), bytes: less(self.bytes) }
    }
}

/// The record of what is in flight, shared by the consumer and everything that finishes frames.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// Told when what was waited for is there.
    room: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    partitions: BTreeMap<i32, Partition>,
    epoch: u64,
    alive: usize,
    alive_bytes: usize,
    /// What somebody waits for.
    awaited: Option<Limits>,
}

#[derive(Debug)]
struct Partition {
    epoch: u64,
    /// Taken offsets in order, each with whether it is finished; the front one is unfinished.
    taken: VecDeque<(i64, bool)>,
    /// The offset to commit: one past the finished prefix. None until something was finished.
    finished_to: Option<i64>,
    /// What was handed out to be committed.
    committed: Option<i64>,
    /// What was handed out and was not seen in Kafka at the last look.
    doubted: Option<i64>,
}

/// The right to finish one frame. Not `Clone`; void once its partition was revoked.
#[derive(Debug)]
pub struct Ticket {
    ledger: Ledger,
    partition: i32,
    offset: i64,
    epoch: u64,
    bytes: usize,
    finished: bool,
}

impl Ticket {
    /// The frame's answer is safe in Kafka: its offset no longer holds the partition back.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.ledger.lock();
        let ours = inner.partitions.get_mut(&self.partition).filter(|p| self.finished && p.epoch == self.epoch);
        if let Some(partition) = ours {
            partition.finish(self.offset);
        }
        inner.alive -= 1;
        inner.alive_bytes -= self.bytes;
        if inner.awaited.is_some_and(|limits| limits.admit(inner.alive, inner.alive_bytes)) {
            inner.awaited = None;
            self.ledger.shared.room.notify_all();
        }
    }
}

impl Partition {
    fn new(epoch: u64) -> Self {
        Self { epoch, taken: VecDeque::new(), finished_to: None, committed: None, doubted: None }
    }

    /// The newest offset that was taken, if it is still known: what is in flight or one below the finished prefix.
    fn newest(&self) -> Option<i64> {
        self.taken.back().map(|(offset, _)| *offset).or(self.finished_to.map(|to| to - 1))
    }

    fn finish(&mut self, offset: i64) {
        if let Ok(position) = self.taken.binary_search_by_key(&offset, |(taken, _)| *taken) {
            self.taken[position].1 = true;
        }
        while let Some((offset, true)) = self.taken.front().copied() {
            self.taken.pop_front();
            self.finished_to = Some(offset + 1);
        }
    }

    fn due(&self) -> Option<i64> {
        self.finished_to.filter(|to| self.committed != Some(*to))
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the ledger consistent, so a panic elsewhere does not spoil it.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition is ours from now on; whatever was known of it belongs to an earlier time.
    pub fn assign(&self, partition: i32) {
        let mut inner = self.lock();
        inner.epoch += 1;
        let epoch = inner.epoch;
        inner.partitions.insert(partition, Partition::new(epoch));
    }

    /// A partition is no longer ours: returns the offset to commit now, if any frame was finished; its open tickets are
    /// void. A commit under way may still fail, so what was handed out before is handed out again.
    #[must_use]
    pub fn revoke(&self, partition: i32) -> Option<i64> {
        self.lock().partitions.remove(&partition).and_then(|p| p.finished_to)
    }

    /// A frame of so many bytes was taken. None when the partition is not ours. Offsets that go back mean that the topic was made anew or cut
    /// off, or that frames are read again: what was known of the partition is void, as if it had been assigned anew. Frames
    /// read again are duplicates at worst; refused, they would be passed over by the next commit.
    #[must_use]
    pub fn take(&self, partition: i32, offset: i64, bytes: usize) -> Option<Ticket> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let entry = inner.partitions.get_mut(&partition)?;
        if entry.newest().is_some_and(|newest| newest >= offset) {
            inner.epoch += 1;
            *entry = Partition::new(inner.epoch);
        }
        entry.taken.push_back((offset, false));
        let epoch = entry.epoch;
        inner.alive += 1;
        inner.alive_bytes += bytes;
        Some(Ticket { ledger: self.clone(), partition, offset, epoch, bytes, finished: false })
    }

    /// The offset after the newest that was taken, if anything of the partition was.
    #[must_use]
    pub fn next(&self, partition: i32) -> Option<i64> {
        Some(self.lock().partitions.get(&partition)?.newest()? + 1)
    }

    /// What lies before `to` and was not taken is nobody's to finish: it holds no commit back.
    pub fn pass_over(&self, partition: i32, to: i64) {
        if self.next(partition).is_none_or(|next| next < to)
            && let Some(last) = self.take(partition, to - 1, 0)
        {
            last.finish();
        }
    }

    /// Partitions with a finished prefix that was not handed out before, with the offset to commit.
    #[must_use]
    pub fn committable(&self) -> Vec<(i32, i64)> {
        let mut inner = self.lock();
        let due = inner.partitions.iter_mut().filter_map(|(id, partition)| {
            let to = partition.due()?;
            partition.committed = Some(to);
            Some((*id, to))
        });
        due.collect()
    }

    /// The finished prefix of every partition, handed out before or not: for the last commit, which must not rely on
    /// commits that are still under way.
    #[must_use]
    pub fn finished(&self) -> Vec<(i32, i64)> {
        self.lock().partitions.iter().filter_map(|(id, partition)| Some((*id, partition.finished_to?))).collect()
    }

    /// A commit failed: its offsets are due again.
    pub fn uncommitted(&self, partitions: &[(i32, i64)]) {
        let mut inner = self.lock();
        for (id, to) in partitions {
            if let Some(partition) = inner.partitions.get_mut(id).filter(|p| p.committed == Some(*to)) {
                partition.committed = None;
            }
        }
    }

    /// Looks at the offset that Kafka holds for a partition. What was handed out and is missing at two looks in a row did
    /// not get there: it is due again, and the answer is true.
    #[must_use]
    pub fn confirm(&self, id: i32, held: i64) -> bool {
        let mut inner = self.lock();
        let Some(partition) = inner.partitions.get_mut(&id) else { return false };
        let missing = partition.committed.filter(|to| held < *to);
        let lost = missing.is_some() && partition.doubted == missing;
        if lost {
            partition.committed = None;
        }
        partition.doubted = missing.filter(|_| !lost);
        lost
    }

    /// Tickets that are neither finished nor dropped, void ones included: frames somewhere in the worker, and their bytes.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.alive, inner.alive_bytes)
    }

    /// Whether the limits admit another frame. Where they don't, waits until a part of them is free, at most for `patience`.
    #[must_use]
    pub fn wait_for_room(&self, limits: &Limits, patience: Duration) -> bool {
        let mut inner = self.lock();
        if limits.admit(inner.alive, inner.alive_bytes) {
            return true;
        }
        inner.awaited = Some(limits.relieved());
        let waited = self.shared.room.wait_timeout_while(inner, patience, |inner| inner.awaited.is_some());
        waited.unwrap_or_else(PoisonError::into_inner).0.awaited.take().is_none()
    }

    /// The partitions that are ours.
    #[must_use]
    pub fn assigned(&self) -> Vec<i32> {
        self.lock().partitions.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Model: the commit of a partition is one past the longest finished prefix of what was taken.
        #[test]
        fn never_commits_past_an_unfinished_frame(
            gaps in prop::collection::vec(1_i64..4, 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let ledger = Ledger::default();
            ledger.assign(0);
            let offsets: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut open: Vec<Ticket> = offsets.iter().filter_map(|o| ledger.take(0, *o, 0)).collect();
            let mut finished = Vec::new();
            for index in order {
                if open.is_empty() { break; }
                let ticket = open.swap_remove(index.index(open.len()));
                finished.push(ticket.offset);
                ticket.finish();
                let prefix = offsets.iter().take_while(|o| finished.contains(o)).last().map(|o| o + 1);
                if let Some((_, to)) = ledger.committable().first() {
                    prop_assert_eq!(Some(*to), prefix);
                }
                let partition_end = ledger.lock().partitions.get(&0).and_then(|p| p.finished_to);
                prop_assert_eq!(partition_end, prefix);
            }
            prop_assert_eq!(ledger.in_flight().0, open.len());
        }
    }

    proptest! {
        /// One test for a bug: frames of a topic that was made anew were skipped, and later ones committed past them. Model:
        /// every frame of ours has a ticket, and no commit goes past one that was taken since the last step back.
        #[test]
        fn offsets_that_go_back_void_what_was_known(
            steps in prop::collection::vec((0_i64..12, any::<Option<prop::sample::Index>>()), 1..80),
        ) {
            let ledger = Ledger::default();
            ledger.assign(0);
            let (mut open, mut run): (Vec<Ticket>, Vec<(i64, bool)>) = (Vec::new(), Vec::new());
            let mut epoch = None;
            for (offset, finished) in steps {
                if run.last().is_some_and(|(newest, _)| *newest >= offset) {
                    run.clear();
                }
                let ticket = ledger.take(0, offset, 0).expect("ours");
                if run.is_empty() {
                    prop_assert_ne!(epoch.replace(ticket.epoch), Some(ticket.epoch));
                }
                run.push((offset, false));
                open.push(ticket);
                if let Some(index) = finished {
                    let ticket = open.swap_remove(index.index(open.len()));
                    let ours = run.iter_mut().find(|(taken, _)| Some(ticket.epoch) == epoch && *taken == ticket.offset);
                    ours.into_iter().for_each(|(_, done)| *done = true);
                    ticket.finish();
                }
                let prefix = run.iter().take_while(|(_, done)| *done).last().map(|(taken, _)| taken + 1);
                prop_assert_eq!(ledger.finished(), prefix.map(|to| (0, to)).into_iter().collect::<Vec<_>>());
            }
            prop_assert_eq!(ledger.in_flight().0, open.len());
        }
    }

    #[test]
    fn tickets_of_an_earlier_assignment_are_void() {
        let ledger = Ledger::default();
        ledger.assign(3);
        let late = ledger.take(3, 10, 0).expect("ours");
        assert_eq!(ledger.revoke(3), None);
        ledger.assign(3);
        let fresh = ledger.take(3, 10, 0).expect("ours again");
        late.finish();
        assert!(ledger.committable().is_empty(), "a late ticket finished another assignment's frame");
        fresh.finish();
        assert_eq!(ledger.committable(), [(3, 11)]);
    }

    #[test]
    fn what_is_passed_over_is_committed_behind_what_came_before_it() {
        let ledger = Ledger::default();
        ledger.assign(0);
        assert_eq!(ledger.next(0), None);
        let open = ledger.take(0, 4, 10).expect("ours");
        assert_eq!(ledger.next(0), Some(5));
        ledger.pass_over(0, 9);
        ledger.pass_over(0, 7);
        assert_eq!((ledger.next(0), ledger.committable()), (Some(9), Vec::new()), "frame 4 is not finished");
        open.finish();
        assert_eq!((ledger.committable(), ledger.in_flight()), (vec![(0, 9)], (0, 0)));
    }

    /// Model: who waits goes on as soon as an eighth of both limits is free.
    #[test]
    fn room_is_told_to_who_waits_for_it() {
        let (ledger, limits) = (Ledger::default(), Limits { frames: 16, bytes: 1_000 });
        ledger.assign(0);
        let mut open: Vec<Ticket> = (0..16).map(|offset| ledger.take(0, offset, 50).expect("ours")).collect();
        assert!(!ledger.wait_for_room(&limits, Duration::ZERO), "sixteen frames are in flight");
        let waiting = ledger.clone();
        let waits = std::thread::spawn(move || waiting.wait_for_room(&limits, Duration::from_mins(1)));
        while ledger.lock().awaited.is_none() {
            std::thread::yield_now();
        }
        drop(open.pop());
        open.pop().expect("fifteen are left").finish();
        assert!(ledger.lock().awaited.is_some(), "room for two is no room worth waking up for");
        drop(open.pop());
        assert!(waits.join().expect("no panic"));
        let large = ledger.take(0, 16, 900).expect("ours");
        assert!(!ledger.wait_for_room(&limits, Duration::ZERO), "{:?} are in flight", ledger.in_flight());
        drop(large);
        assert!(ledger.wait_for_room(&limits, Duration::ZERO));
    }

    #[test]
    fn a_dropped_ticket_holds_its_partition_back() {
        let ledger = Ledger::default();
        ledger.assign(0);
        drop(ledger.take(0, 0, 0).expect("ours"));
        ledger.take(0, 1, 0).expect("ours").finish();
        assert!(ledger.committable().is_empty());
        assert_eq!(ledger.revoke(0), None);
    }

    #[test]
    fn a_failed_commit_is_due_again() {
        let ledger = Ledger::default();
        ledger.assign(0);
        ledger.take(0, 4, 0).expect("ours").finish();
        let due = ledger.committable();
        assert!(ledger.committable().is_empty());
        ledger.uncommitted(&due);
        assert_eq!(ledger.committable(), [(0, 5)]);
    }
    #[test]
    fn a_commit_that_never_arrives_is_due_again() {
        let ledger = Ledger::default();
        ledger.assign(0);
        ledger.take(0, 4, 0).expect("ours").finish();
        assert_eq!(ledger.committable(), [(0, 5)]);
        assert!(!ledger.confirm(0, -1001), "it may be under way");
        assert!(ledger.confirm(0, -1001));
        assert_eq!(ledger.committable(), [(0, 5)]);
        assert!(!ledger.confirm(0, -1001));
        assert!(!ledger.confirm(0, 5) && !ledger.confirm(0, 5) && !ledger.confirm(7, 0));
        assert!(ledger.committable().is_empty());
    }
}
