//! The live view: what a run is doing, as lines of text, from its events alone.
//!
//! **Invariant:** [`Board::lines`] is a pure function of the events applied, the time and the size; it never gives more
//! lines or columns than asked for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_runtime::Report;
use crewline_types::{
    Event, EventBody, MicroUsd, RunStatus, TaskId, TaskKind, TaskStatus, Timestamp, Usage,
    event::{PlanEntry, TaskAction},
};

use crate::view::{Style, clean, cost, count, duration, fit, pad, tokens, width};

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Retrying,
    Parked,
    Done,
    Failed,
    Blocked,
    Asking,
}

impl State {
    fn of(status: TaskStatus) -> Self {
        match status {
            TaskStatus::Pending => Self::Waiting,
            TaskStatus::InProgress => Self::Running,
            TaskStatus::Blocked => Self::Blocked,
            TaskStatus::AwaitingApproval => Self::Asking,
            TaskStatus::Completed => Self::Done,
            TaskStatus::Failed | TaskStatus::Cancelled => Self::Failed,
        }
    }

    fn glyph(self, frame: usize) -> &'static str {
        const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
        match self {
            Self::Waiting => "·",
            Self::Running => SPINNER[frame % SPINNER.len()],
            Self::Retrying => "↻",
            Self::Parked => "⏸",
            Self::Done => "✔",
            Self::Failed => "✘",
            Self::Blocked => "⊘",
            Self::Asking => "?",
        }
    }

    fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Waiting => style.dim(text),
            Self::Running => style.cyan(text),
            Self::Retrying | Self::Parked | Self::Asking => style.yellow(text),
            Self::Done => style.green(text),
            Self::Failed | Self::Blocked => style.red(text),
        }
    }

    /// What is worth seeing most comes first when not everything fits.
    fn rank(self) -> u8 {
        match self {
            Self::Running => 0,
            Self::Asking => 1,
            Self::Retrying | Self::Parked => 2,
            Self::Failed => 3,
            Self::Blocked => 4,
            Self::Waiting => 5,
            Self::Done => 6,
        }
    }
}

#[derive(Debug)]
struct Row {
    key: Arc<str>,
    title: Arc<str>,
    role: Arc<str>,
    needs: Vec<TaskId>,
    is_root: bool,
    state: State,
    model: Option<Arc<str>>,
    started: Option<Timestamp>,
    elapsed: Option<Duration>,
    usage: Usage,
    cost: MicroUsd,
    unpriced: u64,
}

/// What a run is doing.
#[derive(Debug, Default)]
pub(crate) struct Board {
    goal: Arc<str>,
    rows: Vec<Row>,
    places: HashMap<TaskId, usize>,
    started: Option<Timestamp>,
    usage: Usage,
    cost: MicroUsd,
    unpriced: u64,
    calls: u64,
    note: Option<Arc<str>>,
}

impl Board {
    /// A run that goes on from what is recorded.
    pub(crate) fn of_report(report: &Report) -> Self {
        let mut board = Self { goal: report.goal.clone(), ..Self::default() };
        // The root has done its work, or will be seen when it starts.
        for task in report.tasks.iter().filter(|task| task.kind != TaskKind::Root) {
            let place = board.row(task.id, &task.key, &task.title, task.role.as_str(), false);
            let row = &mut board.rows[place];
            row.needs.clone_from(&task.depends_on);
            row.state = State::of(task.status);
            row.model = task.model.as_deref().map(Arc::from);
            row.elapsed = task.elapsed_ms.map(Duration::from_millis);
            row.usage = task.usage;
            row.cost = task.cost_usd;
        }
        board.usage = report.usage;
        board.cost = report.cost_usd;
        board.unpriced = report.unpriced_calls;
        board.calls = report.calls;
        board
    }

