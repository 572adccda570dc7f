//! What a listener may want to know.

use std::fmt;
use std::str::FromStr;

use groundswell_common::ids::RunId;

use crate::http::failure::Failure;

/// What is told on one channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// Runs that are new or have changed.
    Runs,
    /// The workers.
    Workers,
    /// The queue.
    Queue,
    /// One run and its events.
    Run(Selector),
    /// Where the instances of one run are.
    Grid(Selector),
    /// What instances of one run print.
    Logs(Selector, Option<String>, Option<u32>),
}

/// A run: as it was asked for, then its id.
pub(super) type Selector = String;

impl Topic {
    /// How the run was asked for, when it is about one.
    pub(super) fn selector(&self) -> Option<Selector> {
        match self {
            Self::Runs | Self::Workers | Self::Queue => None,
            Self::Run(run) | Self::Grid(run) | Self::Logs(run, _, _) => Some(run.clone()),
        }
    }

    /// Takes the run that was meant.
    pub(super) fn is_about(&mut self, id: &RunId) {
        match self {
            Self::Runs | Self::Workers | Self::Queue => {}
            Self::Run(run) | Self::Grid(run) | Self::Logs(run, _, _) => *run = id.to_string(),
        }
    }
}

impl FromStr for Topic {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let help = "runs, workers, queue, run:<run>, grid:<run>, logs:<run>, logs:<run>:<group>, \
                    logs:<run>:<group>:<n>";
        let wrong = || Failure::invalid(&format!("`{text}` is no topic"), help);
        let parts: Vec<&str> = text.split(':').collect();
        match *parts {
            ["runs"] => Ok(Self::Runs),
            ["workers"] => Ok(Self::Workers),
            ["queue"] => Ok(Self::Queue),
            ["run", run] => Ok(Self::Run(run.to_owned())),
            ["grid", run] => Ok(Self::Grid(run.to_owned())),
            ["logs", run] => Ok(Self::Logs(run.to_owned(), None, None)),
            ["logs", run, group] => Ok(Self::Logs(run.to_owned(), Some(group.to_owned()), None)),
            ["logs", run, group, number] => {
                let number = number.parse().map_err(|_| wrong())?;
                Ok(Self::Logs(run.to_owned(), Some(group.to_owned()), Some(number)))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs => f.write_str("runs"),
            Self::Workers => f.write_str("workers"),
            Self::Queue => f.write_str("queue"),
            Self::Run(run) => write!(f, "run:{run}"),
            Self::Grid(run) => write!(f, "grid:{run}"),
            Self::Logs(run, group, number) => {
                write!(f, "logs:{run}")?;
                group.iter().try_for_each(|group| write!(f, ":{group}"))?;
                number.iter().try_for_each(|number| write!(f, ":{number}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_written_as_they_are_read() {
        for text in
            ["runs", "workers", "queue", "run:latest", "grid:a", "logs:a", "logs:a:b", "logs:a:b:3"]
        {
            let topic: Topic = text.parse().expect("a topic");
            assert_eq!(topic.to_string(), text);
        }
        for text in ["", "run", "runs:a", "logs:a:b:c", "grid:a:b"] {
            assert!(text.parse::<Topic>().is_err(), "{text}");
        }
    }
}
