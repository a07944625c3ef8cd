//! The money of a call: reserved before it is recorded, and held until its end is.
//!
//! Money that calls in flight may give back is waited for, so that a limit ends a run only when no call of it could be made.
//!
//! **Invariant:** who waits for money holds none that its own ends would bring back: nobody waits in a circle.

use std::time::Duration;

use crewline_store::Change;
use crewline_types::{CallId, MicroUsd, RunStatus};
use tokio::sync::SemaphorePermit;

use super::{call::end_calls, climb::Climb};
use crate::{
    assignment::Failure,
    progress::{Ended, OpenCall, Progress},
    purse::NoMoney,
};

/// The longest wait before the database is asked again; it doubles. It counts what other processes spend, too, of which nothing is
/// heard.
const PAUSE: Duration = Duration::from_millis(250);
/// As far as it grows.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Which ends of calls an attempt may record now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// All of them.
    All,
    /// Not that of the call whose answer is judged.
    Asides,
}

/// Reserves the worst case of a call and records that it begins, with the ends that `intent` takes along. Who has to wait gives
/// its place among the prepared calls back meanwhile.
pub(super) async fn begin<'a>(
    climb: &Climb<'a>,
    call: &OpenCall,
    ends: Ends,
    mut place: Option<SemaphorePermit<'a>>,
    intent: impl Fn() -> (Change, Ended),
) -> Result<(), Failure> {
    let Climb { assignment, deps, .. } = *climb;
    let (run, obligation) = (&assignment.run, &assignment.obligation);
    let mut pause = PAUSE;
    loop {
        place = reserve(climb, call.id, call.worst, ends, place).await?;
        let (change, ended) = intent();
        // An attempt that is aborted while this is on its way must not leave a call behind that nobody ends.
        obligation.note(|progress| progress.open = Some(call.clone()));
        let Err(refusal) = run.record(&deps.rooms.journal, change).await else { break };
        run.not_begun(call.id, &refusal);
        obligation.note(|progress| progress.not_recorded(&refusal, ended));
        if !refusal.may_pass() {
            return Err(Failure::of(refusal));
        }
        if record_ended(climb, ends).await? {
            continue;
        }
        tracing::debug!(call = %call.id, "waits for money that other calls give back");
        let is_prepared = place.take().is_some();
        run.purse.room(pause).await;
        give_up_when_stopped(climb).await?;
        pause = (pause * 2).min(PAUSE_MAX);
        if is_prepared {
            place = deps.preparing.acquire().await.ok();
        }
    }
    obligation.note(|progress| progress.open = Some(OpenCall { is_sent: true, ..call.clone() }));
    Ok(())
}

/// Reserves the worst case of a call. What calls in flight may give back is waited for: the ends of the attempt itself are
/// recorded now, those of others with their next change.
async fn reserve<'a>(
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
        if !refused.is_retryable() {
            return Err(Failure::OverBudget { cap, message: format!("{cap}: {refused}") });
        }
        if record_ended(climb, ends).await? {
            continue;
        }
        if !purse.may_wait() {
            return Err(Failure::Lost);
        }
        tracing::debug!(%call, %refused, "waits for money that other calls give back");
        let is_prepared = place.take().is_some();
        // Every call in flight has its limit, and so has the attempt.
        returned.await;
        if is_prepared {
            place = deps.preparing.acquire().await.ok();
        }
    }
}

/// A run that is being stopped begins no call: what waits to make one ends, and is made by whoever goes on with the run.
async fn give_up_when_stopped(climb: &Climb<'_>) -> Result<(), Failure> {
    let Climb { assignment, deps, .. } = *climb;
    let run = &assignment.run;
    if !run.purse.may_wait() {
        return Err(Failure::Lost);
    }
    // Its manager in another process tells the database only. What can not be read is found by the next look.
    if run.managed().is_none()
        && let Ok(row) = deps.store.run(run.run).await
        && row.is_none_or(|row| row.wish.is_some() || row.status != RunStatus::Running)
    {
        return Err(Failure::Lost);
    }
    Ok(())
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
