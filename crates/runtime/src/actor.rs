//! The three helpers every actor uses: [`ask`], [`tell`] and [`pipe_to_self`].
//!
//! **Invariant:** no handler waits without a limit, and no task outlives the actor that started it.
//! **Invariant:** work that was piped sends exactly one message, whether it ends, panics, times out or is aborted.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use ractor::{ActorRef, Message, RpcReplyPort, rpc::CallResult};
use tokio::task::AbortHandle;

/// Why a question to an actor has no answer.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum AskError {
    /// The actor is alive but did not answer within the limit.
    #[error("actor did not answer in time")]
    Timeout,
    /// The actor stopped, or dropped the reply port.
    #[error("actor is gone")]
    Gone,
}

/// Asks `to` a question and waits at most `limit` for the answer.
#[expect(clippy::disallowed_methods, reason = "the one place that may call; the limit is mandatory")]
pub async fn ask<M: Message, R: Send + 'static>(
    to: &ActorRef<M>,
    limit: Duration,
    question: impl FnOnce(RpcReplyPort<R>) -> M,
) -> Result<R, AskError> {
    match to.call(question, Some(limit)).await {
        Ok(CallResult::Success(answer)) => Ok(answer),
        Ok(CallResult::Timeout) => Err(AskError::Timeout),
        Ok(CallResult::SenderError) | Err(_) => Err(AskError::Gone),
    }
}

/// Sends `message`; a dead receiver is logged, never an error.
pub fn tell<M: Message>(to: &ActorRef<M>, message: M) {
    if to.cast(message).is_err() {
        tracing::debug!(actor_id = %to.get_id(), "message dropped, actor is gone");
    }
}

/// How a piece of background work ended.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The work returned a value.
    Done(T),
    /// The work panicked.
    Crashed,
    /// The limit passed; the work was dropped.
    TimedOut,
    /// The work was aborted by its owner.
    Cancelled,
}

/// Owns one piece of background work; dropping it aborts the work.
#[derive(Debug)]
#[must_use = "dropping the guard aborts the work"]
pub struct WorkGuard(AbortHandle);

impl WorkGuard {
    /// Whether the work has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends the outcome when dropped, so that an aborted task reports too.
struct OnEnd<T, F: FnOnce(Outcome<T>)> {
    outcome: Option<Outcome<T>>,
    send: Option<F>,
}

impl<T, F: FnOnce(Outcome<T>)> OnEnd<T, F> {
    fn with(mut self, outcome: Outcome<T>) {
        self.outcome = Some(outcome);
    }
}

impl<T, F: FnOnce(Outcome<T>)> Drop for OnEnd<T, F> {
    fn drop(&mut self) {
        if let Some(send) = self.send.take() {
            send(self.outcome.take().unwrap_or(Outcome::Cancelled));
        }
    }
}

/// Runs `work` off the mailbox and sends its outcome back to `myself` as one message.
#[expect(clippy::disallowed_methods, reason = "the guard owns the task")]
pub fn pipe_to_self<M, T, W>(
    myself: &ActorRef<M>,
    limit: Duration,
    work: W,
    to_message: impl FnOnce(Outcome<T>) -> M + Send + 'static,
) -> WorkGuard
where
    M: Message,
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
{
    let myself = myself.clone();
    let end = OnEnd { outcome: None, send: Some(move |outcome| tell(&myself, to_message(outcome))) };
    // Not an async block: that would keep a place for `work` beside the place where it is awaited.
    let work = tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).map(move |ended| {
        end.with(match ended {
            Ok(Ok(value)) => Outcome::Done(value),
            Ok(Err(_panic)) => Outcome::Crashed,
            Err(_) => Outcome::TimedOut,
        });
    });
    let task = tokio::spawn(work);
    WorkGuard(task.abort_handle())
}

/// Sends `message` to `myself` after `delay`; dropping the guard calls it off.
#[expect(clippy::disallowed_methods, reason = "the guard owns the task")]
pub fn remind<M: Message>(
    myself: &ActorRef<M>,
    delay: Duration,
    message: impl FnOnce() -> M + Send + 'static,
) -> WorkGuard {
    let myself = myself.clone();
    let task = tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        tell(&myself, message());
    });
    WorkGuard(task.abort_handle())
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::mpsc;

    use super::*;

    struct Probe;

    impl Actor for Probe {
        type Msg = &'static str;
        type State = mpsc::UnboundedSender<&'static str>;
        type Arguments = mpsc::UnboundedSender<&'static str>;

        async fn pre_start(
            &self,
            _: ActorRef<&'static str>,
            sender: Self::Arguments,
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(sender)
        }

        async fn handle(
            &self,
            _: ActorRef<&'static str>,
            message: &'static str,
            sender: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            sender.send(message)?;
            Ok(())
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "the form `pipe_to_self` asks for")]
    fn name<T>(outcome: Outcome<T>) -> &'static str {
        match outcome {
            Outcome::Done(_) => "done",
            Outcome::Crashed => "crashed",
            Outcome::TimedOut => "timed out",
            Outcome::Cancelled => "cancelled",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_is_one_message() {
        let (sender, mut inbox) = mpsc::unbounded_channel();
        let (probe, _) = Actor::spawn(None, Probe, sender).await.unwrap();
        let limit = Duration::from_mins(1);

        let _done = pipe_to_self(&probe, limit, async {}, name);
        assert_eq!(inbox.recv().await, Some("done"));
        let _crashed = pipe_to_self(&probe, limit, async { panic!("boom") }, name::<()>);
        assert_eq!(inbox.recv().await, Some("crashed"));
        let _late = pipe_to_self(&probe, limit, std::future::pending::<()>(), name);
        assert_eq!(inbox.recv().await, Some("timed out"));
        let aborted = pipe_to_self(&probe, limit, std::future::pending::<()>(), name);
        tokio::task::yield_now().await;
        drop(aborted);
        assert_eq!(inbox.recv().await, Some("cancelled"));
        assert!(inbox.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reminder_that_is_called_off_does_not_come() {
        let (sender, mut inbox) = mpsc::unbounded_channel();
        let (probe, _) = Actor::spawn(None, Probe, sender).await.unwrap();
        let called_off = remind(&probe, Duration::from_secs(1), || "first");
        let _kept = remind(&probe, Duration::from_secs(2), || "second");
        tokio::task::yield_now().await;
        drop(called_off);
        assert_eq!(inbox.recv().await, Some("second"));
        assert!(inbox.try_recv().is_err());
    }
}