    /// Takes in one event.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.started = self.started.or(Some(event.at));
        match &event.body {
            EventBody::RunStarted { goal, .. } => {
                self.goal = goal.clone();
                self.started = Some(event.at);
            }
            EventBody::PlanReady { tasks, .. } => self.plan(tasks),
            EventBody::TaskStarted { key, title, role, model, .. } => {
                let Some(task) = event.task else { return };
                // Only the root starts before there is a plan.
                let is_root = !self.places.contains_key(&task);
                let place = self.row(task, key, title, role.as_str(), is_root);
                let row = &mut self.rows[place];
                row.state = State::Running;
                row.model = Some(model.clone());
                row.started = row.started.or(Some(event.at));
            }
            EventBody::ModelCall { model, usage, cost_usd, .. } => {
                self.calls += 1;
                self.usage += *usage;
                self.cost += cost_usd.unwrap_or_default();
                self.unpriced += u64::from(cost_usd.is_none());
                if let Some(row) = self.find(event.task) {
                    row.model = Some(model.clone());
                    row.usage += *usage;
                    row.cost += cost_usd.unwrap_or_default();
                    row.unpriced += u64::from(cost_usd.is_none());
                }
            }
            EventBody::TaskCompleted { model, elapsed_ms, .. } => {
                if let Some(row) = self.find(event.task) {
                    row.state = State::Done;
                    row.model = Some(model.clone());
                    row.elapsed = Some(Duration::from_millis(*elapsed_ms));
                }
            }
            EventBody::TaskFailed { will_retry, .. } => {
                if let Some(row) = self.find(event.task) {
                    row.state = if *will_retry { State::Retrying } else { State::Failed };
                    if !will_retry {
                        row.elapsed = row.started.map(|started| event.at.since(started));
                    }
                }
            }
            EventBody::TaskParked { .. } | EventBody::TaskPlanned { .. } => {
                if let Some(row) = self.find(event.task) {
                    row.state = State::Parked;
                }
            }
            EventBody::TaskBlocked { .. } => {
                if let Some(row) = self.find(event.task) {
                    row.state = State::Blocked;
                }
            }
            EventBody::AwaitingApproval { .. } => {
                if let Some(row) = self.find(event.task) {
                    row.state = State::Asking;
                }
            }
            EventBody::BudgetReached { message, .. } => self.note = Some(message.clone()),
            EventBody::TaskOverdue { key, deadline } => {
                self.note = Some(format!("{key} is overdue: its deadline was {deadline}").into());
            }
            EventBody::ToolCall { .. }
            | EventBody::MemoryStored { .. }
            | EventBody::TaskChanged { .. }
            | EventBody::IndexChanged { .. }
            | EventBody::SummaryReady { .. }
            | EventBody::RunFinished { .. } => {}
        }
    }

    /// What stands below the rows until the end.
    pub(crate) fn set_note(&mut self, note: &str) {
        self.note = Some(note.into());
    }

    /// Attempts that run now.
    pub(crate) fn running(&self) -> usize {
        self.rows.iter().filter(|row| row.state == State::Running).count()
    }

    fn plan(&mut self, tasks: &[PlanEntry]) {
        for task in tasks {
            let place = self.row(task.id, &task.key, &task.title, task.role.as_str(), task.kind == TaskKind::Root);
            self.rows[place].needs.clone_from(&task.depends_on);
        }
    }

    fn row(&mut self, id: TaskId, key: &Arc<str>, title: &Arc<str>, role: &str, is_root: bool) -> usize {
        *self.places.entry(id).or_insert_with(|| {
            self.rows.push(Row {
                key: key.clone(),
                title: title.clone(),
                role: role.into(),
                needs: Vec::new(),
                is_root,
                state: State::Waiting,
                model: None,
                started: None,
                elapsed: None,
                usage: Usage::default(),
                cost: MicroUsd::ZERO,
                unpriced: 0,
            });
            self.rows.len() - 1
        })
    }

    fn find(&mut self, task: Option<TaskId>) -> Option<&mut Row> {
        let place = *self.places.get(&task?)?;
        self.rows.get_mut(place)
    }

    /// The view: the goal, the plan as a tree, the totals. At most `lines_max` lines of `columns` columns.
    pub(crate) fn lines(&self, now: Timestamp, columns: usize, lines_max: usize, style: Style) -> Vec<String> {
        let frame = usize::try_from(now.0 / 100_000).unwrap_or(0);
        let mut lines = vec![style.bold(&fit(&clean(&self.goal), columns))];
        let rows_max = lines_max.saturating_sub(2 + usize::from(self.note.is_some()));
        let (shown, hidden) = self.choose(rows_max);
        for (at, place) in shown.iter().enumerate() {
            let is_last = at + 1 == shown.len() && hidden.is_none();
            lines.push(self.line(&self.rows[*place], is_last, frame, now, columns, style));
        }
        if let Some(hidden) = hidden {
            lines.push(style.dim(&fit(&format!("└─ {hidden}"), columns)));
        }
        if let Some(note) = &self.note {
            lines.push(style.yellow(&fit(&clean(note), columns)));
        }
        lines.push(style.dim(&fit(&self.footer(now), columns)));
        lines.truncate(lines_max.max(1));
        lines
    }

    /// The rows that fit, in plan order, and what is said about the others.
    fn choose(&self, rows_max: usize) -> (Vec<usize>, Option<String>) {
        if self.rows.len() <= rows_max {
            return ((0..self.rows.len()).collect(), None);
        }
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|place| {
            let row = &self.rows[*place];
            (row.state.rank(), std::cmp::Reverse(row.started), *place)
        });
        let mut shown: Vec<usize> = order.drain(..rows_max.saturating_sub(1).min(order.len())).collect();
        shown.sort_unstable();
        let counted = |state: State| order.iter().filter(|place| self.rows[**place].state == state).count();
        let mut parts = Vec::new();
        for (state, word) in [
            (State::Running, "running"),
            (State::Asking, "waiting for you"),
            (State::Retrying, "to be retried"),
            (State::Parked, "waiting for a model"),
            (State::Failed, "failed"),
            (State::Blocked, "blocked"),
            (State::Waiting, "waiting"),
            (State::Done, "done"),
        ] {
            match counted(state) {
                0 => {}
                number => parts.push(format!("{} {word}", count(number as u64))),
            }
        }
        (shown, Some(format!("and {}", parts.join(", "))))
    }

    fn line(&self, row: &Row, is_last: bool, frame: usize, now: Timestamp, columns: usize, style: Style) -> String {
        let branch = match (row.is_root, is_last) {
            (true, _) => "",
            (false, true) => "└─ ",
            (false, false) => "├─ ",
        };
        let spent = match row.usage.input_tokens + row.usage.output_tokens {
            0 => String::new(),
            _ => format!("{:>13} {:>9}", tokens(&row.usage), cost(row.cost, row.unpriced)),
        };
        let elapsed = match (row.elapsed, row.started) {
            (Some(elapsed), _) => duration(elapsed),
            (None, Some(started)) => duration(now.since(started)),
            (None, None) => String::new(),
        };
        let model = clean(row.model.as_deref().unwrap_or(""));
        let right = format!("{} {:>9} {}", pad(&model, 12), elapsed, spent);
        let right = right.trim_end();
        let role = pad(&clean(&row.role), 12);
        let head = width(branch) + 2 + width(&role) + 1;
        let key = if row.is_root { String::new() } else { format!("{} ", clean(&row.key)) };
        let mut title = format!("{key}{}", clean(&row.title));
        if row.state == State::Waiting && !row.needs.is_empty() {
            let keys = row.needs.iter().filter_map(|id| self.places.get(id)).map(|place| clean(&self.rows[*place].key));
            title = format!("{title} ← {}", keys.collect::<Vec<_>>().join(", "));
        }
        let glyph = row.state.paint(style, row.state.glyph(frame));
        // The right half is dropped before the title gets unreadable.
        if columns >= head + 16 + 1 + width(right) {
            let title = pad(&title, columns - head - 1 - width(right));
            format!("{}{glyph} {} {title} {}", style.dim(branch), style.dim(&role), style.dim(right))
        } else if columns >= head + 8 {
            format!("{}{glyph} {} {}", style.dim(branch), style.dim(&role), fit(&title, columns - head))
        } else {
            let left = columns.saturating_sub(2);
            if left == 0 { String::new() } else { format!("{glyph} {}", fit(&title, left)) }
        }
    }

    fn footer(&self, now: Timestamp) -> String {
        let tasks = self.rows.iter().filter(|row| !row.is_root);
        let done = tasks.clone().filter(|row| row.state == State::Done).count();
        let total = tasks.count();
        let elapsed = self.started.map_or(Duration::ZERO, |started| now.since(started));
        let plan = if total == 0 { "planning".to_owned() } else { format!("{done}/{total} tasks") };
        format!(
            "{plan} · {} running · {} calls · {} tokens · {} · {}",
            self.running(),
            count(self.calls),
            tokens(&self.usage),
            cost(self.cost, self.unpriced),
            duration(elapsed),
        )
    }

    /// One line for a pipe or a log; `None` for events that are not worth one. Call before [`Self::apply`].
    pub(crate) fn plain(&self, event: &Event) -> Option<String> {
        let at = event.at.since(self.started.unwrap_or(event.at));
        let line = match &event.body {
            EventBody::RunStarted { goal, resumed, .. } => {
                let word = if *resumed { "resumed" } else { "started" };
                format!("run {} {word}: {}", event.run, fit(&clean(goal), 200))
            }
            EventBody::PlanReady { tasks, repairs } => {
                let mut line = format!("plan ready: {} tasks", tasks.len());
                for repair in repairs {
                    line.push_str("\n  repaired: ");
                    line.push_str(&clean(repair));
                }
                line
            }
            EventBody::TaskStarted { key, title, role, model, .. } => {
                format!("{key} started: {} ({role}, {model})", fit(&clean(title), 100))
            }
            EventBody::TaskCompleted { key, copied_from: Some(task), .. } => {
                format!("{key} completed before: taken over from {task}")
            }
            // No model made it: a person did, or it is put together from the tasks below.
            EventBody::TaskCompleted { key, model, .. } if model.is_empty() => format!("{key} completed"),
            EventBody::TaskCompleted { key, usage, cost_usd, elapsed_ms, model, .. } => {
                let time = duration(Duration::from_millis(*elapsed_ms));
                format!("{key} completed in {time} ({model}, {} tokens, {})", tokens(usage), cost(*cost_usd, 0))
            }
            EventBody::TaskFailed { key, error, will_retry, .. } => {
                let then = if *will_retry { ", trying again" } else { "" };
                format!("{key} failed{then}: {} [{}]", fit(&clean(&error.message), 300), error.code)
            }
            EventBody::TaskParked { key, error, until, .. } => {
                let again = duration(until.since(event.at));
                format!(
                    "{key} waits for a model, at least {again}: {} [{}]",
                    fit(&clean(&error.message), 300),
                    error.code
                )
            }
            EventBody::TaskPlanned { key, until } => format!("{key} is planned for {until}, and begins by itself"),
            EventBody::TaskOverdue { key, deadline } => format!("{key} is overdue: its deadline was {deadline}"),
            EventBody::TaskBlocked { key, reason } => format!("{key} blocked: {}", fit(&clean(reason), 300)),
            EventBody::AwaitingApproval { what, approval, .. } => {
                let id = approval.map(|id| format!(" ({id})")).unwrap_or_default();
                format!("waits for a decision{id}: {}", fit(&clean(what), 300))
            }
            EventBody::BudgetReached { message, .. } => format!("limit reached: {}", clean(message)),
            EventBody::RunFinished { status, .. } => format!("run {} {}", event.run, words(*status)),
            EventBody::TaskChanged { key, action: TaskAction::Refused, detail, .. } => {
                format!("{key} asked for a task that does not enter the plan: {}", fit(&clean(detail), 300))
            }
            EventBody::TaskChanged { key, action, agent, .. } => {
                format!("{key} {} by {}", action.as_str(), fit(&clean(agent), 60))
            }
            EventBody::IndexChanged { version, agent } => {
                format!("INDEX.md version {version} by {}", fit(&clean(agent), 60))
            }
            EventBody::ModelCall { .. }
            | EventBody::ToolCall { .. }
            | EventBody::MemoryStored { .. }
            | EventBody::SummaryReady { .. } => {
                return None;
            }
        };
        Some(format!("[{:>8}] {line}", duration(at)))
    }
}

