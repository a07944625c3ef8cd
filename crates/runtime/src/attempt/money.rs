//! The money of a call: reserved before it is recorded, and held until its end is.
//!
//! **Invariant:** who waits for money holds none that its own ends would bring back: nobody waits in a circle.

use crewline_types::{CallId, MicroUsd};
use tokio::sync::SemaphorePermit;

use super::{call::end_calls, climb::Climb};
use crate::{
    assignment::{Failure, Progress},
    purse::NoMoney,
};

/// Which ends of calls an attempt may record now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// All of them.
    All,
    /// Not that of the call whose answer is judged.
    Asides,
}

/// Reserves the worst case of a call. What comes back as soon as ends are recorded is waited for: those of the attempt itself are
/// recorded now, those of others with their next change. Who waits for others gives its place among the prepared calls back.
pub(super) async fn reserve<'a>(
    climb: &Climb<'a>,
    call: CallId,
    worst: Option<MicroUsd>,
    ends: Ends,
    mut place: Option<SemaphorePermit<'a>>,
) -> Result<Option<SemaphorePermit<'a>>, Failure> {
    let Climb { assignment, deps, .. } = *climb;
    let purse = &assignment.run.purse;
    loop {
        // Before the question, so that nothing comes back unheard.
        let returned = purse.returned();
        let Err(NoMoney { cap, refused }) = purse.reserve(call, worst) else { return Ok(place) };
        if !refused.is_covered_soon() {
            return Err(Failure::OverBudget { cap, message: format!("{cap}: {refused}") });
        }
        if record_ended(climb, ends).await? {
            continue;
        }
        let is_prepared = place.take().is_some();
        returned.await;
        if is_prepared {
            place = deps.preparing.acquire().await.ok();
        }
    }
}

/// Records which calls of the attempt have ended; `false` when that was done.
pub(super) async fn record_ended(climb: &Climb<'_>, ends: Ends) -> Result<bool, Failure> {
    let Climb { assignment, deps, .. } = *climb;
    let ended = assignment.obligation.note(|progress| match ends {
        Ends::All => (!progress.ended.calls.is_empty()).then(|| progress.take_ended()),
        Ends::Asides => Some(progress.take_asides()).filter(|it| !it.calls.is_empty()),
    });
    let Some(ended) = ended else { return Ok(false) };
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    end_calls(&mut change, assignment.attempt, &assignment.task.role, ended.clone());
    if let Err(refusal) = assignment.run.record(&deps.rooms.journal, change).await {
        assignment.obligation.note(|progress: &mut Progress| progress.not_recorded(&refusal, ended));
        return Err(Failure::of(refusal));
    }
    Ok(true)
}
