//! What a run leaves on disk: `RESULT.md`, `INDEX.md`, `tasks/<id>-<slug>.md`, `report.json`.
//!
//! **Invariant:** what is written gets its name when it is whole: a file, or the folder of all tasks where there was none.

use std::{
    collections::HashMap,
    fmt::Write,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crewline_engine::citations;
use crewline_store::{AttemptStatus, Store};
use crewline_types::{AttemptId, RunStatus, TaskId, TaskKind, TaskStatus, TextHash};
use serde::Serialize;

use crate::{CitationReport, Error, Report, TaskReport, trace};

/// Results read from the database at once.
const PAGE: usize = 256;

/// The folder of the tasks' documents, below the run's.
const TASKS: &str = "tasks";

/// Writes the documents of `report` into `out`.
pub async fn write(store: &Store, report: &Report, out: &Path) -> Result<(), Error> {
    let tasks: Vec<&TaskReport> = report.tasks.iter().filter(|task| task.kind != TaskKind::Root).collect();
    let shelf = Shelf::of(out)?;
    let last = report.last_task().map(|task| task.id);
    let told = trace::contexts(store, report.run).await?;
    let mut citations = Vec::new();
    let mut result = None;
    for page in tasks.chunks(PAGE) {
        let hashes: Vec<TextHash> = page.iter().filter_map(|task| task.result).collect();
        let texts = store.texts(&hashes).await?;
        let mut files = Vec::with_capacity(page.len());
        for task in page {
            let (Some(name), Some(text)) = (&task.document, task.result.and_then(|hash| texts.get(&hash))) else {
                continue;
            };
            if last == Some(task.id) {
                result = Some(Arc::clone(text));
            }
            let made = task.attempts.iter().rev().find(|it| it.status == AttemptStatus::Succeeded);
            let id = made.map(|it| AttemptId { task: task.id, number: it.number });
            if let Some(told) = id.and_then(|id| told.get(&id)) {
                let found = citations::check(text, told);
                if !found.is_fine() {
                    citations.push(CitationReport { task: task.id, key: Arc::clone(&task.key), citations: found });
                }
            }
            files.push((shelf.place(out, name), task_document(task, text)));
        }
        shelf.put(files).await?;
    }
    shelf.close(out)?;
    let json = serde_json::to_string_pretty(&WithCitations { report, citations })
        .map_err(|error| Error::Io { path: out.join("report.json"), source: io::Error::other(error) })?;
    write_all(vec![
        (out.join("INDEX.md"), index(report)),
        (out.join("RESULT.md"), result_document(report, result.as_deref())),
        (out.join("report.json"), json),
    ])
    .await
}

/// The report, and what is to be said of what outputs cite.
#[derive(Serialize)]
struct WithCitations<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Tasks that cite what they were not told, or do not cite what they require.
    citations: Vec<CitationReport>,
}

/// Where the tasks' documents go. To rename one folder is cheaper than to rename each of a thousand files.
enum Shelf {
    /// There is none yet: it gets its name at the end.
    New(PathBuf),
    /// It has documents already, which stay unless one of the same name replaces them.
    Old,
}

impl Shelf {
    fn of(out: &Path) -> Result<Self, Error> {
        let partial = out.join(TASKS).with_extension("partial");
        if out.join(TASKS).exists() {
            return Ok(Self::Old);
        }
        let make = || {
            // What a crash has left is written again.
            if partial.exists() {
                std::fs::remove_dir_all(&partial)?;
            }
            std::fs::create_dir_all(&partial)
        };
        make().map_err(|source| Error::Io { path: partial.clone(), source })?;
        Ok(Self::New(partial))
    }

    /// Where the document with this name below `out` is written.
    fn place(&self, out: &Path, name: &str) -> PathBuf {
        match self {
            Self::New(partial) => partial.join(Path::new(name).file_name().unwrap_or_default()),
            Self::Old => out.join(name),
        }
    }

    async fn put(&self, files: Vec<(PathBuf, String)>) -> Result<(), Error> {
        match self {
            Self::New(_) => write_each(files, |path, text| std::fs::write(path, text)).await,
            Self::Old => write_all(files).await,
        }
    }

