//! Which numbers of an ordered pair have arrived. Pure.
//!
//! The upper bits of a number name the life of the worker that sends. A worker that was restarted in the middle of a
//! run counts from 1 again, in a higher life.

/// How many bits count the packets of one life.
pub(super) const LIFE_SHIFT: u32 = 40;

/// How far behind the highest number one may still arrive.
const WIDTH: u64 = 128;

/// What a number that arrives means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the highest so far; so many before it are missing.
    New {
        /// Numbers between the former highest and this one.
        missing: u64,
    },
    /// It was missing: a later one came first.
    Late,
    /// It has arrived before.
    Again,
    /// It is so far behind that nobody remembers whether it has arrived.
    Forgotten,
}

/// The numbers that have arrived lately. They count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Window {
    highest: u64,
    /// Bit n is set when `highest - n` has arrived.
    seen: u128,
}

impl Window {
    /// For a receiver that comes in the middle: this number will be the first.
    pub(super) fn before(number: u64) -> Self {
        Self { highest: number.saturating_sub(1), seen: 0 }
    }

    /// Takes a number in.
    pub(super) fn take(&mut self, number: u64) -> Arrival {
        if number > self.highest {
            let step = number - self.highest;
            self.seen = if step < WIDTH { self.seen << step } else { 0 } | 1;
            let begins = number >> LIFE_SHIFT > self.highest >> LIFE_SHIFT;
            self.highest = number;
            // How many of the life before are missing nobody knows.
            let before = if begins { number & ((1 << LIFE_SHIFT) - 1) } else { step };
            return Arrival::New { missing: before.saturating_sub(1) };
        }
        let behind = self.highest - number;
        if behind >= WIDTH {
            return Arrival::Forgotten;
        }
        let bit = 1_u128 << behind;
        if self.seen & bit != 0 || number == 0 {
            return Arrival::Again;
        }
        self.seen |= bit;
        Arrival::Late
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_are_missing_come_late_or_never() {
        let mut window = Window::default();
        assert_eq!(window.take(1), Arrival::New { missing: 0 });
        assert_eq!(window.take(4), Arrival::New { missing: 2 });
        assert_eq!(window.take(3), Arrival::Late);
        assert_eq!(window.take(3), Arrival::Again);
        assert_eq!(window.take(4), Arrival::Again);
        assert_eq!(window.take(1_000), Arrival::New { missing: 995 });
        assert_eq!(window.take(2), Arrival::Forgotten);
        assert_eq!(window.take(999), Arrival::Late);
    }

    #[test]
    fn a_sender_and_a_receiver_that_were_restarted_miss_nothing() {
        let mut window = Window::default();
        assert_eq!(window.take(7), Arrival::New { missing: 6 });
        let life = 5 << LIFE_SHIFT;
        assert_eq!(window.take(life + 2), Arrival::New { missing: 1 });
        assert_eq!(window.take(life + 1), Arrival::Late);
        assert_eq!(window.take(8), Arrival::Forgotten, "of the life before");
        let mut window = Window::before(900);
        assert_eq!(window.take(900), Arrival::New { missing: 0 });
        assert_eq!(window.take(902), Arrival::New { missing: 1 });
    }

    proptest! {
        #[test]
        fn each_number_is_taken_once_and_the_missing_are_counted(
            numbers in prop::collection::vec(1..400_u64, 1..400),
        ) {
            let mut window = Window::default();
            let (mut taken, mut missing) = (BTreeSet::new(), 0);
            for number in numbers {
                match window.take(number) {
                    Arrival::New { missing: more } => {
                        missing += more;
                        prop_assert!(taken.insert(number));
                    }
                    Arrival::Late => {
                        missing -= 1;
                        prop_assert!(taken.insert(number));
                    }
                    Arrival::Again => prop_assert!(taken.contains(&number)),
                    Arrival::Forgotten => {}
                }
            }
            let highest = taken.last().copied().unwrap_or(0);
            prop_assert_eq!(missing, highest - taken.len() as u64);
        }
    }
}
