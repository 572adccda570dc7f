//! What happens in each case, as data.

/// The cases, by their names in the manifest.
pub(crate) const NAMES: [&str; 12] = [
    "baseline",
    "large-messages",
    "churn",
    "cold-boot",
    "covert-flash",
    "eclipse-net",
    "eclipse-target",
    "censor-target",
    "degrade",
    "dawn",
    "ip-colocation",
    "mixed-versions",
];

/// What happens in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// When Sybils join; a case without Sybils says never.
    pub(crate) sybils_join: Join,
    /// Whom they dial.
    pub(crate) victims: Victims,
    /// What they do with messages before the attack.
    pub(crate) before: Conduct,
    /// What they do with them from then on.
    pub(crate) after: Conduct,
    /// Whether lurkers leave and come back.
    pub(crate) churn: bool,
    /// Whether messages have the sizes of the parameter `message_sizes`.
    pub(crate) sizes: bool,
    /// Whether peers with the same address are scored down.
    pub(crate) colocation: bool,
    /// Whether nodes that say IDONTWANT are compared with those that do not.
    pub(crate) compares: bool,
}

/// When Sybils join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// There are none.
    Never,
    /// Before the honest nodes know each other.
    First,
    /// Together with them.
    Together,
    /// When the honest network stands, before the messages that count.
    Covertly,
    /// At the moment of the attack.
    ForAttack,
}

/// Whom Sybils dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victims {
    /// As many honest nodes as the parameter `sybil_degree` says.
    Many,
    /// All honest nodes.
    All,
    /// The target alone.
    Target,
}

/// What a Sybil does with the messages of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// It passes all on, as an honest node.
    Honest,
    /// It drops all.
    Silent,
    /// It drops a share, the parameter `sybil_degrade`.
    Degraded,
    /// It drops what the target sends.
    Censoring,
}

impl Scenario {
    const PEACE: Self = Self {
        sybils_join: Join::Never,
        victims: Victims::Many,
        before: Conduct::Honest,
        after: Conduct::Honest,
        churn: false,
        sizes: false,
        colocation: false,
        compares: false,
    };

    /// The case with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        use Conduct::{Censoring, Degraded, Silent};
        let silent = Self { before: Silent, after: Silent, ..Self::PEACE };
        Some(match name {
            "baseline" => Self::PEACE,
            "mixed-versions" => Self { compares: true, ..Self::PEACE },
            "large-messages" => Self { sizes: true, ..Self::PEACE },
            "churn" => Self { churn: true, ..Self::PEACE },
            "cold-boot" => Self { sybils_join: Join::Together, ..silent },
            "dawn" => Self { sybils_join: Join::First, ..silent },
            "covert-flash" => Self { sybils_join: Join::Covertly, after: Silent, ..Self::PEACE },
            "eclipse-net" => Self { sybils_join: Join::ForAttack, victims: Victims::All, ..silent },
            "eclipse-target" => {
                Self { sybils_join: Join::ForAttack, victims: Victims::Target, ..silent }
            }
            "censor-target" => {
                Self { sybils_join: Join::Covertly, after: Censoring, ..Self::PEACE }
            }
            "degrade" => Self { sybils_join: Join::Covertly, after: Degraded, ..Self::PEACE },
            "ip-colocation" => {
                Self { sybils_join: Join::Covertly, colocation: true, ..Self::PEACE }
            }
            _ => return None,
        })
    }

    /// Whether Sybils take part.
    pub(crate) fn has_sybils(self) -> bool {
        self.sybils_join != Join::Never
    }

    /// Whether one node is meant in particular.
    pub(crate) fn target(self) -> Option<Target> {
        if self.victims == Victims::Target {
            Some(Target::FirstLurker)
        } else if self.after == Conduct::Censoring {
            Some(Target::FirstPublisher)
        } else {
            None
        }
    }

    /// Whether the Sybils drop messages at some time.
    pub(crate) fn drops(self) -> bool {
        self.after != Conduct::Honest
    }
}

/// Which node an attack is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// One that listens.
    FirstLurker,
    /// One that publishes.
    FirstPublisher,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_case_and_no_other() {
        for name in NAMES {
            assert!(Scenario::named(name).is_some(), "{name}");
        }
        assert_eq!(Scenario::named("nothing"), None);
    }

    #[test]
    fn the_target_is_who_the_attack_is_about() {
        let target = |name| Scenario::named(name).unwrap().target();
        assert_eq!(target("eclipse-target"), Some(Target::FirstLurker));
        assert_eq!(target("censor-target"), Some(Target::FirstPublisher));
        assert_eq!(target("eclipse-net"), None);
    }

    #[test]
    fn sybils_that_only_crowd_an_address_drop_nothing() {
        let scenario = Scenario::named("ip-colocation").unwrap();
        assert!(scenario.has_sybils() && !scenario.drops());
        assert!(Scenario::named("degrade").unwrap().drops());
    }
}
