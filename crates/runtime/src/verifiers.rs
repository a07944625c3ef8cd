//! What the checks of criteria are worth: how often each accepts, and how often another one of the same answer does not.
//!
//! A cascade is only as good as its verifier. An answer that one check accepts and another rejects was accepted in vain by the first;
//! one that a single check rejects would have passed without it.
//!
//! **Invariant:** only what was recorded counts; nothing is asked.

use std::collections::BTreeMap;

use crewline_store::Store;
use crewline_types::{EventBody, event::CheckResult};
use serde::Serialize;

use crate::Error;

/// Answers that are looked at, newest first.
const ANSWERS_MAX: u32 = 20_000;

/// What a kind of check did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct VerifierReport {
    /// Verdicts.
    pub answers: u64,
    /// Answers it accepted.
    pub accepted: u64,
    /// Answers it accepted and another check rejected.
    pub accepted_in_vain: u64,
    /// Answers that it alone rejected.
    pub rejected_alone: u64,
}

/// What each kind of check did with the last answers, by its name.
pub async fn verifiers(store: &Store) -> Result<BTreeMap<String, VerifierReport>, Error> {
    let mut reports = BTreeMap::new();
    for event in store.checked_answers(ANSWERS_MAX).await? {
        if let EventBody::ModelCall { checks, .. } = event.body {
            add(&mut reports, &checks);
        }
    }
    Ok(reports)
}

fn add(reports: &mut BTreeMap<String, VerifierReport>, checks: &[CheckResult]) {
    let rejections = checks.iter().filter(|it| !it.passed).count();
    for check in checks {
        let report = reports.entry(check.verifier.to_string()).or_default();
        report.answers += 1;
        report.accepted += u64::from(check.passed);
        report.accepted_in_vain += u64::from(check.passed && rejections > 0);
        report.rejected_alone += u64::from(!check.passed && rejections == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_counts_for_all_its_checks() {
        let check = |verifier: &str, passed| CheckResult {
            criterion: "c".into(),
            verifier: verifier.into(),
            passed,
            evidence: "e".into(),
        };
        let mut reports = BTreeMap::new();
        add(&mut reports, &[check("regex", true), check("length", false)]);
        add(&mut reports, &[check("regex", true), check("length", true)]);
        add(&mut reports, &[check("regex", false), check("length", false)]);
        let expected = VerifierReport { answers: 3, accepted: 2, accepted_in_vain: 1, rejected_alone: 0 };
        assert_eq!(reports["regex"], expected);
        let expected = VerifierReport { answers: 3, accepted: 1, accepted_in_vain: 0, rejected_alone: 1 };
        assert_eq!(reports["length"], expected);
    }
}
