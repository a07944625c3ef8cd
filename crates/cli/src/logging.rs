//! The log: a JSON file in the data directory, and stderr for what a person should see now.
//!
//! **Invariant:** stdout never gets a log line.
//! **Invariant:** stderr gets warnings and errors only, unless `-v` asks for more.

use tracing_appender::{
    non_blocking::WorkerGuard,
    rolling::{RollingFileAppender, Rotation},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{console::Console, settings::Settings};

/// Log files kept; one a day.
const FILES_MAX: usize = 7;

/// Keeps the log file's writer; what is buffered is written when it is dropped.
pub(crate) struct Log {
    _file: Option<WorkerGuard>,
}

/// Starts logging to stderr and, when the data directory exists already, to its log file.
pub(crate) fn start(settings: &Settings, console: &Console, file: LogFile) -> Log {
    let level = match (settings.quiet, settings.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let stderr = fmt::layer()
        .with_ansi(console.err.is_colored)
        .with_target(settings.verbose > 1)
        .with_writer(console.clone())
        .with_filter(targets(level));
    let appender = match file {
        LogFile::Wanted => appender(settings),
        LogFile::None => None,
    };
    let (writer, guard) = appender.map(tracing_appender::non_blocking).unzip();
    let file = writer.map(|writer| {
        let level = level.max(LevelFilter::INFO);
        fmt::layer().json().flatten_event(true).with_writer(writer).with_filter(targets(level))
    });
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(stderr).with(file).try_init();
    Log { _file: guard }
}

/// Whether a command writes a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFile {
    /// It does work worth a record.
    Wanted,
    /// It only looks.
    None,
}

/// Our crates at `level`; others at most at warnings, or their noise would drown us.
fn targets(level: LevelFilter) -> Targets {
    let others = if level == LevelFilter::TRACE { LevelFilter::DEBUG } else { level.min(LevelFilter::WARN) };
    let ours = ["crewline", "crewline_api", "crewline_memory", "crewline_models", "crewline_runtime", "crewline_store"];
    Targets::new().with_default(others).with_targets(ours.map(|name| (name, level)))
}

/// A log that can not be written must not keep a run from working.
fn appender(settings: &Settings) -> Option<RollingFileAppender> {
    let folder = settings.data_dir.join("logs");
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("crewline")
        .filename_suffix("log")
        .latest_symlink("crewline.log")
        .max_log_files(FILES_MAX)
        .build(folder)
        .ok()
}
