//! How many instances each place gets: numbers only.

/// How many each gets so that all have as much as possible the same in the end. `loads` is what they have before,
/// `caps` how many more they can take; of those with equal rights the first ones get one more.
/// None when not all of `wanted` find a place.
pub(super) fn level(wanted: u32, caps: &[u32], loads: &[u32]) -> Option<Vec<u32>> {
    let below = |water: u64| -> u64 {
        caps.iter().zip(loads).map(|(cap, load)| u64::from(under(water, *cap, *load))).sum()
    };
    if below(u64::MAX) < u64::from(wanted) {
        return None;
    }
    // The lowest water that covers everything, found by halving.
    let (mut low, mut high) = (0_u64, u64::from(u32::MAX) * 2);
    while low < high {
        let middle = low.midpoint(high);
        if below(middle) >= u64::from(wanted) { high = middle } else { low = middle + 1 }
    }
    let water = low.saturating_sub(1);
    let mut counts: Vec<u32> =
        caps.iter().zip(loads).map(|(cap, load)| under(water, *cap, *load)).collect();
    let given: u64 = counts.iter().copied().map(u64::from).sum();
    let mut left = u64::from(wanted) - given.min(u64::from(wanted));
    for ((count, cap), load) in counts.iter_mut().zip(caps).zip(loads) {
        if left > 0 && u64::from(*load) <= water && *count < *cap {
            *count += 1;
            left -= 1;
        }
    }
    Some(counts)
}

fn under(water: u64, cap: u32, load: u32) -> u32 {
    let room = water.saturating_sub(u64::from(load));
    u32::try_from(room).unwrap_or(u32::MAX).min(cap)
}

/// How many each gets when those that come first in `order` are filled first.
pub(super) fn pack(wanted: u32, caps: &[u32], order: &[usize]) -> Option<Vec<u32>> {
    let mut counts = vec![0_u32; caps.len()];
    let mut left = wanted;
    for &index in order {
        counts[index] = caps[index].min(left);
        left -= counts[index];
    }
    (left == 0).then_some(counts)
}

/// How many each gets so that first the zones and then the places of each zone have as much as possible the same.
pub(super) fn level_zones(
    wanted: u32,
    caps: &[u32],
    loads: &[u32],
    zones: &[usize],
) -> Option<Vec<u32>> {
    let count = zones.iter().max().map_or(0, |last| last + 1);
    let sums = |values: &[u32]| {
        let mut sums = vec![0_u32; count];
        for (value, zone) in values.iter().zip(zones) {
            sums[*zone] = sums[*zone].saturating_add(*value);
        }
        sums
    };
    let of_zones = level(wanted, &sums(caps), &sums(loads))?;
    let mut counts = vec![0_u32; caps.len()];
    for (zone, wanted) in of_zones.into_iter().enumerate() {
        let members: Vec<usize> = (0..caps.len()).filter(|i| zones[*i] == zone).collect();
        let pick = |values: &[u32]| members.iter().map(|i| values[*i]).collect::<Vec<_>>();
        let given = level(wanted, &pick(caps), &pick(loads))?;
        members.iter().zip(given).for_each(|(i, given)| counts[*i] = given);
    }
    Some(counts)
}

/// Instances one after the other, of which each `together` have to be in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) instances: u32,
    pub(super) together: u32,
}

/// Moves the borders between places to where they part nobody who has to be together: to the nearest such
/// border, or, where that does not do, as far as each place has room.
pub(super) fn settle(rows: &[Row], counts: Vec<u32>, caps: &[u32]) -> Option<Vec<u32>> {
    if rows.iter().all(|row| row.together <= 1) {
        return Some(counts);
    }
    let mut ends = Vec::with_capacity(counts.len());
    for count in &counts {
        ends.push(ends.last().copied().unwrap_or(0) + u64::from(*count));
    }
    let whole = vec![u64::MAX; counts.len()];
    take_turns(rows, &ends, caps).or_else(|| take_turns(rows, &whole, caps))
}

/// Each place takes those whose middle lies before its end, as far as it has room.
fn take_turns(rows: &[Row], ends: &[u64], caps: &[u32]) -> Option<Vec<u32>> {
    let mut blocks = rows.iter().flat_map(|row| blocks(*row)).peekable();
    let mut placed = 0_u64;
    let mut counts = Vec::with_capacity(caps.len());
    for (end, cap) in ends.iter().zip(caps) {
        let mut count = 0_u32;
        while let Some(block) = blocks.next_if(|block| {
            count.saturating_add(*block) <= *cap && placed + u64::from(*block) / 2 < *end
        }) {
            count += block;
            placed += u64::from(block);
        }
        counts.push(count);
    }
    blocks.next().is_none().then_some(counts)
}

/// The sizes of what has to be together in a row.
fn blocks(row: Row) -> impl Iterator<Item = u32> {
    let together = row.together.clamp(1, row.instances.max(1));
    let rest = row.instances % together;
    let whole = usize::try_from(row.instances / together).unwrap_or(usize::MAX);
    std::iter::repeat_n(together, whole).chain((rest > 0).then_some(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn water_finds_its_level() {
        assert_eq!(level(7, &[10, 10, 1], &[0, 0, 0]), Some(vec![3, 3, 1]));
        assert_eq!(level(5, &[9, 9], &[0, 0]), Some(vec![3, 2]));
        assert_eq!(level(5, &[9, 9], &[4, 0]), Some(vec![1, 4]), "5 and 4 in the end");
        assert_eq!(level(0, &[], &[]), Some(vec![]));
        assert_eq!(level(3, &[1, 1], &[0, 0]), None);
    }

    #[test]
    fn zones_have_the_same_before_their_places_have() {
        let counts = level_zones(9, &[9, 9, 9, 9], &[0; 4], &[0, 0, 0, 1]);
        assert_eq!(counts, Some(vec![2, 2, 1, 4]));
        let counts = level_zones(9, &[9, 9, 9, 1], &[0; 4], &[0, 0, 0, 1]);
        assert_eq!(counts, Some(vec![3, 3, 2, 1]), "what does not fit goes to the other zone");
    }

    proptest! {
        #[test]
        fn everything_is_given_out_as_evenly_as_it_can_be(
            places in prop::collection::vec((0_u32..30, 0_u32..30), 0..12),
            wanted in 0_u32..300,
        ) {
            let (caps, loads): (Vec<u32>, Vec<u32>) = places.into_iter().unzip();
            let Some(counts) = level(wanted, &caps, &loads) else {
                prop_assert!(caps.iter().sum::<u32>() < wanted);
                return Ok(());
            };
            prop_assert_eq!(counts.iter().sum::<u32>(), wanted);
            prop_assert!(counts.iter().zip(&caps).all(|(count, cap)| count <= cap));
            // Nobody who was given something has more than one more than somebody who could take more.
            for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                for (j, other) in counts.iter().enumerate().filter(|(j, other)| *other < &caps[*j]) {
                    prop_assert!(count + loads[i] <= other + loads[j] + 1);
                }
            }
        }
    }
}