    fn close(self, out: &Path) -> Result<(), Error> {
        match self {
            Self::New(partial) => {
                let folder = out.join(TASKS);
                std::fs::rename(partial, &folder).map_err(|source| Error::Io { path: folder, source })
            }
            Self::Old => Ok(()),
        }
    }
}

async fn write_all(files: Vec<(PathBuf, String)>) -> Result<(), Error> {
    write_each(files, replace).await
}

async fn write_each(files: Vec<(PathBuf, String)>, write: fn(&Path, &str) -> io::Result<()>) -> Result<(), Error> {
    let written = tokio::task::spawn_blocking(move || {
        files.into_iter().try_for_each(|(path, text)| write(&path, &text).map_err(|source| Error::Io { path, source }))
    });
    written.await.map_err(|_| Error::Actor(crate::actor::AskError::Gone))?
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)
}

fn task_document(task: &TaskReport, text: &str) -> String {
    // Without its id, which the file's name has: a task that is made again in the same way has the same document.
    let mut page = format!("<!-- {} by {}", task.key, task.role);
    if let Some(model) = &task.model {
        write!(page, " with {model}").ok();
    }
    page.push_str(" -->\n");
    if !text.trim_start().starts_with("# ") {
        writeln!(page, "# {}\n", task.title).ok();
    }
    page.push_str(text.trim_end());
    page.push('\n');
    page
}

fn result_document(report: &Report, result: Option<&str>) -> String {
    if let Some(text) = result {
        return format!("{}\n", text.trim_end());
    }
    let mut page =
        format!("# {}\n\nThis run is {} and has no final document.\n", one_line(&report.goal), report.status.as_str());
    if let Some(error) = &report.error {
        writeln!(page, "\nReason: {} (`{}`)", error.message, error.code).ok();
    }
    if matches!(report.status, RunStatus::Interrupted | RunStatus::LimitReached | RunStatus::Running) {
        writeln!(page, "\nContinue it: `crewline resume {}`", report.run).ok();
    }
    let made: Vec<&TaskReport> = report.tasks.iter().filter(|task| task.document.is_some()).collect();
    if !made.is_empty() {
        page.push_str("\nWhat was made:\n\n");
        for task in made {
            writeln!(page, "- [{}]({})", one_line(&task.title), task.document.as_deref().unwrap_or_default()).ok();
        }
    }
    page
}

fn index(report: &Report) -> String {
    let mut page = format!("# Index\n\n## Goal\n\n{}\n\n", report.goal.trim());
    writeln!(page, "Run `{}` of project `{}`: {}.\n", report.run, report.project, report.status.as_str()).ok();
    page.push_str("## Tasks\n\n");
    let keys: HashMap<TaskId, &str> = report.tasks.iter().map(|task| (task.id, &*task.key)).collect();
    for task in report.tasks.iter().filter(|task| task.kind != TaskKind::Root) {
        let title = one_line(&task.title);
        let title = match &task.document {
            Some(document) => format!("[{title}]({document})"),
            None => title,
        };
        write!(page, "- `{}` `{}` {title} — {}, {}", task.id, task.key, task.role, task.status).ok();
        if !task.depends_on.is_empty() {
            let needs: Vec<&str> = task.depends_on.iter().filter_map(|id| keys.get(id).copied()).take(20).collect();
            write!(page, "; requires {}", needs.join(", ")).ok();
            if task.depends_on.len() > needs.len() {
                write!(page, " and {} more", task.depends_on.len() - needs.len()).ok();
            }
        }
        if let (Some(reason), TaskStatus::Failed | TaskStatus::Blocked) = (&task.reason, task.status) {
            write!(page, "; {}", one_line(reason)).ok();
        }
        page.push('\n');
    }
    if !report.repairs.is_empty() {
        page.push_str("\n## Repairs of the plan\n\n");
        for repair in &report.repairs {
            writeln!(page, "- {}", one_line(repair)).ok();
        }
    }
    if !report.refused.is_empty() {
        page.push_str("\n## Tasks that did not enter the plan\n\n");
        for wish in &report.refused {
            writeln!(page, "- {}", one_line(wish)).ok();
        }
    }
    page.push_str("\n## Rules\n\n- The final document is [RESULT.md](RESULT.md); cost and timings are in [report.json](report.json).\n");
    page.push_str("- Outputs cite their sources as `[task:<id>]`.\n");
    page
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
