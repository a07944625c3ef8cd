//! stdout for data, stderr for everything else.
//!
//! **Invariant:** a broken stdout is an error the caller sees; a broken stderr never is.
//! **Invariant:** while a live view is drawn, every line to stderr goes around it.

use std::{
    error::Error as _,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crewline_runtime::Decision;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use serde::Serialize;

use crate::{
    args::{Color, Output},
    error::Error,
    settings::Settings,
    view::{Style, clean},
};

/// Columns of a terminal that does not say.
const COLUMNS: usize = 100;
/// Lines of a terminal that does not say.
const LINES: usize = 24;
/// Plan problems shown at most.
const PROBLEMS_MAX: usize = 20;

/// Where a command writes.
#[derive(Clone)]
pub(crate) struct Console {
    /// How stdout looks.
    pub(crate) output: Output,
    /// How text on stdout may look.
    pub(crate) out: Style,
    /// How text on stderr may look.
    pub(crate) err: Style,
    /// Say less on stderr.
    pub(crate) is_quiet: bool,
    /// Someone watches stderr.
    pub(crate) is_live: bool,
    bars: MultiProgress,
    is_drawing: Arc<AtomicBool>,
}

impl Console {
    /// By what the settings and the terminals say.
    pub(crate) fn new(settings: &Settings) -> Self {
        let style = |is_terminal: bool| Style {
            is_colored: match settings.color {
                Color::Auto => is_terminal,
                Color::Always => true,
                Color::Never => false,
            },
        };
        let is_terminal = io::stderr().is_terminal();
        Self {
            output: settings.output,
            out: style(io::stdout().is_terminal()),
            err: style(is_terminal),
            is_quiet: settings.quiet,
            is_live: is_terminal && settings.progress && !settings.quiet,
            bars: MultiProgress::new(),
            is_drawing: Arc::default(),
        }
    }

    /// For when the settings themselves are wrong.
    pub(crate) fn fallback() -> Self {
        let plain = Style::PLAIN;
        Self {
            output: Output::Table,
            out: plain,
            err: plain,
            is_quiet: false,
            is_live: false,
            bars: MultiProgress::new(),
            is_drawing: Arc::default(),
        }
    }

    /// The same for people, whatever programs are told in the end.
    pub(crate) fn for_people(&self) -> Self {
        Self { output: Output::Table, ..self.clone() }
    }

    /// Starts a live view of as many lines as its message has; `None` when nobody watches.
    pub(crate) fn start_drawing(&self) -> Option<ProgressBar> {
        if !self.is_live {
            return None;
        }
        self.is_drawing.store(true, Ordering::Relaxed);
        let bar = self.bars.add(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
        // The template is a constant; should it ever be refused, the default still shows the message.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Some(bar)
    }

    /// Ends a live view and wipes it.
    pub(crate) fn end_drawing(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.is_drawing.store(false, Ordering::Relaxed);
    }

    /// Writes lines of data to stdout and flushes them.
    pub(crate) fn data(&self, text: &str) -> Result<(), Error> {
        if text.ends_with('\n') { self.raw(text.as_bytes()) } else { self.raw(format!("{text}\n").as_bytes()) }
    }

    /// Writes whole lines to stdout as they are and flushes them.
    pub(crate) fn raw(&self, lines: &[u8]) -> Result<(), Error> {
        self.around(|| {
            let mut out = io::stdout().lock();
            out.write_all(lines)?;
            out.flush()
        })
        .map_err(Error::Stdout)
    }

    /// Writes one value in the form that was asked for; `table` makes the text for people.
    pub(crate) fn value<T: Serialize>(&self, value: &T, table: impl FnOnce(Style) -> String) -> Result<(), Error> {
        let text = match self.output {
            Output::Table | Output::Dot | Output::Mermaid => table(self.out),
            Output::Json => encode(serde_json::to_string_pretty(value))?,
            Output::Jsonl => encode(serde_json::to_string(value))?,
            Output::Yaml => encode(serde_saphyr::to_string(value))?,
        };
        self.data(&text)
    }

    /// Writes a list: with `jsonl` one item a line.
    pub(crate) fn list<T: Serialize>(&self, items: &[T], table: impl FnOnce(Style) -> String) -> Result<(), Error> {
        if self.output != Output::Jsonl {
            return self.value(&items, table);
        }
        let mut text = String::new();
        for item in items {
            text.push_str(&encode(serde_json::to_string(item))?);
            text.push('\n');
        }
        if text.is_empty() { Ok(()) } else { self.data(&text) }
    }

    /// A line on stderr, unless quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_quiet {
            self.say(text);
        }
    }

    /// A line on stderr, even when quiet.
    pub(crate) fn say(&self, text: &str) {
        self.around(|| {
            // Nobody is left to tell about a broken stderr.
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    /// A warning on stderr.
    pub(crate) fn warn(&self, text: &str) {
        self.say(&format!("{} {text}", self.err.yellow("warning:")));
    }

    /// A next step on stderr; say it last.
    pub(crate) fn hint(&self, text: &str) {
        self.say(&format!("{} {text}", self.err.cyan("hint:")));
    }

    /// An error on stderr: what, why, where, and the next step last.
    pub(crate) fn error(&self, error: &Error) {
        if error.is_quiet() {
            return;
        }
        self.say(&self.describe(error));
        if let Some(hint) = error.hint() {
            self.hint(&hint);
        }
    }

    fn describe(&self, error: &Error) -> String {
        let message = match crate::document::invalid_registry(error) {
            // Its own text is all its problems; they are drawn below.
            Some(invalid) => {
                let word = if invalid.problems.len() == 1 { "problem" } else { "problems" };
                format!("registry `{}` is not valid: {} {word}", invalid.name, invalid.problems.len())
            }
            None => error.to_string(),
        };
        let mut text = format!("{} {} [{}]", self.err.red("error:"), clean(&message), error.code());
        let mut last = message;
        let mut cause = error.source();
        while let Some(error) = cause {
            let message = error.to_string();
            // Some errors repeat their cause in their own text.
            if !last.contains(&message) {
                _ = write!(text, "\n  caused by: {}", clean(&message));
            }
            last = message;
            cause = error.source();
        }
        for problem in error.plan_problems().iter().take(PROBLEMS_MAX) {
            _ = write!(text, "\n  - {} [{}]", clean(&problem.to_string()), problem.code);
        }
        for line in error.bad_lines() {
            _ = write!(text, "\n  - {}", clean(&line.to_string()));
        }
        let more = error.plan_problems().len().saturating_sub(PROBLEMS_MAX);
        if more > 0 {
            _ = write!(text, "\n  and {more} more");
        }
        for place in crate::document::places(error) {
            text.push('\n');
            text.push_str(self.snippet(place.as_ref()).trim_end());
        }
        text
    }

    /// Draws the place an error is about.
    pub(crate) fn snippet(&self, diagnostic: &dyn Diagnostic) -> String {
        let theme = if self.err.is_colored { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(size().0).with_links(false);
        let mut text = String::new();
        match handler.render_report(&mut text, diagnostic) {
            Ok(()) => text,
            Err(_) => diagnostic.to_string(),
        }
    }

    fn around<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.is_drawing.load(Ordering::Relaxed) { self.bars.suspend(write) } else { write() }
    }
}

/// Columns and lines of the terminal behind stderr.
pub(crate) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        Ok(_) | Err(_) => (COLUMNS, LINES),
    }
}

/// Asks a question on the terminal. `None` when nobody can answer.
pub(crate) fn ask(settings: &Settings, question: &str) -> Option<bool> {
    if settings.yes {
        return Some(true);
    }
    if !settings.input || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a decision on the terminal: a text for a question, else yes or no with an optional reason. `None`: it is left
/// open.
pub(crate) fn decide(is_question: bool) -> Option<(Decision, Option<String>)> {
    let prompt = if is_question { "answer (empty: later) > " } else { "approve? [y/N/later, a reason may follow] > " };
    let _ = write!(io::stderr().lock(), "{prompt}");
    let mut said = String::new();
    if io::stdin().read_line(&mut said).ok()? == 0 {
        return None;
    }
    let said = said.trim();
    if is_question {
        return (!said.is_empty()).then(|| (Decision::Answer, Some(said.to_owned())));
    }
    let (word, reason) = said.split_once(char::is_whitespace).unwrap_or((said, ""));
    let reason = Some(reason.trim().to_owned()).filter(|it| !it.is_empty());
    match word.to_ascii_lowercase().as_str() {
        "y" | "yes" => Some((Decision::Approve, reason)),
        "n" | "no" => Some((Decision::Reject, reason)),
        // What is not clearly said is not decided.
        _ => None,
    }
}

pub(crate) fn encode<E: std::fmt::Display>(encoded: Result<String, E>) -> Result<String, Error> {
    encoded.map_err(|error| Error::Encode { message: error.to_string() })
}

/// Lets log lines go around a live view.
impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Console {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogLine { console: self, line: Vec::new() }
    }
}

/// Collects one log line and writes it when dropped.
pub(crate) struct LogLine<'a> {
    console: &'a Console,
    line: Vec<u8>,
}

impl io::Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine<'_> {
    fn drop(&mut self) {
        self.console.around(|| {
            let _ = io::stderr().lock().write_all(&self.line);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_code_cause_and_no_colour() {
        let console = Console::fallback();
        let error = Error::Read { path: "plan.yaml".into(), source: io::Error::other("it is\u{1b}[31m gone") };
        assert_eq!(
            console.describe(&error),
            "error: `plan.yaml` cannot be read [cli.read]\n  caused by: it is [31m gone"
        );
    }
}
