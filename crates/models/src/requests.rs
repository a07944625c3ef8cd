//! The log of requests: what models were asked and answered, one JSON object a line, with secrets taken out.
//!
//! **Invariant:** nothing is written before it was redacted; metadata names no word of a prompt or an answer.
//! **Invariant:** a call never waits for the log: what does not fit into the queue is left out, and counted in the next line.

use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use crewline_types::{Clock as _, ModelAlias, SystemClock, TextHash};
use regex::Regex;
use serde::Serialize;

use crate::{ChatReply, ChatRequest, Error};

/// Lines that may wait to be written.
const QUEUE: usize = 1_024;
/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// Secrets that look like secrets: keys of providers and forges, tokens, private keys, and what is assigned to such a name.
const BUILT_IN: [&str; 11] = [
    r"\bcrewline_[a-z0-9]{8}_[0-9a-f]{16,}",
    r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{16,}",
    r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}",
    r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\bAIza[A-Za-z0-9_-]{30,}",
    r"\bhf_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[A-Za-z0-9_-]{30,}",
    r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    r#"(?i)\b(?:api[_-]?key|access[_-]?token|auth[_-]?token|secret|password|passwd|client[_-]?secret)\b["']?\s*[:=]\s*["']?[^\s"',;]{6,}"#,
];

/// How much of each request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// When, whom, how long, how many tokens, how it ended.
    Metadata,
    /// All that was said as well.
    Full,
}

/// Takes secrets out of texts.
#[derive(Debug)]
pub struct Redactor(Vec<Regex>);

impl Redactor {
    /// The built-in patterns and `patterns`; the error names the one that is none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        let all = BUILT_IN.into_iter().chain(patterns);
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|error| BadPattern { pattern: pattern.to_owned(), message: error.to_string() })
        };
        all.map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// The text without what looks like a secret.
    pub fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, pattern| {
            if pattern.is_match(&text) { pattern.replace_all(&text, REDACTED).into_owned() } else { text }
        })
    }
}

/// A pattern is no regular expression.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{pattern}` is no regular expression: {message}")]
pub struct BadPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong.
    pub message: String,
}

/// The log of requests.
pub struct RequestLog {
    detail: Detail,
    /// None once it is being closed.
    queue: Mutex<Option<SyncSender<Entry>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    left_out: AtomicU64,
}

impl fmt::Debug for RequestLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RequestLog").field("detail", &self.detail).finish_non_exhaustive()
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct Entry {
    at: crewline_types::Timestamp,
    model: String,
    provider: String,
    /// Names the prompt; `trace` shows the same.
    prompt: TextHash,
    messages: usize,
    output_tokens_max: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    input_tokens: u64,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_ms: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    said: Vec<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    /// Lines that were left out before this one.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[derive(Debug, Serialize)]
struct Said {
    role: &'static str,
    text: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl RequestLog {
    /// Appends to the file at `path`, which only its owner may read.
    pub fn open(path: &Path, detail: Detail, redactor: Redactor) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let (queue, lines) = sync_channel(QUEUE);
        let writer =
            std::thread::Builder::new().name("requests".into()).spawn(move || write_all(file, &redactor, &lines))?;
        Ok(Self {
            detail,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
            left_out: AtomicU64::new(0),
        })
    }

    /// Keeps a request and how it ended.
    pub(crate) fn record(
        &self,
        model: &ModelAlias,
        provider: &str,
        request: &ChatRequest,
        result: &Result<ChatReply, Error>,
    ) {
        let is_full = self.detail == Detail::Full;
        let said = request.messages.iter().map(|it| Said { role: it.speaker.as_str(), text: it.text.to_string() });
        let usage = result.as_ref().map(|reply| reply.usage).unwrap_or_default();
        let entry = Entry {
            at: SystemClock.now(),
            model: model.as_str().into(),
            provider: provider.into(),
            prompt: prompt_hash(request),
            messages: request.messages.len(),
            output_tokens_max: request.output_tokens_max,
            temperature: request.temperature,
            outcome: result.as_ref().map_or_else(|error| error.outcome().as_str(), |_| "ok"),
            // The text of an error may quote what was said.
            error: result.as_ref().err().map(|error| match self.detail {
                Detail::Metadata => error.code().to_owned(),
                Detail::Full => error.to_string(),
            }),
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            elapsed_ms: result.as_ref().ok().map(|it| u64::try_from(it.elapsed.as_millis()).unwrap_or(u64::MAX)),
            said: if is_full { said.collect() } else { Vec::new() },
            reply: result.as_ref().ok().filter(|_| is_full).map(|reply| reply.text.clone()),
            left_out: self.left_out.swap(0, Ordering::Relaxed),
        };
        let left_out = entry.left_out;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(entry).is_err()) {
            self.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for RequestLog {
    /// What waits is written before the program ends.
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A writer that panicked has nothing more to write.
            let _ = writer.join();
        }
    }
}

/// The name that calls are recorded under.
fn prompt_hash(request: &ChatRequest) -> TextHash {
    let mut all = String::new();
    for message in &request.messages {
        all.push_str(&message.text);
        all.push('\u{1e}');
    }
    TextHash::of(&all)
}

fn write_all(file: File, redactor: &Redactor, lines: &Receiver<Entry>) {
    let mut out = BufWriter::new(file);
    while let Ok(mut entry) = lines.recv() {
        for said in &mut entry.said {
            said.text = redactor.redact(&said.text);
        }
        entry.reply = entry.reply.as_deref().map(|text| redactor.redact(text));
        entry.error = entry.error.as_deref().map(|text| redactor.redact(text));
        let Ok(line) = serde_json::to_string(&entry) else { continue };
        // A log that can not be written must not keep a crew from working.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            tracing::warn!("the log of requests can not be written; it ends here");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_taken_out() {
        let redactor = Redactor::new(["ACME-[0-9]+"]).unwrap();
        for secret in [
            concat!("sk-", "ant-", "api03-abcdefghijklmnop"),
            "ghp_abcdefghijklmnopqrstuvwx0123",
            "xoxb-123456789012-abcdef",
            "AKIAABCDEFGHIJKLMNOP",
            "Bearer abcdef.ghijkl-mnopqr",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\ncut off",
            "password = hunter2hunter2",
            "\"api_key\": \"0123456789abcdef\"",
            "ACME-4711",
        ] {
            let text = redactor.redact(&format!("before {secret} after"));
            assert!(text.contains(REDACTED), "{secret}: {text}");
            for part in secret.split(['\n', ' ', '"']).filter(|it| it.len() > 10 && !it.starts_with('-')) {
                assert!(!text.contains(part), "{part} in {text}");
            }
        }
        for harmless in ["The secret of good tea is time.", "ask the bearer of news", "a task-based plan", "skills"] {
            assert_eq!(redactor.redact(harmless), harmless);
        }
        assert!(Redactor::new(["("]).unwrap_err().to_string().contains("no regular expression"));
    }
}
