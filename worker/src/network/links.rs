//! The links between the groups of a run as they are at the moment. Pure.
//!
//! How they combine with what an instance asks for itself (see [`super::rules`]):
//!
//! 1. a cut of the schedule: nothing passes, whatever anyone asked for;
//! 2. a rule of the instance's configuration that has a shape: this shape alone;
//! 3. else the access link, which a configuration's default shape replaces, and the path between the two
//!    groups, whose delays add up. The filter of a rule wins over the filter of the path.
//!
//! Looking a path up takes two reads of tables, whatever their size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use groundswell_common::ids::InstanceId;
use groundswell_common::link::{AccessLink, Filter, LinkShape};
use groundswell_common::messages::Assignment;
use groundswell_common::network::{Action, NetworkPlan};

/// The links of a run. A change makes another one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Links {
    /// The class of each instance, by its number.
    class_of: Arc<[u16]>,
    access: Vec<Access>,
    /// For each class, for each class it sends to; empty when no path has a shape and none is cut.
    paths: Vec<Path>,
    cuts: BTreeMap<u16, Cut>,
    /// Classes that are cut from all others and from themselves, and so from everything.
    offline: BTreeSet<u16>,
    /// Whether what is sent to many reaches all of the run.
    pub multicast: bool,
}

/// The access link of a class.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Access {
    link: AccessLink,
    /// How often it was changed since the start.
    changes: u32,
}

/// The path from one class to another.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Path {
    /// How packets are treated; absent leaves them alone.
    pub shape: Option<LinkShape>,
    /// Whether nothing passes at the moment.
    pub cut: bool,
}

/// A path that does nothing.
static OPEN: Path = Path { shape: None, cut: false };
/// A path that nothing passes.
static SHUT: Path = Path { shape: None, cut: true };

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    from: Vec<u16>,
    to: Vec<u16>,
    carrier: bool,
}

impl Links {
    /// The links an assignment begins with; absent when it says nothing about any.
    #[must_use]
    pub fn of(assignment: &Assignment) -> Option<Self> {
        let sizes = assignment.groups.iter().map(|group| group.instances);
        (!assignment.network.is_empty()).then(|| Self::new(&assignment.network, sizes))
    }

    /// The links a plan begins with, for groups of these sizes. Instances are numbered group after group.
    #[must_use]
    pub fn new(plan: &NetworkPlan, sizes: impl IntoIterator<Item = u32>) -> Self {
        let numbered = (0_u16..).zip(sizes);
        let class_of = numbered.flat_map(|(class, size)| {
            std::iter::repeat_n(class, usize::try_from(size).unwrap_or(0))
        });
        let classes = plan.classes.len();
        let access = plan.classes.iter().map(|link| Access { link: *link, changes: 0 }).collect();
        let mut links = Self {
            class_of: class_of.collect(),
            access,
            multicast: plan.multicast,
            ..Self::default()
        };
        if !plan.paths.is_empty() {
            let pairs = (0..classes).flat_map(|from| (0..classes).map(move |to| (from, to)));
            links.paths = pairs.map(|(from, to)| Path::shaped(plan.path(from, to))).collect();
        }
        links
    }

    /// The links after a change.
    #[must_use]
    pub fn after(&self, action: &Action) -> Self {
        let mut links = self.clone();
        match action {
            Action::Cut { cut, from, to, carrier } => {
                let sides = Cut { from: from.clone(), to: to.clone(), carrier: *carrier };
                links.cuts.insert(*cut, sides);
                links.lay_cuts();
            }
            Action::Heal { cuts } => {
                links.cuts.retain(|cut, _| !cuts.contains(cut));
                links.lay_cuts();
            }
            Action::Access { classes, link } => {
                for class in classes {
                    if let Some(access) = links.access.get_mut(usize::from(*class)) {
                        *access = Access { link: *link, changes: access.changes + 1 };
                    }
                }
            }
            Action::Path { pairs, shape } => {
                for (from, to) in pairs {
                    if let Some(path) = links.path_mut(*from, *to) {
                        path.shape = Path::shaped(*shape).shape;
                    }
                }
            }
            // Those are about routers and addresses, not about links.
            Action::Rebind { .. } | Action::Readdress { .. } => {}
        }
        links
    }

