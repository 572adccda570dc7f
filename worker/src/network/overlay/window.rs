//! Which numbers of an ordered pair have arrived. Pure.

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
    /// Takes a number in.
    pub(super) fn take(&mut self, number: u64) -> Arrival {
        if number > self.highest {
            let step = number - self.highest;
            self.seen = if step < WIDTH { self.seen << step } else { 0 } | 1;
            self.highest = number;
            return Arrival::New { missing: step - 1 };
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
