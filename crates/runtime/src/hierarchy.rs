//! How memory sums itself up: tasks into their project, and what a summary becomes when a source of it goes.
//!
//! A summary knows exactly what it was made from, because it is an extract: a source that left no line in it is no
//! source of it. The current summary of a project and what came after it make the next one, so the work follows what is
//! new; when a source of it is gone or superseded, it is made from everything again.
//!
//! **Invariant:** a summary never outlives a forgotten source: it goes with it, and is made again without it.
//! **Invariant:** an older version is kept with what it was made from, and is found by its id, not by a search.

use std::collections::{BTreeMap, HashMap, HashSet};

use crewline_engine::context::{self, Section};
use crewline_store::Superseded;
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp};

use crate::{Error, Library};

/// Who makes summaries without a model.
pub(crate) const AGENT: &str = "summariser";
/// Summaries of tasks that one summary of a project is made from at most: the newest.
const SOURCES_MAX: usize = 4_096;
/// Rows of one page.
const PAGE: u32 = 1_024;
/// Answers of a task that its rolling summary is made from at most: the last.
const SAID_MAX: u64 = 64;
/// The key of a summary's version in its metadata.
const VERSION: &str = "version";
/// The key of the last row that a summary has seen.
const COVERS: &str = "covers";

/// What a new version of a project's summary is to be made from.
#[derive(Debug, Clone)]
pub struct Draft {
    scope: ProjectScope,
    /// Oldest first.
    sources: Vec<MemoryRecord>,
    /// What it takes the place of, newest last.
    heads: Vec<MemoryRecord>,
    covers: u64,
}

/// A summary that was made, and what it takes the place of.
#[derive(Debug, Clone)]
pub struct Made {
    /// The summary; none when nothing is left to sum up.
    pub record: Option<MemoryRecord>,
    /// Older versions.
    pub superseded: Vec<MemoryId>,
    /// Whether it says what the version before it says.
    pub is_same: bool,
}

impl Made {
    /// What the database has to be told of it.
    pub(crate) fn superseded(&self) -> Vec<Superseded> {
        let Some(record) = &self.record else { return Vec::new() };
        let of = |old: &MemoryId| Superseded { project: record.project.clone(), old: *old, new: record.id };
        self.superseded.iter().map(of).collect()
    }
}

/// How often a summary was made again, from 1.
pub fn version_of(record: &MemoryRecord) -> u32 {
    record.marks.metadata.get(VERSION).and_then(|it| it.parse().ok()).unwrap_or(1)
}

/// Whether it is a summary that is made again and again.
pub(crate) fn is_version(record: &MemoryRecord) -> bool {
    record.marks.metadata.contains_key(VERSION)
}

/// Whether a newer version of a summary has taken its place, so that no search shall find it.
pub(crate) fn is_old_version(record: &MemoryRecord) -> bool {
    record.marks.superseded_by.is_some() && is_version(record)
}

impl Draft {
    /// What the summary is made from, oldest first.
    pub(crate) fn sources(&self) -> &[MemoryRecord] {
        &self.sources
    }

    /// The most telling lines of the sources.
    pub fn extract(&self, tokens_max: u32, at: Timestamp) -> Made {
        let rolled = context::roll(&sections(&self.sources), tokens_max);
        let used = rolled.used.iter().map(|place| self.sources[*place].id).collect();
        self.made(rolled.text, used, AGENT, at)
    }

    /// The summary with this text, made from `source_ids` by `agent`.
    pub(crate) fn made(&self, text: String, source_ids: Vec<MemoryId>, agent: &str, at: Timestamp) -> Made {
        let version = self.heads.iter().map(version_of).max().unwrap_or(0);
        let project = self.scope.project();
        let kind = MemoryType::ProjectSummary;
        let id = MemoryId::of(project, None, kind.as_str(), &text);
        let is_same = self.heads.iter().any(|head| head.id == id);
        let version = if is_same { version } else { version + 1 };
        let metadata =
            BTreeMap::from([(VERSION.to_owned(), version.to_string()), (COVERS.to_owned(), self.covers.to_string())]);
        let record = MemoryRecord {
            id,
            project: project.into(),
            run: None,
            task: None,
            kind,
            agent: agent.into(),
            created_at: at,
            text: text.into(),
            source_ids,
            marks: MemoryMarks { metadata, ..MemoryMarks::default() },
        };
        let superseded = self.heads.iter().map(|head| head.id).filter(|it| *it != id).collect();
        Made { record: Some(record).filter(|it| !it.text.trim().is_empty()), superseded, is_same }
    }
}

