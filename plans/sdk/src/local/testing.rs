//! Runs a case with all its instances as tasks of one process, so that a plan's tests are ordinary tests.
//!
//! ```
//! use groundswell_sdk::prelude::*;
//! use groundswell_sdk::testing::Local;
//!
//! async fn meet(cx: Ctx) -> Result {
//!     let all = cx.exchange("names", &cx.index().to_string()).await?;
//!     ensure!(all.len() == 3, "{} came", all.len());
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // In a plan this stands in a `#[tokio::test]`.
//! Local::new(3).run(meet).await.assert_success();
//! # }
//! ```

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;

use super::service::Service;
use crate::context::Ctx;
use crate::env::RunEnv;
use crate::instance::{self, Options};
use crate::outcome::{Outcome, Result};
use crate::panics;
use crate::params::Params;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A run of a case on this machine.
#[derive(Debug, Clone)]
pub struct Local {
    groups: Vec<(String, u32)>,
    params: Params,
    outputs: Option<PathBuf>,
    unshaped: bool,
    limit: Duration,
}

impl Local {
    /// A run with so many instances in one group, `single`.
    #[must_use]
    pub fn new(instances: u32) -> Self {
        Self {
            groups: vec![("single".to_owned(), instances)],
            params: Params::default(),
            outputs: None,
            unshaped: false,
            limit: LIMIT,
        }
    }

    /// A run with groups.
    #[must_use]
    pub fn groups(groups: &[(&str, u32)]) -> Self {
        let groups = groups.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
        Self { groups, ..Self::new(0) }
    }

    /// Sets a parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.params.set(name, &value.to_string());
        self
    }

    /// Gives every instance a directory for results, `DIR/<its number>`.
    #[must_use]
    pub fn outputs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.outputs = Some(dir.into());
        self
    }

    /// Lets network configurations pass in vain. Without it they are errors, as nobody carries them out.
    #[must_use]
    pub fn unshaped(mut self) -> Self {
        self.unshaped = true;
        self
    }

    /// How long the run may take, after which its instances are stopped. A minute, if nothing is said.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs a case and returns how its instances ended, in their order.
    ///
    /// # Panics
    /// When this machine has no port for the sync service, or no room for the outputs.
    pub async fn run<F, Fut>(self, function: F) -> Outcomes
    where
        F: Fn(Ctx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        panics::note();
        let service = Service::start().await.expect("a free port on this machine");
        let case = instance::case(function);
        let options = Options { unshaped: self.unshaped, quiet: true };
        let mut tasks = JoinSet::new();
        for vars in self.vars(service.port()) {
            let env = RunEnv::from_vars(vars).expect("an environment that was just made");
            if let Some(dir) = &env.outputs {
                std::fs::create_dir_all(dir).expect("a directory for the outputs");
            }
            let (case, limit) = (case.clone(), self.limit);
            tasks.spawn(async move {
                let index = env.index;
                let stop = tokio::time::sleep(limit);
                (index, instance::live(env, Some(case), options, stop).await)
            });
        }
        let mut outcomes = tasks.join_all().await;
        outcomes.sort_by_key(|(index, _)| *index);
        Outcomes(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    fn vars(&self, port: u16) -> Vec<Vec<(String, String)>> {
        let run =
            RunVars { run: "local", plan: "local", case: "local", port, params: &self.params };
        run.instances(&self.groups, self.outputs.as_deref())
    }
}

/// How the instances of a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes(pub Vec<Outcome>);

impl Outcomes {
    /// Panics unless every instance succeeded.
    ///
    /// # Panics
    /// When one did not; the message tells of each that did not.
    pub fn assert_success(&self) {
        let all = self.0.iter().enumerate();
        let bad: Vec<String> = all
            .filter(|(_, outcome)| !outcome.is_success())
            .map(|(index, outcome)| format!("instance {index}: {outcome:?}"))
            .collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    }
}

/// What all instances of a run on this machine have in common.
pub(super) struct RunVars<'a> {
    pub(super) run: &'a str,
    pub(super) plan: &'a str,
    pub(super) case: &'a str,
    pub(super) port: u16,
    pub(super) params: &'a Params,
}

impl RunVars<'_> {
    /// The environment of every instance.
    pub(super) fn instances(
        &self,
        groups: &[(String, u32)],
        outputs: Option<&std::path::Path>,
    ) -> Vec<Vec<(String, String)>> {
        let total: u32 = groups.iter().map(|(_, count)| count).sum();
        let mut all = Vec::new();
        for (group, count) in groups {
            for in_group in 0..*count {
                let index = all.len().to_string();
                let mut vars = self.common();
                let mut set = |key: &str, value: String| vars.push((key.to_owned(), value));
                set("TEST_INSTANCE_COUNT", total.to_string());
                set("TEST_GROUP_ID", group.clone());
                set("TEST_GROUP_INSTANCE_COUNT", count.to_string());
                set("GROUNDSWELL_GROUP_INSTANCE", in_group.to_string());
                set("HOSTNAME", format!("i{index}-{}", self.run));
                if let Some(dir) = outputs {
                    set("TEST_OUTPUTS_PATH", dir.join(&index).display().to_string());
                }
                set("GROUNDSWELL_INSTANCE", index);
                all.push(vars);
            }
        }
        all
    }

    fn common(&self) -> Vec<(String, String)> {
        let pairs = [
            ("TEST_PLAN", self.plan.to_owned()),
            ("TEST_CASE", self.case.to_owned()),
            ("TEST_RUN", self.run.to_owned()),
            ("TEST_INSTANCE_PARAMS", self.params.pack()),
            ("TEST_SIDECAR", "false".to_owned()),
            ("TEST_SUBNET", "127.77.0.0/16".to_owned()),
            ("SYNC_SERVICE_HOST", "127.0.0.1".to_owned()),
            ("SYNC_SERVICE_PORT", self.port.to_string()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}
