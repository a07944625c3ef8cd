//! Follows a run to its end: shows events, answers Ctrl-C, writes the documents, prints the outcome.
//!
//! **Invariant:** with `-o jsonl`, `run_finished` is printed last, after the documents are written.
//! **Invariant:** the first request to stop drains, the second aborts; the command that continues is shown each time.

use std::{path::Path, time::Duration};

use crewline_runtime::{Handle, Report};
use crewline_types::{Clock, Event, EventBody, RunId, RunStatus, SystemClock, event::ErrorNote};
use futures::StreamExt;
use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::{
    args::Output,
    console::{self, Console},
    error::Error,
    exit::{self, Exit},
    live::{Board, words},
    out::OutDir,
    settings::Settings,
    signals::Signals,
    summary,
    view::clean,
};

/// How often the live view is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How long an abort may take before the process ends anyway.
const ABORT_TIME_MAX: Duration = Duration::from_secs(5);

/// What to follow, and where to show it.
pub(crate) struct Follow<'a> {
    /// What the process was told.
    pub(crate) settings: &'a Settings,
    /// Where to show it.
    pub(crate) console: &'a Console,
    /// The runtime.
    pub(crate) handle: &'a Handle,
    /// The run.
    pub(crate) run: RunId,
    /// Where documents go; none for a plan that is not run.
    pub(crate) out: Option<&'a OutDir>,
    /// Events up to here are known.
    pub(crate) after_seq: u64,
    /// What is known.
    pub(crate) board: Board,
}