/// A run's status for people.
pub(crate) fn words(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "is running",
        RunStatus::Completed => "completed",
        RunStatus::Failed => "failed",
        RunStatus::Cancelled => "was cancelled",
        RunStatus::Interrupted => "was interrupted",
        RunStatus::LimitReached => "reached a limit",
    }
}

#[cfg(test)]
mod tests {
    use crewline_types::{ErrorKind, Role, TaskCounts, event::CallOutcome, event::ErrorNote};

    use super::*;

    fn id(number: usize) -> TaskId {
        format!("{number:08}").parse().unwrap()
    }

    fn event(ms: i64, task: Option<usize>, body: EventBody) -> Event {
        let run = "k3v9x0ab".parse().unwrap();
        Event { seq: 1, at: Timestamp(ms * 1_000), run, task: task.map(id), attempt: Some(1), body }
    }

    fn entry(number: usize, needs: &[usize]) -> PlanEntry {
        PlanEntry {
            id: id(number),
            key: format!("t{number}").into(),
            title: format!("Task {number}").into(),
            role: Role::from("writer"),
            kind: TaskKind::Atomic,
            depends_on: needs.iter().map(|need| id(*need)).collect(),
        }
    }

    fn started(number: usize) -> EventBody {
        EventBody::TaskStarted {
            key: format!("t{number}").into(),
            title: format!("Task {number}").into(),
            role: Role::from("writer"),
            model: "cheap".into(),
            route: [].into(),
        }
    }

