//! Who has to do with whom: every group of dialers with every group of listeners.
//!
//! Member `i` of dialer group `g` has member `g` of listener group `i`; with more members it begins again. So groups
//! of as many members as there are groups on the other side make every combination once. Where one side is a single
//! group, pairs are made in order, and the groups of the other side may differ in size.

use std::collections::BTreeMap;

/// What pairs are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Listener,
}

/// One instance that can be part of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) side: Side,
    pub(crate) group: String,
    /// Its number in the run.
    pub(crate) index: u32,
}

/// The pairs, each a dialer's and a listener's number in the run, in order of the dialers.
///
/// # Errors
/// When somebody is left over: the groups do not fit, and the message says how they would.
pub(crate) fn pairs(ends: &[End]) -> Result<Vec<(u32, u32)>, String> {
    let (dialers, listeners) = (groups(ends, Side::Dialer), groups(ends, Side::Listener));
    if dialers.is_empty() || listeners.is_empty() {
        return Err("there have to be dialers and listeners".to_owned());
    }
    if dialers.len() == 1 || listeners.len() == 1 {
        return in_order(&dialers, &listeners);
    }
    let mut found = Vec::new();
    for (group, members) in dialers.iter().enumerate() {
        for (member, dialer) in members.iter().enumerate() {
            let place = group + dialers.len() * (member / listeners.len());
            let listener = listeners[member % listeners.len()].get(place);
            found.push((*dialer, *listener.ok_or_else(|| uneven(&dialers, &listeners))?));
        }
    }
    if found.len() == listeners.iter().map(Vec::len).sum::<usize>() {
        return Ok(found);
    }
    Err(uneven(&dialers, &listeners))
}

/// Where one side has no kinds, everybody takes the next one.
fn in_order(dialers: &[Vec<u32>], listeners: &[Vec<u32>]) -> Result<Vec<(u32, u32)>, String> {
    let (all, others) = (dialers.concat(), listeners.concat());
    if all.len() == others.len() {
        return Ok(all.into_iter().zip(others).collect());
    }
    Err(format!(
        "{} dialers and {} listeners make no pairs: there have to be as many",
        all.len(),
        others.len()
    ))
}

/// The members of each group of a side, all in order of their numbers.
fn groups(ends: &[End], side: Side) -> Vec<Vec<u32>> {
    let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for end in ends.iter().filter(|end| end.side == side) {
        groups.entry(&end.group).or_default().push(end.index);
    }
    let mut groups: Vec<Vec<u32>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_unstable();
    }
    groups.sort();
    groups
}

fn uneven(dialers: &[Vec<u32>], listeners: &[Vec<u32>]) -> String {
    let sizes = |groups: &[Vec<u32>]| {
        groups.iter().map(|group| group.len().to_string()).collect::<Vec<_>>().join(", ")
    };
    format!(
        "groups of {} dialers and of {} listeners make no pairs: give each dialer group the same multiple of {} \
         members, and each listener group that multiple of {}",
        sizes(dialers),
        sizes(listeners),
        listeners.len(),
        dialers.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(side: Side, sizes: &[(&str, u32)], first: u32) -> Vec<End> {
        let groups = sizes.iter().flat_map(|(group, size)| (0..*size).map(|_| (*group).to_owned()));
        groups.zip(first..).map(|(group, index)| End { side, group, index }).collect()
    }

    fn of(dialers: &[(&str, u32)], listeners: &[(&str, u32)]) -> Result<Vec<(u32, u32)>, String> {
        let mut all = ends(Side::Dialer, dialers, 0);
        all.extend(ends(Side::Listener, listeners, 100));
        pairs(&all)
    }

    #[test]
    fn one_group_on_a_side_makes_pairs_in_order() {
        assert_eq!(of(&[("a", 3)], &[("b", 3)]).unwrap(), [(0, 100), (1, 101), (2, 102)]);
        assert_eq!(of(&[("a", 2), ("c", 1)], &[("b", 3)]).unwrap(), [(0, 100), (1, 101), (2, 102)]);
    }

    #[test]
    fn groups_make_every_combination_equally_often() {
        let found = of(&[("a", 6), ("b", 6)], &[("x", 4), ("y", 4), ("z", 4)]).unwrap();
        let mut count = BTreeMap::new();
        for (dialer, listener) in &found {
            *count.entry((dialer / 6, (listener - 100) / 4)).or_insert(0) += 1;
        }
        assert_eq!(count.len(), 6);
        assert!(count.values().all(|times| *times == 2), "{count:?}");
        let mut listeners: Vec<u32> = found.iter().map(|(_, listener)| *listener).collect();
        listeners.sort_unstable();
        assert_eq!(listeners, (100..112).collect::<Vec<_>>(), "each once");
    }

    #[test]
    fn groups_that_do_not_fit_are_told_what_would() {
        let error = of(&[("a", 3), ("b", 2)], &[("x", 2), ("y", 2)]).unwrap_err();
        assert!(error.contains("groups of 3, 2 dialers and of 2, 2 listeners"), "{error}");
        assert!(error.contains("the same multiple of 2 members"), "{error}");
        let error = of(&[("a", 2)], &[("x", 3)]).unwrap_err();
        assert_eq!(error, "2 dialers and 3 listeners make no pairs: there have to be as many");
        assert!(of(&[], &[("x", 3)]).is_err());
    }
}
