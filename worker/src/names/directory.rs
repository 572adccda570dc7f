//! Which names there are in a run. Pure.
//!
//! ```text
//! i7-2p8lcec0       the host name of an instance
//! servers           a group: all its instances
//! servers-0         the first instance of a group
//! example.org       an extra host of the composition
//! ```
//!
//! Each but the last may end in `.gs`, which is nobody else's. Names are not told apart by case. A group's name
//! wins over that of a group's instance.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;

use groundswell_common::ids::InstanceId;
use groundswell_common::messages::Assignment;

/// The ending that makes a name one of the run's in any case.
const OWN: &str = ".gs";

/// The names of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// What comes after `i`, number and `-` in host names.
    suffix: String,
    instances: u32,
    /// Numbers of each group's instances.
    groups: BTreeMap<String, Range<u32>>,
    hosts: BTreeMap<String, Vec<Ipv4Addr>>,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// These instances, by their numbers.
    Instances(Range<u32>),
    /// A host outside with these addresses.
    Host(Vec<Ipv4Addr>),
    /// It would be one of the run's, and is none.
    Nobody,
    /// Nothing here.
    Foreign,
}

impl Directory {
    /// The names of a run, and those of hosts outside.
    #[must_use]
    pub fn new(assignment: &Assignment, hosts: &BTreeMap<String, Vec<Ipv4Addr>>) -> Self {
        let hostname = assignment.hostname(InstanceId(0)).to_ascii_lowercase();
        let suffix = hostname.split_once('-').map_or("", |(_, suffix)| suffix).to_owned();
        let mut groups = BTreeMap::new();
        let mut first = 0;
        for group in &assignment.groups {
            let next = first + group.instances;
            groups.insert(group.id.to_ascii_lowercase(), first..next);
            first = next;
        }
        let hosts = hosts.iter().map(|(name, all)| (normal(name), all.clone())).collect();
        Self { suffix, instances: first, groups, hosts }
    }

    /// What `name` means.
    #[must_use]
    pub fn find(&self, name: &str) -> Meaning {
        let name = normal(name);
        let own = name.strip_suffix(OWN);
        let bare = own.unwrap_or(&name);
        if let Some(instances) = self.groups.get(bare) {
            return Meaning::Instances(instances.clone());
        }
        if let Some(number) = self.hostname(bare).or_else(|| self.of_group(bare)) {
            return Meaning::Instances(number..number + 1);
        }
        match self.hosts.get(&name) {
            Some(addresses) => Meaning::Host(addresses.clone()),
            None if own.is_some() => Meaning::Nobody,
            None => Meaning::Foreign,
        }
    }

    fn hostname(&self, name: &str) -> Option<u32> {
        let (number, suffix) = name.strip_prefix('i')?.split_once('-')?;
        let number = number.parse().ok()?;
        (suffix == self.suffix && number < self.instances).then_some(number)
    }

    fn of_group(&self, name: &str) -> Option<u32> {
        let (group, number) = name.rsplit_once('-')?;
        let (instances, number) = (self.groups.get(group)?, number.parse::<u32>().ok()?);
        (number < instances.end - instances.start).then(|| instances.start + number)
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        let hosts = BTreeMap::from([("http-echo".to_owned(), vec![Ipv4Addr::new(10, 0, 0, 9)])]);
        Directory {
            suffix: "2p8lcec0".to_owned(),
            instances: 5,
            groups: BTreeMap::from([
                ("servers".to_owned(), 0..2),
                ("clients".to_owned(), 2..4),
                ("servers-1".to_owned(), 4..5),
            ]),
            hosts,
        }
    }

    #[test]
    fn instances_and_groups_are_found_by_all_their_names() {
        let directory = directory();
        for (name, numbers) in [
            ("i3-2p8lcec0", 3..4),
            ("servers", 0..2),
            ("Servers.GS.", 0..2),
            ("servers-0", 0..1),
            ("clients-1.gs", 3..4),
            ("servers-1", 4..5),
        ] {
            assert_eq!(directory.find(name), Meaning::Instances(numbers), "{name}");
        }
        assert_eq!(directory.find("HTTP-echo"), Meaning::Host(vec![Ipv4Addr::new(10, 0, 0, 9)]));
    }

    #[test]
    fn names_of_nobody_are_foreign_unless_they_end_as_ours_do() {
        let directory = directory();
        for name in ["i5-2p8lcec0", "i3-other", "clients-2", "clients--1", "example.org", ""] {
            assert_eq!(directory.find(name), Meaning::Foreign, "{name}");
        }
        for name in ["clients-2.gs", "example.org.gs", ".gs"] {
            assert_eq!(directory.find(name), Meaning::Nobody, "{name}");
        }
    }
}
