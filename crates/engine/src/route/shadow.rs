//! Whose question a candidate model is asked as well, to compare them.
//!
//! **Invariant:** the draw follows from the run and the attempt alone: whoever draws again draws the same.

use crewline_types::{AttemptId, RunId, Share};

/// The FNV-1a hash of 64 bits.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(b"\x1f"));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads a hash over all numbers (the last step of `SplitMix64`): the upper bits of FNV-1a hardly move for short texts.
fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Whether the question of this attempt is among the `share` that is copied.
pub fn is_drawn(run: RunId, attempt: AttemptId, share: Share) -> bool {
    let number = attempt.number.to_le_bytes();
    share.holds(spread(hash(&[run.as_str().as_bytes(), attempt.task.as_str().as_bytes(), &number])))
}

#[cfg(test)]
mod tests {
    use crewline_types::{IdSource, TaskId};

    use super::*;

    #[test]
    fn the_share_of_all_attempts_is_drawn_and_always_the_same() {
        let mut ids = IdSource::seeded(7);
        let run = RunId::new(&mut ids);
        let attempts: Vec<AttemptId> =
            (0..20_000).map(|it| AttemptId { task: TaskId::new(&mut ids), number: 1 + it % 3 }).collect();
        for (share, expected) in [("5%", 1_000_i64), ("50%", 10_000), ("100%", 20_000), ("0.5%", 100)] {
            let share: Share = share.parse().unwrap();
            let draw = || attempts.iter().map(|it| is_drawn(run, *it, share)).collect::<Vec<_>>();
            let drawn = i64::try_from(draw().iter().filter(|it| **it).count()).unwrap();
            // Four standard deviations of 20,000 draws are 283 at most.
            assert!((drawn - expected).abs() <= 283, "{share}: {drawn}");
            assert_eq!(draw(), draw());
        }
    }

    #[test]
    fn run_task_and_attempt_all_count() {
        let mut ids = IdSource::seeded(8);
        let half: Share = "50%".parse().unwrap();
        let (runs, tasks): (Vec<_>, Vec<_>) = (0..64).map(|_| (RunId::new(&mut ids), TaskId::new(&mut ids))).unzip();
        let drawn =
            |run: usize, task: usize, number: u32| is_drawn(runs[run], AttemptId { task: tasks[task], number }, half);
        assert!((1..64).any(|it| drawn(it, 0, 1) != drawn(0, 0, 1)));
        assert!((1..64).any(|it| drawn(0, it, 1) != drawn(0, 0, 1)));
        assert!((1..64).any(|it| drawn(0, 0, 1 + it) != drawn(0, 0, 1)));
    }
}
