//! Which versions of rust-libp2p a node can run.

use std::fmt;
use std::str::FromStr;

/// A version of rust-libp2p.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// rust-libp2p 0.53, of the year 2023.
    #[cfg(feature = "libp2p-0_53")]
    V0_53,
    /// rust-libp2p 0.56, of the year 2025.
    #[cfg(feature = "libp2p-0_56")]
    V0_56,
    /// rust-libp2p 0.57.
    #[cfg(feature = "libp2p-0_57")]
    V0_57,
}

/// A version that is unknown or not compiled in.
#[derive(Debug, thiserror::Error)]
#[error("no version `{0}` of rust-libp2p in this build; it has {names}", names = Version::names())]
pub struct UnknownVersion(String);

impl Version {
    /// The versions of this build, oldest first.
    pub const ALL: &[Self] = &[
        #[cfg(feature = "libp2p-0_53")]
        Self::V0_53,
        #[cfg(feature = "libp2p-0_56")]
        Self::V0_56,
        #[cfg(feature = "libp2p-0_57")]
        Self::V0_57,
    ];

    /// The oldest version of this build: what a group gets that asks for an
    /// older one by a selector.
    #[must_use]
    pub fn oldest() -> Self {
        Self::ALL[0]
    }

    /// The name, as in `libp2p-0_57`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "libp2p-0_53")]
            Self::V0_53 => "libp2p-0_53",
            #[cfg(feature = "libp2p-0_56")]
            Self::V0_56 => "libp2p-0_56",
            #[cfg(feature = "libp2p-0_57")]
            Self::V0_57 => "libp2p-0_57",
        }
    }

    fn names() -> String {
        let names: Vec<_> = Self::ALL.iter().map(|version| version.name()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let found = Self::ALL.iter().find(|version| version.name() == text);
        found.copied().ok_or_else(|| UnknownVersion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_as_the_selectors_that_ask_for_them() {
        for version in Version::ALL {
            assert_eq!(version.name().parse::<Version>().unwrap(), *version);
        }
        let err = "libp2p-0_1".parse::<Version>().unwrap_err().to_string();
        assert!(err.contains("`libp2p-0_1`") && err.contains(Version::oldest().name()), "{err}");
    }
}
