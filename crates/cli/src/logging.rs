//! The log: a JSON file in the data directory, and stderr for what a person should see now.
//!
//! **Invariant:** stdout never gets a log line.
//! **Invariant:** stderr gets warnings and errors only, unless `-v` asks for more.

use std::{io, path::PathBuf};

use tracing_appender::{
    non_blocking::{NonBlockingBuilder, WorkerGuard},
    rolling::{RollingFileAppender, Rotation},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{app, console::Console, settings::Settings};

/// Log files kept; one a day.
const FILES_MAX: usize = 7;

/// Lines that may wait to be written; further ones are left out. Each has its place from the start.
const LINES_MAX: usize = 8_192;

/// Keeps the log file's writer; what is buffered is written when it is dropped.
pub(crate) struct Log {
    _file: Option<WorkerGuard>,
}

/// Starts logging to stderr and, if wanted, to a file in the data directory.
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
    let file = match file {
        LogFile::Wanted => Some(LogWriter { data_dir: settings.data_dir.clone(), file: None, is_tried: false }),
        LogFile::None => None,
    };
    let (writer, guard) =
        file.map(|file| NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).finish(file)).unzip();
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
    let ours = [
        "crewline",
        "crewline_api",
        "crewline_memory",
        "crewline_models",
        "crewline_runtime",
        "crewline_store",
        "crewline_tools",
    ];
    // What this library says of a broken connection is told by the error that follows from it.
    let protocol = if level == LevelFilter::TRACE { LevelFilter::DEBUG } else { LevelFilter::OFF };
    Targets::new().with_default(others).with_target("rmcp", protocol).with_targets(ours.map(|name| (name, level)))
}

/// The log file, opened by its first line: a command that fails before it does anything leaves nothing behind.
///
/// A log that can not be written must not keep a run from working, so every failure is silence.
struct LogWriter {
    data_dir: PathBuf,
    file: Option<RollingFileAppender>,
    is_tried: bool,
}

impl LogWriter {
    fn open(&self) -> Option<RollingFileAppender> {
        let folder = self.data_dir.join("logs");
        app::make_data_dir(&self.data_dir).ok()?;
        // The appender complains on stderr about a folder that is not there.
        std::fs::create_dir_all(&folder).ok()?;
        // The link to the newest file names it as it is named here; a relative name would lead nowhere from within the folder.
        let folder = folder.canonicalize().ok()?;
        RollingFileAppender::builder()
            .rotation(Rotation::DAILY)
            .filename_prefix("crewline")
            .filename_suffix("log")
            .latest_symlink("crewline.log")
            .max_log_files(FILES_MAX)
            .build(folder)
            .ok()
    }
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.is_tried {
            self.is_tried = true;
            self.file = self.open();
        }
        match &mut self.file {
            Some(file) => file.write(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), io::Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_first_line_makes_the_file() {
        let data_dir = std::env::temp_dir().join(format!("crewline-log-{}", std::process::id()));
        let mut writer = LogWriter { data_dir: data_dir.clone(), file: None, is_tried: false };
        assert!(!data_dir.exists());
        writer.write_all(b"line\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(std::fs::read_to_string(data_dir.join("logs/crewline.log")).unwrap(), "line\n");
        std::fs::remove_dir_all(data_dir).unwrap();
    }

    #[test]
    fn a_log_that_can_not_be_written_is_silent() {
        let mut writer = LogWriter { data_dir: "/proc/nowhere".into(), file: None, is_tried: false };
        writer.write_all(b"line\n").unwrap();
        writer.flush().unwrap();
    }
}
