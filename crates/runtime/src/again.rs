//! Whether the same model is asked again at once, and after which wait.
//!
//! Asking again helps where the next moment may differ: the connection broke, the server had a hiccup, it asked to come back
//! soon. A call that took too long or an answer that was no good goes to the next model instead.

use std::time::Duration;

use crewline_models::Error;
use crewline_types::event::CallOutcome;

/// The wait before the first repetition; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest wait that is worth it while another model could be asked.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Repetitions while another model could be asked.
const WITH_OTHERS: u32 = 1;
/// Repetitions when this is the last one.
const AS_LAST: u32 = 2;

/// The wait before a model is asked again; `None` when it is not worth it. `nonce` from 0 to 1 spreads callers.
pub fn pause(error: &Error, repeated: u32, is_last: bool, nonce: f64) -> Option<Duration> {
    if !error.is_retryable() || repeated >= if is_last { AS_LAST } else { WITH_OTHERS } {
        return None;
    }
    let spread = |pause: Duration| pause.mul_f64(1.0 + nonce.clamp(0.0, 1.0) / 2.0);
    let usual = spread(PAUSE.saturating_mul(1 << repeated.min(8)));
    match (error.outcome(), error.retry_after()) {
        // Never before the provider said.
        (CallOutcome::RateLimited, Some(asked)) => (asked <= PAUSE_MAX).then(|| spread(asked.max(PAUSE))),
        (CallOutcome::RateLimited | CallOutcome::Error, _) => Some(usual),
        (
            CallOutcome::Ok | CallOutcome::Timeout | CallOutcome::Invalid | CallOutcome::Cancelled | CallOutcome::Lost,
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(retry_after: Option<u64>) -> Error {
        Error::RateLimited {
            model: "m".into(),
            retry_after: retry_after.map(Duration::from_secs),
            message: String::new(),
        }
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept_or_the_next_model_is_asked() {
        assert!(pause(&limited(Some(1)), 0, false, 0.5).unwrap() >= Duration::from_secs(1));
        assert_eq!(pause(&limited(Some(3)), 0, true, 0.5), None);
        let usual = pause(&limited(None), 0, false, 1.0).unwrap();
        assert!((PAUSE..=PAUSE * 2).contains(&usual), "{usual:?}");
    }

    #[test]
    fn repetitions_are_few_and_further_apart() {
        assert_eq!(pause(&limited(None), 1, false, 0.0), None);
        assert_eq!(pause(&limited(None), 1, true, 0.0), Some(PAUSE * 2));
        assert_eq!(pause(&limited(None), 2, true, 0.0), None);
    }

    #[test]
    fn what_will_not_change_is_not_asked_again() {
        let error = Error::Offline { provider: "p".into(), host: "h".into() };
        assert_eq!(pause(&error, 0, true, 0.0), None);
    }
}
