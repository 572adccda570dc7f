//! The order of the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use groundswell_common::ids::RunId;
use groundswell_common::queue::Priority;

use super::{Owner, View, Waiting};

/// What each team and each user has had and is promised, in instance-seconds.
struct Scores<'a> {
    view: &'a View<'a>,
    teams: BTreeMap<&'a str, f64>,
    users: BTreeMap<&'a Owner, f64>,
}

impl<'a> Scores<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let mut scores = Self { view, teams: BTreeMap::new(), users: BTreeMap::new() };
        for waiting in view.waiting {
            let owner = &waiting.owner;
            scores.teams.entry(&owner.team).or_insert_with(|| view.usage.of_team(&owner.team));
            scores.users.entry(owner).or_insert_with(|| view.usage.of_user(owner));
        }
        // What runs is not used yet, but it is given away.
        for holding in view.holding {
            let left = Duration::from_millis(holding.until_ms.saturating_sub(view.now_ms));
            scores.charge(&holding.owner, holding.instances, left);
        }
        scores
    }

    fn charge(&mut self, owner: &Owner, instances: u32, time: Duration) {
        let promised = f64::from(instances) * time.as_secs_f64();
        if let Some(team) = self.teams.get_mut(owner.team.as_str()) {
            *team += promised;
        }
        if let Some(user) = self.users.get_mut(owner) {
            *user += promised;
        }
    }

    /// What a team has beside its weight.
    fn of_team(&self, team: &str) -> f64 {
        let has = self.teams.get(team).copied().unwrap_or(0.0);
        has / f64::from(self.view.policy.team(team).weight.max(1))
    }

    fn of_user(&self, owner: &Owner) -> f64 {
        self.users.get(owner).copied().unwrap_or(0.0)
    }

    /// The run that goes first, of those of one team.
    fn first(&self, of_team: &[&Waiting]) -> Option<usize> {
        (0..of_team.len()).min_by(|a, b| {
            let (a, b) = (of_team[*a], of_team[*b]);
            let by_user = self.of_user(&a.owner).total_cmp(&self.of_user(&b.owner));
            by_user.then_with(|| age(a).cmp(&age(b)))
        })
    }
}

/// The older one is less.
fn age(waiting: &Waiting) -> (u64, &RunId) {
    (waiting.since_ms, &waiting.run)
}

/// Every waiting run, the first one first.
pub(super) fn order<'a>(view: &'a View<'a>) -> Vec<&'a Waiting> {
    let mut ranks: BTreeMap<i64, BTreeMap<&str, Vec<&Waiting>>> = BTreeMap::new();
    for waiting in view.waiting {
        let teams = ranks.entry(rank(waiting, view)).or_default();
        teams.entry(&waiting.owner.team).or_default().push(waiting);
    }
    let mut scores = Scores::new(view);
    let mut order = Vec::with_capacity(view.waiting.len());
    for mut teams in ranks.into_values() {
        while let Some(of_team) = next_team(&mut teams, &scores) {
            let Some(first) = scores.first(of_team) else { break };
            let waiting = of_team.swap_remove(first);
            // The next one of the same team comes after those of teams that have less with this one counted.
            scores.charge(&waiting.owner, waiting.gang.instances(), waiting.hold);
            order.push(waiting);
            teams.retain(|_, left| !left.is_empty());
        }
    }
    order
}

/// The team that had the least; of several, the one whose oldest run is the oldest.
fn next_team<'t, 'a>(
    teams: &'t mut BTreeMap<&'a str, Vec<&'a Waiting>>,
    scores: &Scores<'a>,
) -> Option<&'t mut Vec<&'a Waiting>> {
    let oldest = |left: &[&'a Waiting]| left.iter().map(|one| age(one)).min();
    let least = teams.iter_mut().min_by(|(a, of_a), (b, of_b)| {
        let by_score = scores.of_team(a).total_cmp(&scores.of_team(b));
        by_score.then_with(|| oldest(of_a).cmp(&oldest(of_b)))
    });
    least.map(|(_, left)| left)
}

/// The class, less one for each time that it has waited as long as aging takes. It has no lowest value, so that a run
/// that has waited long goes before everything that is still to come.
fn rank(waiting: &Waiting, view: &View<'_>) -> i64 {
    let class = match waiting.priority {
        Priority::Interactive => 0,
        Priority::Normal => 1,
        Priority::Batch => 2,
    };
    let aging = view.policy.aging.as_millis();
    let waited = u128::from(view.now_ms.saturating_sub(waiting.since_ms));
    let steps = waited.checked_div(aging).unwrap_or(0);
    class - i64::try_from(steps).unwrap_or(i64::MAX / 2)
}