impl Follow<'_> {
    /// Follows the run until it ends, or until its person has asked twice.
    pub(crate) async fn until_end(mut self, signals: &mut Signals) -> Result<Exit, Error> {
        tracing::info!(run_id = %self.run, after_seq = self.after_seq, "run is followed");
        let watched = self.watch(signals).await;
        let last = match watched {
            Ok(last) => last,
            // Whoever read our stdout is gone: nothing more to say, but the work in flight is saved.
            Err(error) if error.is_quiet() => {
                self.abandon().await;
                return Ok(Exit::Interrupted);
            }
            Err(error) => return Err(error),
        };
        let Some((event, status, note)) = last else {
            // Aborted by the second signal, and its end did not come in time.
            self.say_how_to_continue();
            return Ok(Exit::Interrupted);
        };
        tracing::info!(run_id = %self.run, status = status.as_str(), error.code = note.as_ref().map(|it| &*it.code), "run ended");
        let (report, documents) = match self.out.map(|out| out.of(self.run)) {
            Some(out) => {
                let report = self.handle.report(self.run).await?;
                let written = self.handle.write_documents(&report, &out).await;
                (Some(report), written.map(|()| Some(out)))
            }
            None => (None, Ok(None)),
        };
        let exit = match (&documents, exit::of_run(status, note.as_ref())) {
            (Err(_), Exit::Ok) => Exit::Failed,
            (Ok(_) | Err(_), exit) => exit,
        };
        if let Err(error) = documents.as_ref() {
            let hint = format!("`crewline show {}` has what was made", self.run);
            self.console.say(&format!("{} the documents were not written: {error}", self.console.err.red("error:")));
            self.console.hint(&hint);
        }
        let out = documents.ok().flatten();
        if let Some(report) = &report {
            self.print(&event, report, out.as_deref())?;
            self.say_how_it_ended(status, note.as_ref());
        } else if self.console.output == Output::Jsonl {
            self.print_event(&event)?;
        }
        Ok(exit)
    }

    fn print(&self, event: &Event, report: &Report, out: Option<&Path>) -> Result<(), Error> {
        match self.console.output {
            Output::Jsonl => self.print_event(event),
            Output::Json | Output::Yaml | Output::Table | Output::Dot | Output::Mermaid => {
                self.console.value(report, |style| summary::finished(report, out, style))
            }
        }
    }

    fn print_event(&self, event: &Event) -> Result<(), Error> {
        let line = serde_json::to_string(event).map_err(|error| Error::Encode { message: error.to_string() })?;
        self.console.data(&line)
    }

    /// Shows events until `run_finished`, which is kept back. `None` when an abort took too long.
    async fn watch(&mut self, signals: &mut Signals) -> Result<Option<(Event, RunStatus, Option<ErrorNote>)>, Error> {
        // As a stream, an event is never lost when another branch of the select is faster.
        let watch = self.handle.watch(self.run, self.after_seq);
        let events = futures::stream::unfold(watch, |mut watch| async move {
            let event = watch.next().await?;
            Some((event, watch))
        });
        let mut events = std::pin::pin!(events);
        let mut live = Live::start(self.console);
        let mut line = Vec::with_capacity(512);
        let mut stops = 0u8;
        let mut give_up = Instant::now();
        loop {
            let event = tokio::select! {
                biased;
                () = signals.next() => {
                    stops = stops.saturating_add(1);
                    give_up = Instant::now() + ABORT_TIME_MAX;
                    if stops > 2 || !self.stop(stops).await {
                        return Ok(None);
                    }
                    continue;
                }
                () = tokio::time::sleep_until(give_up), if stops >= 2 => return Ok(None),
                () = live.next_frame() => {
                    live.draw(&self.board);
                    continue;
                }
                event = events.next() => event,
            };
            let Some(event) = event else { return Err(Error::Lost { run: self.run.to_string() }) };
            let event = event?;
            // A plan that is not run ends as interrupted, which is no news to whoever asked for it.
            let is_news = self.out.is_some() || !matches!(event.body, EventBody::RunFinished { .. });
            if is_news
                && !live.is_on()
                && !self.console.is_quiet
                && let Some(text) = self.board.plain(&event)
            {
                self.console.note(&text);
            }
            self.board.apply(&event);
            if let EventBody::RunFinished { status, error, .. } = &event.body {
                let (status, error) = (*status, error.clone());
                live.end(&self.board);
                return Ok(Some((event, status, error)));
            }
            if self.console.output == Output::Jsonl {
                line.clear();
                serde_json::to_writer(&mut line, &event)
                    .map_err(|error| Error::Encode { message: error.to_string() })?;
                line.push(b'\n');
                self.console.raw(&line)?;
            }
        }
    }

    /// Answers a request to stop; `false` when the run can not be told.
    async fn stop(&mut self, stops: u8) -> bool {
        let command = self.resume_command();
        let told = if stops == 1 {
            let running = self.board.running();
            self.board.set_note("stopping: finishing what runs; Ctrl-C again stops at once");
            self.console.say(&format!(
                "stopping: finishing {running} running {}; press Ctrl-C again to stop at once",
                if running == 1 { "task" } else { "tasks" }
            ));
            self.console.say(&format!("continue later with: {command}"));
            self.handle.drain(self.run).await
        } else {
            self.console.say("stopping at once");
            self.handle.abort(self.run).await
        };
        match told {
            Ok(()) => true,
            Err(error) => {
                // It ended by itself in this very moment; its last event is on the way.
                tracing::debug!(run_id = %self.run, error.code = error.code(), "run can not be stopped");
                stops == 1
            }
        }
    }

    async fn abandon(&self) {
        if self.handle.drain(self.run).await.is_ok() {
            let mut watch = self.handle.watch(self.run, self.after_seq);
            let ended = async {
                while let Some(Ok(event)) = watch.next().await {
                    if matches!(event.body, EventBody::RunFinished { .. }) {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(ABORT_TIME_MAX, ended).await;
        }
    }

    fn say_how_it_ended(&self, status: RunStatus, note: Option<&ErrorNote>) {
        let cause = note.map(|note| format!(": {} [{}]", clean(&note.message), note.code));
        let sentence = format!("run `{}` {}{}", self.run, words(status), cause.unwrap_or_default());
        let style = self.console.err;
        match status {
            RunStatus::Completed => {}
            RunStatus::Failed | RunStatus::Cancelled | RunStatus::Running => {
                self.console.say(&format!("{} {sentence}", style.red("error:")));
                self.console.hint(&format!(
                    "`crewline show {0}` shows each task and what went wrong, `crewline retry {0}` tries what failed again",
                    self.run
                ));
            }
            RunStatus::Interrupted => {
                self.console.say(&format!("{} {sentence}", style.yellow("stopped:")));
                self.say_how_to_continue();
            }
            RunStatus::LimitReached => {
                self.console.say(&format!("{} {sentence}", style.yellow("stopped:")));
                let command = self.resume_command();
                self.console.hint(&format!(
                    "continue with a higher limit: {command} --max-cost USD (or --max-steps, --max-time)"
                ));
            }
        }
    }

    fn say_how_to_continue(&self) {
        self.console.hint(&format!("continue with: {}", self.resume_command()));
    }

    fn resume_command(&self) -> String {
        self.settings.resume_command(self.run, self.out.and_then(OutDir::named))
    }
}

/// The live view on a terminal; nothing when nobody watches.
pub(crate) struct Live<'a> {
    console: &'a Console,
    bar: Option<ProgressBar>,
    next: Instant,
}

impl<'a> Live<'a> {
    /// Begins to draw, when somebody watches.
    pub(crate) fn start(console: &'a Console) -> Self {
        Self { console, bar: console.start_drawing(), next: Instant::now() }
    }

    /// Whether somebody watches.
    pub(crate) fn is_on(&self) -> bool {
        self.bar.is_some()
    }

    /// Waits until it is time to draw.
    pub(crate) async fn next_frame(&self) {
        match self.bar {
            Some(_) => tokio::time::sleep_until(self.next).await,
            None => std::future::pending().await,
        }
    }

    /// Draws what the board knows.
    pub(crate) fn draw(&mut self, board: &Board) {
        self.next = Instant::now() + FRAME;
        if let Some(bar) = &self.bar {
            bar.set_message(self.lines(board).join("\n"));
        }
    }

    /// Leaves the last state on the screen as ordinary text.
    pub(crate) fn end(&mut self, board: &Board) {
        if let Some(bar) = self.bar.take() {
            self.console.end_drawing(&bar);
            self.console.say(&self.lines(board).join("\n"));
        }
    }

    fn lines(&self, board: &Board) -> Vec<String> {
        let (columns, lines) = console::size();
        // The last column and line stay free, or some terminals scroll.
        board.lines(SystemClock.now(), columns.saturating_sub(1), lines.saturating_sub(1), self.console.err)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            self.console.end_drawing(&bar);
        }
    }
}
