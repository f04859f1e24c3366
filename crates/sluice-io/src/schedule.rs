//! Which Listeners have something to do: now, or at a moment. A turn of the I/O thread costs what these cost, however
//! many others are open.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// A Listener's name inside the I/O thread; never used again.
pub type Key = u64;

/// Where one Listener stands in the [`Schedule`]; it belongs to the Listener.
#[derive(Debug, Default)]
pub struct Place {
    ready: bool,
    at: Option<u64>,
}

/// Listeners that are ready, first come, first served, and those that wait for a moment (nanoseconds of
/// [`sluice_core::Now::mono`]).
#[derive(Debug, Default)]
pub struct Schedule {
    ready: VecDeque<Key>,
    moments: BTreeSet<(u64, Key)>,
}

impl Schedule {
    /// The Listener has something to do. Once in the list, it is not added again.
    pub fn ready(&mut self, key: Key, place: &mut Place) {
        if !std::mem::replace(&mut place.ready, true) {
            self.ready.push_back(key);
        }
    }

    /// The Listener has something to do at that moment, and at none before; None: at no moment.
    pub fn at(&mut self, key: Key, place: &mut Place, at: Option<u64>) {
        if place.at == at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut place.at, at) {
            self.moments.remove(&(before, key));
        }
        self.moments.extend(at.map(|at| (at, key)));
    }

    /// Takes a Listener whose moment has come; it is [`ready`](Self::ready) with the next call.
    pub fn due(&mut self, now: u64) -> Option<Key> {
        self.moments
            .first()
            .is_some_and(|(at, _)| *at <= now)
            .then(|| self.moments.pop_first())
            .flatten()
            .map(|(_, key)| key)
    }

    /// The moment of the Listener, which [`due`](Self::due) has taken, has come.
    pub fn came(&mut self, key: Key, place: &mut Place) {
        place.at = None;
        self.ready(key, place);
    }

    /// How many are ready: a turn that takes as many takes none twice.
    pub fn count(&self) -> usize {
        self.ready.len()
    }

    /// Takes the one that has been ready longest. It may be gone already.
    pub fn take(&mut self) -> Option<Key> {
        self.ready.pop_front()
    }

    /// The Listener's turn begins: what makes it ready from here on counts anew.
    pub fn begin(place: &mut Place) {
        place.ready = false;
    }

    /// How long nobody has anything to do; None: until somebody is made ready.
    pub fn wait(&self, now: u64) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        self.moments.first().map(|(at, _)| Duration::from_nanos(at.saturating_sub(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_take_turns_and_stand_in_the_list_once() {
        let (mut schedule, mut places) = (Schedule::default(), [Place::default(), Place::default()]);
        for key in [1, 0, 1, 1, 0] {
            schedule.ready(key, &mut places[key as usize]);
        }
        assert_eq!((schedule.count(), schedule.take(), schedule.take(), schedule.take()), (2, Some(1), Some(0), None));
        schedule.ready(1, &mut places[1]);
        assert_eq!(schedule.count(), 0, "its turn has not begun");
        Schedule::begin(&mut places[1]);
        schedule.ready(1, &mut places[1]);
        assert_eq!(schedule.take(), Some(1));
    }

    #[test]
    fn moments_come_in_order_and_the_last_one_asked_for_holds() {
        let (mut schedule, mut places) = (Schedule::default(), [Place::default(), Place::default()]);
        schedule.at(0, &mut places[0], Some(50));
        schedule.at(1, &mut places[1], Some(30));
        assert_eq!((schedule.wait(10), schedule.due(29)), (Some(Duration::from_nanos(20)), None));
        schedule.at(1, &mut places[1], Some(70));
        assert_eq!((schedule.due(60), schedule.due(60)), (Some(0), None));
        schedule.came(0, &mut places[0]);
        assert_eq!((schedule.take(), schedule.wait(60)), (Some(0), Some(Duration::from_nanos(10))));
        schedule.at(0, &mut places[0], Some(65));
        schedule.at(1, &mut places[1], None);
        assert_eq!((schedule.due(u64::MAX), schedule.due(u64::MAX)), (Some(0), None));
    }

    #[test]
    fn whoever_is_ready_is_not_waited_for() {
        let (mut schedule, mut place) = (Schedule::default(), Place::default());
        schedule.at(0, &mut place, Some(50));
        schedule.ready(0, &mut place);
        assert_eq!(schedule.wait(0), Some(Duration::ZERO));
    }
}
