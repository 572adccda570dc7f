//! What searchers found, compared over the whole run by one instance.

use std::collections::BTreeMap;

use groundswell_sdk::{Ctx, Result};
use serde::{Deserialize, Serialize};

/// The searches of one instance for records of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// What the searches have in common: a pair of groups, a client mode.
    pub(crate) kind: String,
    /// How many there were.
    pub(crate) count: u32,
    /// Their sum.
    pub(crate) sum: f64,
}

/// The means of all values by kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Means(BTreeMap<String, (u32, f64)>);

impl Means {
    /// Takes one value.
    pub(crate) fn add(&mut self, kind: &str, value: f64) {
        self.take(Part { kind: kind.to_owned(), count: 1, sum: value });
    }

    fn take(&mut self, part: Part) {
        let entry = self.0.entry(part.kind).or_default();
        entry.0 += part.count;
        entry.1 += part.sum;
    }

    /// The mean of one kind.
    pub(crate) fn of(&self, kind: &str) -> Option<f64> {
        self.0.get(kind).map(|(count, sum)| sum / f64::from(*count))
    }

    /// The largest mean.
    pub(crate) fn largest(&self) -> Option<f64> {
        let means = self.0.values().map(|(count, sum)| sum / f64::from(*count));
        means.reduce(f64::max)
    }

    fn parts(&self) -> Vec<Part> {
        let part = |(kind, (count, sum)): (&String, &(u32, f64))| Part {
            kind: kind.clone(),
            count: *count,
            sum: *sum,
        };
        self.0.iter().map(part).collect()
    }
}

/// Gives the first instance everybody's values; the others get nothing. All
/// `senders` call it with values, and the first one in any case.
pub(crate) async fn gather(
    cx: &Ctx,
    topic: &str,
    own: Option<&Means>,
    senders: usize,
) -> Result<Option<Means>> {
    if let Some(own) = own {
        cx.publish(topic, &own.parts()).await?;
    }
    if cx.index() != 0 {
        return Ok(None);
    }
    let mut told = cx.subscribe::<Vec<Part>>(topic).await?;
    let mut all = Means::default();
    for _ in 0..senders {
        for part in told.next().await? {
            all.take(part);
        }
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_all_values_and_not_of_means() {
        let mut one = Means::default();
        for value in [1.0, 2.0, 3.0] {
            one.add("a", value);
        }
        let mut two = Means::default();
        two.add("a", 6.0);
        two.add("b", 5.0);
        for part in two.parts() {
            one.take(part);
        }
        assert_eq!(one.of("a"), Some(3.0));
        assert_eq!(one.largest(), Some(5.0));
        assert_eq!(one.of("c"), None);
    }
}
