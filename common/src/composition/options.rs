//! What is understood of a runner's configuration.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use std::time::Duration;

use serde_json::{Map, Value};

use super::{egress, quantity};
use crate::messages::RunOptions;
use crate::timing::OUTCOME_GRACE;

/// How much of an instance's stdout and of its stderr is kept when nothing is said.
const LOG_CAP: u64 = 64 << 20;

/// Everything that is read out of a runner's configuration.
pub(super) struct Options {
    pub(super) run: RunOptions,
    pub(super) outcome_grace: Duration,
    pub(super) timeout: Option<Duration>,
    /// Options with a value that makes no sense, with what is wrong.
    pub(super) wrong: Vec<(String, String)>,
    /// Options that change nothing here.
    pub(super) ignored: Vec<String>,
}

/// Reads a runner's configuration; keys are matched without regard to case.
///
/// `local:exec` listened to stdout in Testground, all other runners to the sync service.
pub(super) fn read(runner: &str, config: &Map<String, Value>) -> Options {
    let mut options = Options {
        run: RunOptions {
            log_cap_bytes: LOG_CAP,
            outcome_from_stdout: runner == "local:exec",
            ..RunOptions::default()
        },
        outcome_grace: OUTCOME_GRACE,
        timeout: None,
        wrong: Vec::new(),
        ignored: Vec::new(),
    };
    for (key, value) in config {
        if let Err(wanted) = set(&mut options, &key.to_ascii_lowercase(), value) {
            options.wrong.push((key.clone(), format!("runner option `{key}` must be {wanted}")));
        }
    }
    options
}

fn set(options: &mut Options, key: &str, value: &Value) -> Result<(), &'static str> {
    match key {
        "log_level" => options.run.log_level = value.as_str().ok_or("a text")?.to_owned(),
        "ulimits" => options.run.ulimits = list(value)?,
        "additional_hosts" => {
            let hosts = list(value)?;
            if !hosts.iter().all(|host| egress::is_host(host)) {
                return Err("a list of host names, IPv4 addresses or IPv4 networks");
            }
            options.run.additional_hosts = hosts;
        }
        "keep_containers" => options.run.keep_containers = value.as_bool().ok_or("a boolean")?,
        "exposed_ports" => {
            let ports = value.as_object().ok_or("a table of label to port")?;
            for (label, port) in ports {
                let is_port = |text: &String| text.parse::<u16>().is_ok_and(|port| port > 0);
                let port = scalar(port).filter(is_port);
                let port = port.ok_or("a table of label to port number")?;
                options.run.exposed_ports.insert(label.clone(), port);
            }
        }
        "log_cap_bytes" => options.run.log_cap_bytes = bytes(value)?,
        "outputs_bytes" => options.run.quotas.outputs_bytes = bytes(value)?,
        "outputs_files" => options.run.quotas.outputs_files = count(value)?,
        "temp_bytes" => options.run.quotas.temp_bytes = bytes(value)?,
        "sync_ops_per_second" => options.run.quotas.sync_ops_per_second = count(value)?,
        "sync_bytes" => options.run.quotas.sync_bytes = bytes(value)?,
        "read_only_root" => options.run.read_only_root = value.as_bool().ok_or("a boolean")?,
        "outcomes_collection_timeout" => {
            let parsed = match value {
                Value::String(text) => quantity::duration(text),
                other => other.as_u64().map(Duration::from_nanos),
            };
            options.outcome_grace = parsed.ok_or("a text such as `\"45s\"`, or nanoseconds")?;
        }
        "run_timeout_min" => {
            let minutes = value.as_u64().ok_or("a whole number of minutes")?;
            options.timeout = Some(Duration::from_secs(minutes.saturating_mul(60)));
        }
        "outcome_from" => {
            options.run.outcome_from_stdout = match value.as_str() {
                Some("sync") => false,
                Some("stdout") => true,
                _ => return Err("`\"sync\"` or `\"stdout\"`"),
            };
        }
        "kpis_from" => {
            options.run.kpis_from_stdout = match value.as_str() {
                Some("files") => false,
                Some("stdout") => true,
                _ => return Err("`\"files\"` or `\"stdout\"`"),
            };
        }
        "enabled" => {}
        _ => options.ignored.push(key.to_owned()),
    }
    Ok(())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn bytes(value: &Value) -> Result<u64, &'static str> {
    let wanted = "a number of bytes, or a text such as `\"64Mi\"`";
    scalar(value).and_then(|text| quantity::bytes(&text)).ok_or(wanted)
}

fn count<N: TryFrom<u64>>(value: &Value) -> Result<N, &'static str> {
    let above_zero = value.as_u64().filter(|number| *number > 0);
    above_zero.and_then(|number| N::try_from(number).ok()).ok_or("a whole number above zero")
}

fn list(value: &Value) -> Result<Vec<String>, &'static str> {
    let texts = value.as_array().map(|values| values.iter().map(scalar).collect());
    texts.flatten().ok_or("a list of texts")
}
