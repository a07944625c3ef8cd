//! How much property tests try: 2,000 cases or so, or as many as `PROPTEST_CASES` says, for a long run at night:
//! `PROPTEST_CASES=100000 cargo test --release -p crewline-engine`.

use proptest::prelude::ProptestConfig;

/// `normal` cases, unless told otherwise.
pub(crate) fn cases(normal: u32) -> ProptestConfig {
    // The default is what the environment says.
    let told = ProptestConfig::default();
    let is_told = told.cases != ProptestConfig::with_cases(256).cases;
    ProptestConfig { cases: if is_told { told.cases } else { normal }, failure_persistence: None, ..told }
}