impl Library {
    /// What the next version of the project's summary is made from; none when nothing is new.
    pub async fn draft(&self, scope: &ProjectScope) -> Result<Option<Draft>, Error> {
        let store = self.store();
        let mut heads = store.project_summaries(scope).await?;
        heads.sort_by_key(version_of);
        let known: &[MemoryId] = heads.last().map_or(&[], |head| &head.source_ids);
        let mut sources = store.memories_by_id(scope, known).await?;
        sources.sort_by_key(|(seq, _)| *seq);
        let is_gone = sources.len() != known.len() || sources.iter().any(|(_, it)| it.marks.superseded_by.is_some());
        let is_whole = heads.len() != 1 || is_gone || heads.iter().any(|head| head.marks.stale);
        let mut covers = heads.last().and_then(|head| head.marks.metadata.get(COVERS)?.parse().ok()).unwrap_or(0);
        if is_whole {
            sources.clear();
            covers = 0;
        }
        let before = covers;
        loop {
            let page = store.memories_of_kind(scope, &MemoryType::TaskSummary, covers, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            covers = page.last().map_or(covers, |(seq, _)| *seq);
            sources.extend(page);
            sources.drain(..sources.len().saturating_sub(SOURCES_MAX));
            if is_last {
                break;
            }
        }
        if !is_whole && covers == before || heads.is_empty() && sources.is_empty() {
            return Ok(None);
        }
        let sources = self.in_force(scope, sources.into_iter().map(|(_, record)| record).collect()).await?;
        Ok(Some(Draft { scope: scope.clone(), sources, heads, covers }))
    }

    /// These memories, each with what has taken its place instead of it.
    async fn in_force(&self, scope: &ProjectScope, records: Vec<MemoryRecord>) -> Result<Vec<MemoryRecord>, Error> {
        let mut by_id: HashMap<MemoryId, MemoryRecord> = HashMap::new();
        let mut wanted: Vec<MemoryId> = records.iter().filter_map(|it| it.marks.superseded_by).collect();
        while !wanted.is_empty() {
            let found = self.store().memories_by_id(scope, &wanted).await?;
            wanted = found.iter().filter_map(|(_, it)| it.marks.superseded_by).collect();
            by_id.extend(found.into_iter().map(|(_, record)| (record.id, record)));
            wanted.retain(|id| !by_id.contains_key(id));
        }
        let mut living: Vec<MemoryRecord> = Vec::with_capacity(records.len());
        let mut seen = HashSet::new();
        for record in records {
            let newest = match record.marks.superseded_by {
                Some(newer) => newest_of(&by_id, newer).cloned(),
                None => Some(record),
            };
            living.extend(newest.filter(|it| seen.insert(it.id)));
        }
        Ok(living)
    }

    /// Brings the project's summary up to date; none when it was.
    pub async fn roll_up(&self, scope: &ProjectScope, tokens_max: u32) -> Result<Option<Made>, Error> {
        let Some(draft) = self.draft(scope).await? else { return Ok(None) };
        let at = self.now();
        let made = aside(move || draft.extract(tokens_max, at)).await?;
        self.keep(scope, &made).await?;
        Ok(Some(made))
    }

    /// Writes a summary that was made outside a run's commit, or lets go of what nothing is left of.
    pub async fn keep(&self, scope: &ProjectScope, made: &Made) -> Result<(), Error> {
        match &made.record {
            Some(record) => {
                self.store().replace_memories(std::slice::from_ref(record), &made.superseded()).await?;
                self.take_in(scope, made)?;
            }
            None => {
                self.forget(scope, &made.superseded).await?;
            }
        }
        Ok(())
    }

    /// Makes a summary findable, and its older versions not.
    pub(crate) fn take_in(&self, scope: &ProjectScope, made: &Made) -> Result<(), Error> {
        let local = self.index().local();
        local.remove(scope, &made.superseded);
        if let Some(record) = made.record.as_ref().filter(|_| local.is_loaded(scope)) {
            local.insert(scope, record.clone())?;
        }
        Ok(())
    }

    /// What a task has said so far, in short; none when it has said nothing.
    pub(crate) async fn rolling(&self, about: &MemoryRecord, tokens_max: u32) -> Result<Option<Made>, Error> {
        let Some(task) = about.task else { return Ok(None) };
        let scope = ProjectScope::of(&about.project);
        let said = self.store().said(task, SAID_MAX).await?;
        if said.is_empty() {
            return Ok(None);
        }
        let heads = self.store().rolling_summaries(&scope, task).await?;
        let calls: Vec<String> = said.iter().map(|it| it.call.to_string()).collect();
        let texts: Vec<String> = said.iter().map(|it| it.text.to_string()).collect();
        let summary = aside(move || context::summarise(&texts.join("\n\n"), tokens_max)).await?;
        let text = format!("{} (so far)\n\n{summary}", about.text);
        let id = MemoryId::of(&about.project, about.task, MemoryType::RollingSummary.as_str(), &text);
        let version = heads.iter().map(version_of).max().unwrap_or(0) + 1;
        let metadata =
            BTreeMap::from([(VERSION.to_owned(), version.to_string()), ("calls".to_owned(), calls.join(" "))]);
        let is_same = heads.iter().any(|head| head.id == id);
        let record = MemoryRecord {
            id,
            kind: MemoryType::RollingSummary,
            text: text.into(),
            marks: MemoryMarks { metadata, ..MemoryMarks::default() },
            ..about.clone()
        };
        let superseded = heads.iter().map(|head| head.id).filter(|it| *it != id).collect();
        Ok(Some(Made { record: Some(record), superseded, is_same }))
    }

    /// Takes memories out with all that was made from them, then makes again what has other sources left. Says what is
    /// gone and what was made.
    pub async fn forget_all(
        &self,
        scope: &ProjectScope,
        ids: &[MemoryId],
        tokens_max: u32,
    ) -> Result<(Vec<MemoryId>, Vec<MemoryId>), Error> {
        let all: Vec<MemoryRecord> = self.all(scope).await?.into_iter().map(|(_, record)| record).collect();
        let gone = with_derivatives(&all, ids);
        let is_living = |it: &MemoryRecord| !gone.contains(&it.id);
        let by_id: HashMap<MemoryId, &MemoryRecord> = all.iter().map(|it| (it.id, it)).collect();
        let mut made = Vec::new();
        for record in all.iter().filter(|it| gone.contains(&it.id) && !ids.contains(&it.id) && !is_old_version(it)) {
            let sources: Vec<&MemoryRecord> =
                record.source_ids.iter().filter_map(|id| by_id.get(id).copied()).filter(|it| is_living(it)).collect();
            if record.kind != MemoryType::ProjectSummary && !sources.is_empty() {
                made.extend(remake(record, &sources, Vec::new(), tokens_max, self.now()));
            }
        }
        let gone: Vec<MemoryId> = all.iter().map(|it| it.id).filter(|it| gone.contains(it)).collect();
        self.forget(scope, &gone).await?;
        let made = self.keep_all(scope, made, tokens_max).await?;
        Ok((gone, made))
    }

    /// Makes again what is stale because a source of it was superseded. Says what was made.
    pub async fn refresh(&self, scope: &ProjectScope, tokens_max: u32) -> Result<Vec<MemoryId>, Error> {
        let all: Vec<MemoryRecord> = self.all(scope).await?.into_iter().map(|(_, record)| record).collect();
        let by_id: HashMap<MemoryId, MemoryRecord> = all.iter().map(|it| (it.id, it.clone())).collect();
        let mut made = Vec::new();
        for record in all.iter().filter(|it| it.marks.stale && it.marks.superseded_by.is_none()) {
            if record.kind == MemoryType::ProjectSummary {
                continue;
            }
            let mut sources: Vec<&MemoryRecord> = Vec::new();
            for newest in record.source_ids.iter().filter_map(|id| newest_of(&by_id, *id)) {
                if !sources.iter().any(|it| it.id == newest.id) {
                    sources.push(newest);
                }
            }
            made.extend(remake(record, &sources, vec![record.id], tokens_max, self.now()));
        }
        self.keep_all(scope, made, tokens_max).await
    }

    async fn keep_all(&self, scope: &ProjectScope, made: Vec<Made>, tokens_max: u32) -> Result<Vec<MemoryId>, Error> {
        let mut ids = Vec::new();
        for made in made {
            self.keep(scope, &made).await?;
            ids.extend(made.record.map(|it| it.id));
        }
        if let Some(made) = self.roll_up(scope, tokens_max).await? {
            ids.extend(made.record.map(|it| it.id));
        }
        Ok(ids)
    }
}

/// These memories with all that was made from them, however far up.
pub fn with_derivatives(all: &[MemoryRecord], ids: &[MemoryId]) -> HashSet<MemoryId> {
    let mut made_from: HashMap<MemoryId, Vec<MemoryId>> = HashMap::new();
    for record in all {
        for source in &record.source_ids {
            made_from.entry(*source).or_default().push(record.id);
        }
    }
    let mut found: HashSet<MemoryId> = HashSet::new();
    let mut open = ids.to_vec();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(made_from.get(&id).into_iter().flatten());
        }
    }
    found
}