    fn lay_cuts(&mut self) {
        self.paths.iter_mut().for_each(|path| path.cut = false);
        self.offline.clear();
        let cuts = std::mem::take(&mut self.cuts);
        for Cut { from, to, .. } in cuts.values() {
            if (0_u16..).zip(&self.access).all(|(class, _)| to.contains(&class)) {
                self.offline.extend(from);
            }
            for (one, other) in
                from.iter().flat_map(|one| to.iter().map(move |other| (*one, *other)))
            {
                for (from, to) in [(one, other), (other, one)] {
                    if let Some(path) = self.path_mut(from, to) {
                        path.cut = true;
                    }
                }
            }
        }
        self.cuts = cuts;
    }

    fn path_mut(&mut self, from: u16, to: u16) -> Option<&mut Path> {
        let classes = self.access.len();
        let (from, to) = (usize::from(from), usize::from(to));
        if from >= classes || to >= classes {
            return None;
        }
        if self.paths.is_empty() {
            self.paths = vec![Path::default(); classes * classes];
        }
        self.paths.get_mut(from * classes + to)
    }

    fn class(&self, instance: u32) -> Option<usize> {
        let class = usize::try_from(instance).ok().and_then(|number| self.class_of.get(number))?;
        Some(usize::from(*class)).filter(|class| *class < self.access.len())
    }

    /// The path from one instance to another, by their numbers. To the gateway and to outside it is open, as long
    /// as the instance is not offline.
    #[must_use]
    pub fn path(&self, from: u32, to: u32) -> &Path {
        if self.paths.is_empty() {
            return &OPEN;
        }
        match (self.class(from), self.class(to)) {
            (Some(from), Some(to)) => self.paths.get(from * self.access.len() + to),
            (Some(_), None) if self.is_offline(InstanceId(from)) => Some(&SHUT),
            (None, _) | (_, None) => None,
        }
        .unwrap_or(&OPEN)
    }

    /// Whether an instance is cut from everything, the outside as well.
    #[must_use]
    pub fn is_offline(&self, instance: InstanceId) -> bool {
        self.class(instance.0)
            .and_then(|class| u16::try_from(class).ok())
            .is_some_and(|class| self.offline.contains(&class))
    }

    /// The class of an instance.
    #[must_use]
    pub fn class_of(&self, instance: InstanceId) -> Option<usize> {
        self.class(instance.0)
    }

    /// Every path that does something, by the classes of its ends.
    pub fn paths(&self) -> impl Iterator<Item = ((usize, usize), &Path)> {
        let classes = self.access.len().max(1);
        let each = self.paths.iter().enumerate();
        each.map(move |(at, path)| ((at / classes, at % classes), path))
            .filter(|(_, path)| **path != OPEN)
    }

    /// Whether any access link has a limit on what it receives.
    #[must_use]
    pub fn limits_downloads(&self) -> bool {
        self.access.iter().any(|access| access.link.download_bps > 0)
    }

    /// The access link of an instance.
    #[must_use]
    pub fn access(&self, instance: InstanceId) -> AccessLink {
        self.class(instance.0).map(|class| self.access[class].link).unwrap_or_default()
    }

    /// Whether the access link of an instance was changed since `before`.
    #[must_use]
    pub fn reshapes(&self, before: &Self, instance: InstanceId) -> bool {
        let changes =
            |links: &Self| links.class(instance.0).map_or(0, |class| links.access[class].changes);
        changes(self) != changes(before)
    }

    /// Whether the interface of an instance has a carrier.
    #[must_use]
    pub fn has_carrier(&self, instance: InstanceId) -> bool {
        let Some(class) = self.class(instance.0) else { return true };
        !self
            .cuts
            .values()
            .any(|cut| cut.carrier && cut.from.iter().any(|one| usize::from(*one) == class))
    }
}

impl Path {
    fn shaped(shape: LinkShape) -> Self {
        Self { shape: (shape != LinkShape::default()).then_some(shape), cut: false }
    }

