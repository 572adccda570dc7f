//! Validity gates: what the machines must have kept to for a failure to say something about the software.

#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other type gets one message")]

use crate::diagnostic::suggest;
use crate::document::{Data, Findings, Node, Table};
use crate::fidelity::Grade;

/// One gate of a file: its limit, or `None` for off. Absent is not mentioned.
type Limit<T> = Option<Option<T>>;

/// What a manifest or a composition says of the gates.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GateLimits {
    loop_lag_s: Limit<f64>,
    fds_ratio: Limit<f64>,
    sync_rtt_s: Limit<f64>,
    host_busy: Limit<f64>,
    clock_step_s: Limit<f64>,
    oom_kills: Limit<f64>,
    fidelity: Limit<Grade>,
    strict: Option<bool>,
}

/// The gates of a run. A gate that is off is `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gates {
    /// How long the event loops of instances may be late, at the 95th percentile, in seconds.
    pub loop_lag_s: Option<f64>,
    /// What share of their file descriptors instances may have open, at the 95th percentile.
    pub fds_ratio: Option<f64>,
    /// How long a word to the sync gateway and back may take, at the 95th percentile, in seconds.
    pub sync_rtt_s: Option<f64>,
    /// How busy the cpus of any host may be, at the 95th percentile of seconds. What its own host takes counts.
    pub host_busy: Option<f64>,
    /// By how much the clock of any host may be set within a second, in seconds.
    pub clock_step_s: Option<f64>,
    /// How many processes may be killed for want of a host's memory.
    pub oom_kills: Option<f64>,
    /// How true the data network must have been.
    pub fidelity: Option<Grade>,
    /// Whether a broken gate takes the word from a run that passed, too.
    pub strict: bool,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            loop_lag_s: Some(0.05),
            fds_ratio: Some(0.8),
            sync_rtt_s: Some(0.02),
            host_busy: Some(0.85),
            clock_step_s: Some(0.1),
            oom_kills: Some(0.0),
            fidelity: Some(Grade::Unproven),
            strict: false,
        }
    }
}

impl Gates {
    /// The gates of a run whose files say this, the composition over the manifest; none when neither has gates.
    #[must_use]
    pub fn of(manifest: Option<&GateLimits>, composition: Option<&GateLimits>) -> Option<Self> {
        if manifest.is_none() && composition.is_none() {
            return None;
        }
        let layers = [manifest, composition];
        let gates = layers.into_iter().flatten().fold(Self::default(), |gates, said| Self {
            loop_lag_s: said.loop_lag_s.unwrap_or(gates.loop_lag_s),
            fds_ratio: said.fds_ratio.unwrap_or(gates.fds_ratio),
            sync_rtt_s: said.sync_rtt_s.unwrap_or(gates.sync_rtt_s),
            host_busy: said.host_busy.unwrap_or(gates.host_busy),
            clock_step_s: said.clock_step_s.unwrap_or(gates.clock_step_s),
            oom_kills: said.oom_kills.unwrap_or(gates.oom_kills),
            fidelity: said.fidelity.unwrap_or(gates.fidelity),
            strict: said.strict.unwrap_or(gates.strict),
        });
        Some(gates)
    }
}

/// Reads a `[validity]` table.
pub(crate) fn read(findings: &Findings, table: Table<'_>) -> GateLimits {
    let limit = |key| table.get(key).and_then(|node| number(findings, key, node));
    let limits = GateLimits {
        loop_lag_s: limit("loop_lag_s"),
        fds_ratio: limit("fds_ratio"),
        sync_rtt_s: limit("sync_rtt_s"),
        host_busy: limit("host_busy"),
        clock_step_s: limit("clock_step_s"),
        oom_kills: limit("oom_kills"),
        fidelity: table.get("fidelity").and_then(|node| grade(findings, node)),
        strict: table.bool("strict"),
    };
    table.finish(&[]);
    limits
}

fn number(findings: &Findings, key: &str, node: &Node) -> Limit<f64> {
    let value = match node.value {
        Data::Bool(false) => return Some(None),
        Data::Float(value) => value,
        #[expect(clippy::cast_precision_loss, reason = "a limit is a small number")]
        Data::Integer(value) => value as f64,
        _ => f64::NAN,
    };
    if value.is_finite() && value >= 0.0 {
        return Some(Some(value));
    }
    let found = node.scalar().unwrap_or_default();
    findings.error(
        node.span.clone(),
        format!("the gate `{key}` cannot be `{found}`"),
        format!("write a number from 0 upwards such as `{key} = 0.1`, or `{key} = false` to switch it off"),
    );
    None
}

fn grade(findings: &Findings, node: &Node) -> Limit<Grade> {
    const GRADES: [Grade; 3] = [Grade::Exact, Grade::Good, Grade::Unproven];
    if node.value == Data::Bool(false) {
        return Some(None);
    }
    let text = node.scalar().unwrap_or_default();
    let found = GRADES.into_iter().find(|grade| grade.as_str() == text);
    if found.is_none() {
        let help = suggest(&text, GRADES.map(Grade::as_str));
        let help = format!("{help}; or `fidelity = false` to switch it off");
        findings.error(node.span.clone(), format!("the gate `fidelity` cannot be `{text}`"), help);
    }
    found.map(Some)
}
