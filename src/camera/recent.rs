//! A bounded store that forgets the least recently seen, and in which newcomers do not drive out who is known.
//!
//! Somebody who sends a new key with every frame fills the newcomers' part and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Share of the room that newcomers may always have: one over this.
const NEWCOMERS: usize = 8;

#[derive(Debug)]
struct Entry<V> {
    seen: u64,
    known: bool,
    value: V,
}

/// The store.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    room: usize,
    entries: HashMap<K, Entry<V>>,
    /// Keys by when they were last seen: of newcomers and of the known.
    order: [BTreeMap<u64, K>; 2],
    clock: u64,
    forgotten: u64,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// Room for so many, at least one.
    pub(super) fn new(room: usize) -> Self {
        Self {
            room: room.max(1),
            entries: HashMap::new(),
            order: [BTreeMap::new(), BTreeMap::new()],
            clock: 0,
            forgotten: 0,
        }
    }

    /// How many were forgotten for want of room.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|entry| &mut entry.value)
    }

    /// The value of a key that is seen now; `make` if it is new. A value that `is_known` is no newcomer any more.
    pub(super) fn see(&mut self, key: K, make: impl FnOnce() -> V, is_known: impl FnOnce(&V) -> bool) -> &mut V {
        if !self.entries.contains_key(&key) && self.entries.len() >= self.room {
            self.forget_one();
        }
        self.clock += 1;
        let now = self.clock;
        let entry = self.entries.entry(key).or_insert_with(|| Entry { seen: now, known: false, value: make() });
        let [newcomers, known] = &mut self.order;
        let order = if entry.known { &mut *known } else { &mut *newcomers };
        order.remove(&entry.seen);
        entry.seen = now;
        entry.known |= is_known(&entry.value);
        let order = if entry.known { known } else { newcomers };
        order.insert(now, key);
        &mut entry.value
    }

    /// Newcomers go first, but for the few that must have a chance to become known.
    fn forget_one(&mut self) {
        let [newcomers, known] = &mut self.order;
        let crowded = newcomers.len() > self.room / NEWCOMERS || known.is_empty();
        let order = if crowded { newcomers } else { known };
        if let Some((_, key)) = order.pop_first() {
            self.entries.remove(&key);
            self.forgotten += 1;
        }
    }

    /// Keeps only what `keeps` says.
    pub(super) fn retain(&mut self, keeps: impl Fn(&K) -> bool) {
        self.entries.retain(|key, _| keeps(key));
        for order in &mut self.order {
            order.retain(|_, key| keeps(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: never more than there is room for, whatever is seen in whatever order; what was just seen is there.
        #[test]
        fn room_is_bounded(keys in prop::collection::vec(0..40_u8, 1..400), room in 1..20_usize, gone in 0..40_u8) {
            let mut store = Recent::new(room);
            for key in keys {
                *store.see(key, || 0_u32, |seen| *seen >= 3) += 1;
                prop_assert!(store.get(&key).is_some() && store.entries.len() <= room);
                prop_assert_eq!(store.order.iter().map(BTreeMap::len).sum::<usize>(), store.entries.len());
            }
            store.retain(|key| *key != gone);
            prop_assert!(store.get(&gone).is_none());
            prop_assert_eq!(store.order.iter().map(BTreeMap::len).sum::<usize>(), store.entries.len());
        }

        /// Goal: no camera starves another. Method: known cameras that show a frame now and then, between them a flood of keys.
        #[test]
        fn a_flood_of_newcomers_drives_out_nobody(known in 1..28_u64, flood in 1..300_u64) {
            let mut store = Recent::new(32);
            let mut see = |key: u64| *store.see(key, || 0_u64, |seen| *seen >= 3) += 1;
            (0..5).for_each(|_| (0..known).for_each(&mut see));
            for round in 0..20 {
                (0..flood).for_each(|extra| see(1_000 + round * flood + extra));
                (0..known).for_each(&mut see);
            }
            prop_assert!((0..known).all(|camera| store.get(&camera) == Some(&25)));
        }
    }

    #[test]
    fn a_full_house_still_lets_a_newcomer_become_known() {
        let mut store = Recent::new(16);
        let mut see = |key: u64| *store.see(key, || 0_u64, |seen| *seen >= 3) += 1;
        (0..5).for_each(|_| (0..16).for_each(&mut see));
        (0..5).for_each(|_| see(99));
        assert_eq!(store.get(&99), Some(&5));
        assert_eq!(store.get(&0), None, "the least recently seen of the known went");
        assert_eq!((store.entries.len(), store.forgotten()), (16, 1));
    }
}
