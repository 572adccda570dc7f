//! What the platform tells an instance about its run: the `TEST_*` variables.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::params::Params;

/// Where the sync service is when nothing else is said.
const SYNC_HOST: &str = "testground-sync-service";
const SYNC_PORT: u16 = 5050;
/// The seed when neither the plan nor the platform has one.
const DEFAULT_SEED: u64 = 42;

/// A variable that is missing or makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// It has to be there.
    #[error("the variable `{0}` is not set; start the plan with Groundswell, or with `--local N`")]
    Missing(&'static str),
    /// It is something else than it should be.
    #[error("the variable `{name}` is `{value}`, which is not {wanted}")]
    Wrong {
        /// Which.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// The run an instance is part of, and its place in it.
#[derive(Debug, Clone)]
pub struct RunEnv {
    /// The plan's name.
    pub plan: String,
    /// The case's name.
    pub case: String,
    /// The run's id.
    pub run: String,
    /// Instances in the whole run.
    pub instances: u32,
    /// The group's id.
    pub group: String,
    /// Instances in the group.
    pub group_instances: u32,
    /// `TEST_INSTANCE_ROLE`; platforms leave it empty.
    pub role: String,
    /// The parameters.
    pub params: Params,
    /// Whether somebody carries out network configurations.
    pub sidecar: bool,
    /// The data network as an instance sees it.
    pub subnet: Option<Subnet>,
    /// The run's network, which is another one behind a NAT.
    pub run_subnet: Option<Subnet>,
    /// When the run began, as RFC 3339.
    pub start_time: String,
    /// Where results go.
    pub outputs: Option<PathBuf>,
    /// Where scratch files go.
    pub temp: PathBuf,
    /// The name by which the platform knows the instance.
    pub hostname: String,
    /// The sync service's host and port.
    pub sync: (String, u16),
    /// The instance's number in the run from 0, where the platform tells it.
    pub index: Option<u32>,
    /// Its number in the group from 0, where the platform tells it.
    pub group_index: Option<u32>,
    /// How often the instance has been started before.
    pub incarnation: u32,
    /// What all randomness of the run comes from.
    pub seed: u64,
}

impl RunEnv {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// When one of the six variables that have to be there is missing, or one makes no sense.
    pub fn from_process() -> Result<Self, EnvError> {
        Self::from_vars(
            std::env::vars_os().filter_map(|(key, value)| {
                Some((key.into_string().ok()?, value.into_string().ok()?))
            }),
        )
    }

    /// Reads an environment given as pairs.
    ///
    /// # Errors
    /// As [`RunEnv::from_process`].
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, EnvError> {
        let vars = Vars(vars.into_iter().collect());
        let mut params = Params::unpack(vars.text("TEST_INSTANCE_PARAMS"));
        let seed: u64 = match params.get("seed").filter(|text| *text != "null") {
            Some(text) => parse("TEST_INSTANCE_PARAMS", text, "with a whole number as `seed`")?,
            None => vars.optional("GROUNDSWELL_SEED", NUMBER)?.unwrap_or(DEFAULT_SEED),
        };
        params.set("seed", &seed.to_string());
        Ok(Self {
            plan: vars.needed("TEST_PLAN")?,
            case: vars.needed("TEST_CASE")?,
            run: vars.needed("TEST_RUN")?,
            instances: vars.number("TEST_INSTANCE_COUNT")?,
            group: vars.needed("TEST_GROUP_ID")?,
            group_instances: vars.number("TEST_GROUP_INSTANCE_COUNT")?,
            role: vars.text("TEST_INSTANCE_ROLE").to_owned(),
            sidecar: vars.text("TEST_SIDECAR") == "true",
            subnet: vars.optional("TEST_SUBNET", SUBNET)?,
            run_subnet: match vars.optional("GROUNDSWELL_RUN_SUBNET", SUBNET)? {
                Some(subnet) => Some(subnet),
                None => vars.optional("TEST_SUBNET", SUBNET)?,
            },
            start_time: vars.text("TEST_START_TIME").to_owned(),
            outputs: vars.path("TEST_OUTPUTS_PATH"),
            temp: vars.path("TEST_TEMP_PATH").unwrap_or_else(std::env::temp_dir),
            hostname: vars.hostname(),
            sync: (
                vars.given("SYNC_SERVICE_HOST").unwrap_or(SYNC_HOST).to_owned(),
                vars.optional("SYNC_SERVICE_PORT", "a port")?.unwrap_or(SYNC_PORT),
            ),
            index: vars.optional("GROUNDSWELL_INSTANCE", NUMBER)?,
            group_index: vars.optional("GROUNDSWELL_GROUP_INSTANCE", NUMBER)?,
            incarnation: vars.optional("GROUNDSWELL_INCARNATION", NUMBER)?.unwrap_or(0),
            seed,
            params,
        })
    }

    /// What every name in the sync begins with.
    pub(crate) fn prefix(&self) -> String {
        format!("run:{}:plan:{}:case:{}:", self.run, self.plan, self.case)
    }
}

const NUMBER: &str = "a whole number";
const SUBNET: &str = "an IPv4 network such as `16.3.0.0/16`";

struct Vars(BTreeMap<String, String>);

impl Vars {
    fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn text(&self, name: &str) -> &str {
        self.given(name).unwrap_or_default()
    }

    fn needed(&self, name: &'static str) -> Result<String, EnvError> {
        self.given(name).map(str::to_owned).ok_or(EnvError::Missing(name))
    }

    fn number(&self, name: &'static str) -> Result<u32, EnvError> {
        parse(name, self.given(name).ok_or(EnvError::Missing(name))?, NUMBER)
    }

    fn optional<T: FromStr>(
        &self,
        name: &'static str,
        wanted: &'static str,
    ) -> Result<Option<T>, EnvError> {
        self.given(name).map(|text| parse(name, text, wanted)).transpose()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.given(name).map(PathBuf::from)
    }

    fn hostname(&self) -> String {
        let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        self.given("HOSTNAME").map_or_else(|| kernel().trim().to_owned(), str::to_owned)
    }
}

fn parse<T: FromStr>(name: &'static str, text: &str, wanted: &'static str) -> Result<T, EnvError> {
    text.parse().map_err(|_| EnvError::Wrong { name, value: text.to_owned(), wanted })
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// An address in it.
    pub address: Ipv4Addr,
    /// How many bits of it name the network.
    pub prefix: u8,
}

impl Subnet {
    /// Whether an address is in the network.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        u32::from(self.address) & mask == u32::from(address) & mask
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let prefix = prefix.parse().ok().filter(|bits| *bits <= 32).ok_or(())?;
        Ok(Self { address: address.parse().map_err(|_| ())?, prefix })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn six() -> Vec<(String, String)> {
        [
            ("TEST_PLAN", "p"),
            ("TEST_CASE", "c"),
            ("TEST_RUN", "r"),
            ("TEST_INSTANCE_COUNT", "3"),
            ("TEST_GROUP_ID", "g"),
            ("TEST_GROUP_INSTANCE_COUNT", "2"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn with(key: &str, value: &str) -> Result<RunEnv, EnvError> {
        RunEnv::from_vars(six().into_iter().chain([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn six_variables_are_enough_and_each_of_them_is_needed() {
        let env = RunEnv::from_vars(six()).unwrap();
        assert_eq!((env.instances, env.group_instances, env.seed), (3, 2, 42));
        assert_eq!(env.sync, ("testground-sync-service".to_owned(), 5050));
        assert_eq!(env.prefix(), "run:r:plan:p:case:c:");
        for (missing, _) in six() {
            let vars = six().into_iter().filter(|(key, _)| *key != missing);
            let err = RunEnv::from_vars(vars).unwrap_err().to_string();
            assert!(err.contains(&format!("`{missing}`")), "{err}");
        }
    }

    #[test]
    fn a_wrong_variable_is_named_with_its_value() {
        let err = with("TEST_INSTANCE_COUNT", "many").unwrap_err().to_string();
        assert_eq!(
            err,
            "the variable `TEST_INSTANCE_COUNT` is `many`, which is not a whole number"
        );
        let err = with("TEST_SUBNET", "16.0.0.0").unwrap_err().to_string();
        assert!(err.contains("`16.0.0.0`, which is not an IPv4 network"), "{err}");
    }

    #[test]
    fn the_seed_of_the_plan_wins_over_that_of_the_platform() {
        let of_platform = with("GROUNDSWELL_SEED", "7").unwrap();
        assert_eq!((of_platform.seed, of_platform.params.get("seed")), (7, Some("7")));
        let both = [("GROUNDSWELL_SEED", "7"), ("TEST_INSTANCE_PARAMS", "seed=9|a=b")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(RunEnv::from_vars(six().into_iter().chain(both)).unwrap().seed, 9);
    }

    #[test]
    fn a_network_contains_its_addresses() {
        let subnet: Subnet = "16.3.0.0/16".parse().unwrap();
        assert!(subnet.contains("16.3.255.1".parse().unwrap()));
        assert!(!subnet.contains("16.4.0.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Subnet>().unwrap().contains("9.9.9.9".parse().unwrap()));
    }
}
