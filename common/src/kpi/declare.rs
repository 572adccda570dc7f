//! What a plan declares of its KPIs, and what is expected of them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A KPI that a case reports.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KpiSpec {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Which direction is the good one, if any is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// What it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub desc: String,
}

/// Which direction of a KPI is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The less the better.
    Lower,
    /// The more the better.
    Higher,
}

/// A number that stands for all values of a KPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// How many values there are.
    Count,
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// Half of them are not greater.
    P50,
    /// Nine of ten are not greater.
    P90,
    /// 95 of 100 are not greater.
    P95,
    /// 99 of 100 are not greater.
    P99,
}

impl Stat {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Count,
        Self::Sum,
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::P50,
        Self::P90,
        Self::P95,
        Self::P99,
    ];

    /// The word used in every file and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }
}

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Not greater.
    #[serde(rename = "<=")]
    AtMost,
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Not less.
    #[serde(rename = ">=")]
    AtLeast,
    /// The same.
    #[serde(rename = "==")]
    Equal,
    /// Another one.
    #[serde(rename = "!=")]
    Unequal,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Less, Self::AtMost, Self::Greater, Self::AtLeast, Self::Equal, Self::Unequal];

    /// How it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::Equal => "==",
            Self::Unequal => "!=",
        }
    }

    /// Whether `got` is as `wanted` says.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "whoever writes `==` means counts")]
    pub fn holds(self, got: f64, wanted: f64) -> bool {
        match self {
            Self::Less => got < wanted,
            Self::AtMost => got <= wanted,
            Self::Greater => got > wanted,
            Self::AtLeast => got >= wanted,
            Self::Equal => got == wanted,
            Self::Unequal => got != wanted,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose values an expectation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Those of all instances together.
    Run,
    /// Those of one group.
    Group(String),
    /// Those of each group, each for itself.
    EachGroup,
}

/// What a number is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// An amount.
    Amount {
        /// The number.
        value: f64,
        /// Its unit; empty for that of the KPI.
        unit: String,
    },
    /// The value of a parameter of the case.
    Param(String),
}

/// What is expected of a KPI.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Its name; a composition refers to it.
    pub name: String,
    /// The KPI.
    pub kpi: String,
    /// What of it.
    pub stat: Stat,
    /// The KPI it is divided by, both as `stat` says.
    pub per: Option<String>,
    /// How it is compared.
    pub op: Op,
    /// With what.
    pub value: Wanted,
    /// Whose values.
    pub scope: Scope,
    /// Only values with these tags.
    pub tags: BTreeMap<String, String>,
    /// It holds only where these parameters have these values.
    pub only_if: BTreeMap<String, String>,
    /// Where it stands in its file.
    pub(crate) span: Range<usize>,
}