    fn call(input: u64) -> EventBody {
        EventBody::ModelCall {
            call: "x".into(),
            role: Role::from("writer"),
            model: "cheap".into(),
            provider: "stub".into(),
            outcome: CallOutcome::Ok,
            usage: Usage { input_tokens: input, output_tokens: 5, ..Usage::default() },
            cost_usd: Some(MicroUsd(1_500)),
            elapsed_ms: 10,
            error: None,
            checks: Vec::new(),
        }
    }

    fn completed(number: usize) -> EventBody {
        EventBody::TaskCompleted {
            key: format!("t{number}").into(),
            role: Role::from("writer"),
            model: "cheap".into(),
            usage: Usage { input_tokens: 340, output_tokens: 5, ..Usage::default() },
            cost_usd: MicroUsd(1_500),
            elapsed_ms: 1_200,
            copied_from: None,
        }
    }

    fn failed(number: usize, will_retry: bool) -> EventBody {
        let error = ErrorNote { code: "model.timeout".into(), kind: ErrorKind::Timeout, message: "too slow".into() };
        EventBody::TaskFailed { key: format!("t{number}").into(), role: Role::from("writer"), error, will_retry }
    }

    fn board(tasks: usize) -> Board {
        let mut board = Board::default();
        board.apply(&event(
            0,
            None,
            EventBody::RunStarted { project: "p".into(), goal: "Goal".into(), resumed: false },
        ));
        let tasks = (1..=tasks).map(|number| entry(number, if number > 1 { &[1] } else { &[] })).collect();
        board.apply(&event(100, None, EventBody::PlanReady { tasks, repairs: vec![] }));
        board
    }

