//! The flags of `compare`, `baseline` and `trend`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use groundswell_common::compare::Correction;
use groundswell_common::kpi::Stat;
use regex::Regex;

use crate::cli::args::Format;

/// What a side can be, for the help of every command that takes one.
const SIDES: &str = "A side is a list with commas of: a run (any unique prefix of its id or name, `latest`), \
    `@NAME` (a baseline), `branch:NAME`, `commit:PREFIX`, `label:KEY=VALUE`. The last three mean the newest runs that \
    are over, as many as --last says.";

#[derive(Debug, clap::Args)]
#[command(after_help = SIDES)]
pub(crate) struct Compare {
    /// The side that changes are told from
    #[arg(value_name = "A")]
    pub(crate) a: String,
    /// The sides that are compared with it, one after the other
    #[arg(value_name = "B", required_unless_present = "groups")]
    pub(crate) b: Vec<String>,
    #[command(flatten)]
    pub(crate) of: Of,
    /// What is compared: runs, or two groups of the same runs
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub(crate) by: By,
    /// With --by group: which two groups
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1, conflicts_with = "b")]
    pub(crate) groups: Vec<String>,
    /// Only KPIs whose NAME.STAT has a match for this regular expression; fewer KPIs need fewer runs
    #[arg(long, alias = "metric", value_name = "RE")]
    pub(crate) kpi: Option<Regex>,
    /// Which statistics of each KPI stand for a run
    #[arg(long, value_name = "STAT,…", value_delimiter = ',', default_value = "p50", value_parser = stat)]
    pub(crate) stat: Vec<Stat>,
    /// A smaller change does not matter: 3% or 0.03
    #[arg(long, value_name = "SHARE", default_value = "3%", value_parser = share)]
    pub(crate) min_effect: f64,
    /// How often a change may be found where there is none
    #[arg(long, value_name = "P", default_value = "0.05", value_parser = probability)]
    pub(crate) alpha: f64,
    /// How p-values are corrected for the number of KPIs that have a good direction
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(crate) correct: CorrectionName,
    /// The first run of A belongs to the first of B, and so on, as when they ran in turn
    #[arg(long)]
    pub(crate) paired: bool,
    /// What the exit code tells: 12 for a regression, 13 where nothing can be told
    #[arg(
        long,
        value_enum,
        value_name = "WHAT,…",
        value_delimiter = ',',
        default_value = "regression"
    )]
    pub(crate) fail_on: Vec<FailOn>,
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ReportFormat,
    /// Print into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

impl Compare {
    /// What a submit compares at its end, with the rules that hold unless one says otherwise.
    pub(crate) fn of_submit(a: String, b: String, paired: bool, fail_on: Vec<FailOn>) -> Self {
        Self {
            a,
            b: vec![b],
            of: Of { plan: None, case: None, last: 10 },
            by: By::Run,
            groups: Vec::new(),
            kpi: None,
            stat: vec![Stat::P50],
            min_effect: 0.03,
            alpha: 0.05,
            correct: CorrectionName::Holm,
            paired,
            fail_on,
            format: ReportFormat::Text,
            out: None,
        }
    }
}

/// Which runs are meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Of {
    /// Only runs of this plan
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    /// Only runs of this case
    #[arg(long, value_name = "NAME")]
    pub(crate) case: Option<String>,
    /// How many runs `branch:`, `commit:` and `label:` mean
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) last: u16,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum By {
    #[default]
    Run,
    Group,
}

/// How p-values are corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum CorrectionName {
    /// No false alarm at all, but for a share of alpha
    #[default]
    Holm,
    /// Benjamini and Hochberg: of the alarms, a share of alpha is false
    Bh,
    /// Not at all
    None,
}

impl From<CorrectionName> for Correction {
    fn from(name: CorrectionName) -> Self {
        match name {
            CorrectionName::Holm => Self::Holm,
            CorrectionName::Bh => Self::Bh,
            CorrectionName::None => Self::None,
        }
    }
}

/// What makes a comparison fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    Regression,
    Inconclusive,
    None,
}

/// How a comparison is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ReportFormat {
    #[default]
    Text,
    Md,
    Json,
    Html,
    Junit,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaselineCommand {
    /// Keep runs under a name; a baseline of that name is replaced
    #[command(after_help = SIDES)]
    Set {
        /// Its name: it is `@NAME` in comparisons
        name: String,
        /// Its runs
        #[arg(value_name = "RUN", required = true)]
        runs: Vec<String>,
        #[command(flatten)]
        of: Of,
        /// Take runs that cannot be trusted, too
        #[arg(long)]
        force: bool,
    },
    /// Show the runs of a baseline
    Show {
        /// Its name
        name: String,
        /// How it is printed
        #[arg(short = 'o', long, value_enum, default_value_t)]
        format: Format,
    },
    /// List baselines
    Ls {
        /// How the list is printed
        #[arg(short = 'o', long, value_enum, default_value_t)]
        format: Format,
    },
    /// Forget a baseline; its runs stay
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trend {
    /// The KPI
    #[arg(value_name = "KPI")]
    pub(crate) kpi: String,
    /// Only runs of this plan
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    /// Only runs of this case
    #[arg(long, value_name = "NAME")]
    pub(crate) case: Option<String>,
    /// Only runs of this branch
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// How many of the newest runs
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) last: u16,
    /// Which statistic of the KPI stands for a run
    #[arg(long, value_name = "STAT", default_value = "p50", value_parser = stat)]
    pub(crate) stat: Stat,
    /// Find where it changed for good; takes twenty runs
    #[arg(long)]
    pub(crate) changepoints: bool,
    /// How it is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

fn stat(text: &str) -> Result<Stat, String> {
    let found = Stat::ALL.into_iter().find(|stat| stat.as_str() == text);
    found.ok_or_else(|| format!("there are {}", Stat::ALL.map(Stat::as_str).join(", ")))
}

/// A share of one: `3%` or `0.03`.
fn share(text: &str) -> Result<f64, String> {
    let (number, factor) =
        text.trim().strip_suffix('%').map_or((text, 1.0), |percent| (percent, 0.01));
    let share = number.trim().parse::<f64>().ok().map(|number| number * factor);
    share.filter(|share| (0.0..10.0).contains(share)).ok_or_else(|| "write 3% or 0.03".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|p| *p > 0.0 && *p < 0.5)
        .ok_or_else(|| "write a number below a half, such as 0.05".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_or_per_cent() {
        assert_eq!(
            [share("3%"), share("0.5 %"), share("0.03")].map(Result::unwrap),
            [0.03, 0.005, 0.03]
        );
        assert!(["", "x%", "-1%", "NaN", "inf"].iter().all(|wrong| share(wrong).is_err()));
        assert!(
            probability("0.05").is_ok() && probability("0").is_err() && probability("0.9").is_err()
        );
        assert_eq!(stat("p95"), Ok(Stat::P95));
        assert!(stat("p42").is_err());
    }
}
