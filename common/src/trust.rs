//! Whether what a run has measured says something about the software, and not about the machines.

use crate::fidelity::Grade;
use crate::run::{RunStatus, Verdict};

/// Whether a run's numbers may be compared with those of others.
///
/// They may when the run came to its end by itself, its machines kept to the validity gates, and its data network was
/// not degraded. A run that failed may: a regression often breaks an expectation.
///
/// # Errors
/// Every reason why not, each in words.
pub fn trusted(status: &RunStatus) -> Result<(), Vec<String>> {
    let ending = match status.verdict {
        Some(Verdict::Passed | Verdict::Failed) => None,
        Some(verdict) => Some(format!("it ended as {verdict}")),
        None => Some("it is not over".to_owned()),
    };
    let gates = status.judgement.iter().flat_map(|judgement| judgement.broken_gates());
    let gates =
        gates.map(|gate| format!("{} was to be {} and was {}", gate.name, gate.wanted, gate.got));
    let degraded = status.network.iter().filter(|network| network.grade == Grade::Degraded);
    let network =
        degraded.map(|network| format!("its network was degraded: {}", network.reasons.join("; ")));
    let reasons: Vec<String> = ending.into_iter().chain(gates).chain(network).collect();
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fidelity::{Fidelity, NetworkReport, judge};
    use crate::ids::WorkerId;
    use crate::kpi::{GateState, JudgedGate, Judgement};

    fn run(verdict: Option<Verdict>) -> RunStatus {
        serde_json::from_value(serde_json::json!({
            "run": "c8k3vmlrirtj2p8lcec0", "name": "calm-heron", "revision": 1, "plan": "p", "case": "c",
            "phase": "cleaned", "doing": "", "submitted_ms": 0, "groups": [], "workers": [], "verdict": verdict,
        }))
        .expect("a status")
    }

    #[test]
    fn a_run_that_came_to_its_end_is_trusted() {
        assert_eq!(trusted(&run(Some(Verdict::Passed))), Ok(()));
        assert_eq!(trusted(&run(Some(Verdict::Failed))), Ok(()));
    }

    #[test]
    fn every_reason_against_a_run_is_told() {
        let of = |verdict| trusted(&run(verdict)).expect_err("not trusted");
        assert_eq!(of(None), ["it is not over"]);
        assert_eq!(of(Some(Verdict::TimedOut)), ["it ended as timed_out"]);
        let gate = |name: &str, state| JudgedGate {
            name: name.to_owned(),
            wanted: "<= 0.85".to_owned(),
            got: "0.99".to_owned(),
            state,
        };
        let judgement = Judgement {
            gates: vec![
                gate("host_busy", GateState::Broken),
                gate("fds_ratio", GateState::Kept),
                gate("loop_lag_s", GateState::Unmeasured),
            ],
            ..Judgement::default()
        };
        let report = NetworkReport::default();
        let measured = judge(&[(WorkerId::from_lossy("w-01"), Some(&report))]).expect("a report");
        let network = Fidelity {
            grade: Grade::Degraded,
            reasons: vec!["packets were late".to_owned()],
            ..measured
        };
        let status = RunStatus {
            judgement: Some(judgement),
            network: Some(network.clone()),
            ..run(Some(Verdict::Passed))
        };
        let wanted = [
            "host_busy was to be <= 0.85 and was 0.99",
            "its network was degraded: packets were late",
        ];
        assert_eq!(trusted(&status), Err(wanted.map(str::to_owned).to_vec()));
        let good = Fidelity { grade: Grade::Good, ..network };
        assert_eq!(
            trusted(&RunStatus { network: Some(good), ..run(Some(Verdict::Passed)) }),
            Ok(())
        );
    }
}