    #[test]
    fn the_plan_is_a_tree_with_states_and_totals() {
        let mut board = board(3);
        board.apply(&event(200, Some(1), started(1)));
        board.apply(&event(1_300, Some(1), call(340)));
        board.apply(&event(1_400, Some(1), completed(1)));
        board.apply(&event(1_400, Some(2), started(2)));
        let lines = board.lines(Timestamp(3_400_000), 100, 24, Style::PLAIN);
        assert_eq!(lines[0], "Goal");
        assert!(lines[1].starts_with("├─ ✔ writer       t1 Task 1"), "{}", lines[1]);
        assert!(lines[1].ends_with("cheap            1.2 s         340→5   $0.0015"), "{}", lines[1]);
        assert!(lines[2].contains("t2 Task 2") && lines[2].trim_end().ends_with("2.0 s"), "{}", lines[2]);
        assert!(lines[3].starts_with("└─ · writer       t3 Task 3 ← t1"), "{}", lines[3]);
        assert_eq!(lines[4], "1/3 tasks · 1 running · 1 calls · 340→5 tokens · $0.0015 · 3.4 s");
    }

    #[test]
    fn a_big_plan_shows_what_runs_and_counts_the_rest() {
        let mut board = board(1_000);
        for number in [1, 500, 900] {
            board.apply(&event(200, Some(number), started(number)));
        }
        board.apply(&event(300, Some(1), completed(1)));
        board.apply(&event(300, Some(500), failed(500, false)));
        let lines = board.lines(Timestamp(400_000), 80, 6, Style::PLAIN);
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().any(|line| line.contains("t900")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("✘") && line.contains("t500")), "{lines:?}");
        assert!(
            lines[4].starts_with("└─ and ") && lines[4].contains("waiting") && lines[4].contains("1 done"),
            "{lines:?}"
        );
    }

    #[test]
    fn lines_never_outgrow_the_terminal() {
        let mut board = board(30);
        board.apply(&event(200, Some(1), started(1)));
        board.apply(&event(300, Some(1), call(123_456)));
        board.set_note("a note that is quite a bit longer than some terminals are wide");
        for columns in [1, 2, 5, 10, 17, 20, 33, 40, 60, 80, 200] {
            for lines_max in [1, 2, 3, 5, 40] {
                let lines = board.lines(Timestamp(9_000_000), columns, lines_max, Style::PLAIN);
                assert!(lines.len() <= lines_max, "{columns}x{lines_max}");
                for line in &lines {
                    assert!(width(line) <= columns, "{columns}x{lines_max}: {line}");
                }
            }
        }
    }

    #[test]
    fn hostile_titles_can_not_draw() {
        let mut board = Board::default();
        let title: Arc<str> = "evil\u{1b}[2J\nline".into();
        let tasks = vec![PlanEntry { title, ..entry(1, &[]) }];
        board.apply(&event(0, None, EventBody::PlanReady { tasks, repairs: vec![] }));
        let lines = board.lines(Timestamp(0), 80, 24, Style::PLAIN);
        assert!(lines.iter().all(|line| !line.contains('\u{1b}') && !line.contains('\n')), "{lines:?}");
    }

    #[test]
    fn plain_lines_say_what_matters() {
        let board = board(1);
        assert_eq!(
            board.plain(&event(1_500, Some(1), failed(1, true))).unwrap(),
            "[   1.5 s] t1 failed, trying again: too slow [model.timeout]"
        );
        assert_eq!(
            board.plain(&event(1_500, Some(1), completed(1))).unwrap(),
            "[   1.5 s] t1 completed in 1.2 s (cheap, 340→5 tokens, $0.0015)"
        );
        assert_eq!(board.plain(&event(1_500, Some(1), call(3))), None);
        let finished = EventBody::RunFinished {
            status: RunStatus::Completed,
            tasks: TaskCounts::default(),
            cost_usd: MicroUsd::ZERO,
            unpriced_calls: 0,
            usage: Usage::default(),
            elapsed_ms: 1,
            error: None,
        };
        assert_eq!(board.plain(&event(2_000, None, finished)).unwrap(), "[   2.0 s] run k3v9x0ab completed");
    }
}