/// The memory that has taken the place of this one in the end; none when it is gone.
fn newest_of(by_id: &HashMap<MemoryId, MemoryRecord>, id: MemoryId) -> Option<&MemoryRecord> {
    let mut record = by_id.get(&id)?;
    // A circle can not be longer than all memories.
    for _ in 0..by_id.len() {
        match record.marks.superseded_by.and_then(|newer| by_id.get(&newer)) {
            Some(newer) => record = newer,
            None => break,
        }
    }
    Some(record)
}

/// A summary again, from these sources; its first line stays.
fn remake(
    record: &MemoryRecord,
    sources: &[&MemoryRecord],
    superseded: Vec<MemoryId>,
    tokens_max: u32,
    at: Timestamp,
) -> Option<Made> {
    let owned: Vec<MemoryRecord> = sources.iter().map(|it| (*it).clone()).collect();
    let rolled = context::roll(&sections(&owned), tokens_max);
    if rolled.text.trim().is_empty() {
        return None;
    }
    let head = record.text.lines().next().unwrap_or_default();
    let text = format!("{head}\n\n{}", rolled.text);
    let id = MemoryId::of(&record.project, record.task, record.kind.as_str(), &text);
    let mut marks = MemoryMarks { stale: false, superseded_by: None, ..record.marks.clone() };
    marks.metadata.insert(VERSION.to_owned(), (version_of(record) + 1).to_string());
    let superseded: Vec<MemoryId> = superseded.into_iter().filter(|it| *it != id).collect();
    let record = MemoryRecord {
        id,
        created_at: at,
        text: text.into(),
        source_ids: rolled.used.iter().map(|place| owned[*place].id).collect(),
        marks,
        ..record.clone()
    };
    Some(Made { record: Some(record), is_same: false, superseded })
}

/// The first line of a summary is its title.
fn sections<'a>(records: &'a [MemoryRecord]) -> Vec<Section<'a>> {
    let section = |record: &'a MemoryRecord| match record.text.split_once('\n') {
        Some((title, text)) => Section { title, text: text.trim_start() },
        None => Section { title: "Note", text: &record.text },
    };
    records.iter().map(section).collect()
}

/// Runs `work` on a thread that may block: summing up thousands of texts takes longer than an actor may.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Actor(crate::actor::AskError::Gone))
}