    /// What becomes of a packet here, when a rule of its sender says this.
    #[must_use]
    pub fn filter(&self, rule: Option<Filter>) -> Filter {
        if self.cut {
            return Filter::Drop;
        }
        rule.or(self.shape.map(|shape| shape.filter)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn latency(ms: u64) -> LinkShape {
        LinkShape { latency: Duration::from_millis(ms), ..LinkShape::default() }
    }

    /// Two classes of two instances each, 20 ms apart.
    fn apart() -> Links {
        let plan = NetworkPlan {
            classes: vec![AccessLink::default(); 2],
            shapes: vec![LinkShape::default(), latency(20)],
            paths: vec![0, 1, 1, 0],
            ..NetworkPlan::default()
        };
        Links::new(&plan, [2, 2])
    }

    fn cut(cut: u16, from: &[u16], to: &[u16]) -> Action {
        Action::Cut { cut, from: from.to_vec(), to: to.to_vec(), carrier: false }
    }

    #[test]
    fn a_path_is_found_by_the_groups_of_both_ends() {
        let links = apart();
        assert_eq!(*links.path(0, 1), OPEN);
        assert_eq!(links.path(1, 2).shape, Some(latency(20)));
        assert_eq!(links.path(3, 0).shape, Some(latency(20)));
        assert_eq!(*links.path(3, u32::MAX), OPEN, "the gateway");
        assert_eq!(*links.path(0, 4), OPEN, "nobody");
    }

    #[test]
    fn cuts_overlap_and_each_is_healed_by_its_name() {
        let both = apart().after(&cut(1, &[0], &[1])).after(&cut(2, &[0], &[0, 1]));
        let still = both.after(&Action::Heal { cuts: vec![1, 7] });
        assert!(still.path(0, 2).cut && still.path(2, 0).cut && still.path(0, 1).cut);
        assert_eq!(still.path(0, 2).shape, Some(latency(20)), "shapes stay");
        assert!(!still.path(2, 3).cut);
        assert_eq!(still.after(&Action::Heal { cuts: vec![2] }), apart());
    }

    #[test]
    fn who_is_cut_from_all_reaches_nothing_outside_either() {
        const OUTSIDE: u32 = u32::MAX;
        let flap = apart().after(&cut(1, &[1], &[0, 1])).after(&cut(2, &[0], &[1]));
        assert!(flap.is_offline(InstanceId(2)) && flap.path(3, OUTSIDE).cut);
        // A partition leaves both of its sides online.
        assert!(!flap.is_offline(InstanceId(0)) && !flap.path(0, OUTSIDE).cut);
        let over = flap.after(&Action::Heal { cuts: vec![1] });
        assert!(!over.is_offline(InstanceId(2)) && !over.path(3, OUTSIDE).cut);
    }

    #[test]
    fn a_cut_wins_over_a_rule_and_a_rule_over_the_path() {
        let dropping = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        let path = Path::shaped(dropping);
        assert_eq!(path.filter(None), Filter::Drop);
        assert_eq!(path.filter(Some(Filter::Accept)), Filter::Accept);
        assert_eq!(Path { cut: true, ..path }.filter(Some(Filter::Accept)), Filter::Drop);
    }

    #[test]
    fn a_change_of_an_access_link_is_seen_by_its_class_alone() {
        let link = AccessLink { sends: latency(5), download_bps: 7 };
        let after = apart().after(&Action::Access { classes: vec![1], link });
        assert_eq!(after.access(InstanceId(3)), link);
        assert!(after.reshapes(&apart(), InstanceId(2)));
        assert!(!after.reshapes(&apart(), InstanceId(1)));
    }

    #[test]
    fn a_carrier_is_lost_by_the_first_side_only() {
        let flap = Action::Cut { cut: 0, from: vec![1], to: vec![0, 1], carrier: true };
        let down = apart().after(&flap);
        let carriers: Vec<bool> = (0..4).map(|id| down.has_carrier(InstanceId(id))).collect();
        assert_eq!(carriers, [true, true, false, false]);
    }

    proptest! {
        #[test]
        fn what_is_cut_and_healed_in_any_order_is_as_before(
            cuts in prop::collection::vec(
                (prop::collection::vec(0..5_u16, 0..4), prop::collection::vec(0..5_u16, 0..4)), 0..6,
            ),
            order: prop::sample::Index,
        ) {
            let plan = NetworkPlan {
                classes: vec![AccessLink::default(); 4],
                shapes: vec![latency(3)],
                paths: vec![0; 16],
                ..NetworkPlan::default()
            };
            let before = Links::new(&plan, [1, 2, 3, 4]);
            let numbered = (0_u16..).zip(&cuts);
            let mut links = numbered.fold(before.clone(), |links, (number, (from, to))| {
                links.after(&cut(number, from, to))
            });
            for _ in 0..cuts.len() {
                let names: Vec<u16> = links.cuts.keys().copied().collect();
                let one = *order.get(&names);
                links = links.after(&Action::Heal { cuts: vec![one] });
            }
            prop_assert_eq!(links, before);
        }
    }
}
