//! What a dry run prints: the plan, when its tasks would run, and what they may cost.

use crewline_engine::plan;
use crewline_models::Registry;
use crewline_runtime::{Document, Estimate, Strategy, estimate};
use crewline_types::{ModelAlias, Timestamp};
use serde::Serialize;

use crate::{
    commands::schedule::{Missed, Order, overdue, seconds},
    error::Error,
    view::{Align, Style, clean, cost, count, fit, table},
};

/// What a dry run prints.
#[derive(Debug, Serialize)]
pub(crate) struct Preview {
    goal: Option<String>,
    tasks: Vec<Task>,
    schedule: Schedule,
    estimate: Estimate,
    /// Tasks that would end after their deadlines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) overdue: Vec<Missed>,
}

#[derive(Debug, Serialize)]
struct Task {
    id: String,
    title: String,
    role: Option<String>,
    depends_on: Vec<String>,
    /// Seconds from the beginning; a task without a duration counts as one.
    start: f64,
    end: f64,
}

#[derive(Debug, Serialize)]
struct Schedule {
    makespan: f64,
    workers: Option<usize>,
    strategy: Strategy,
    /// Tasks without a duration.
    without_duration: usize,
}

impl Preview {
    /// Of a document that is refused when it is not valid; `name` is its file. It would begin at `from`.
    pub(crate) fn of(
        document: &Document,
        name: &str,
        order: Order,
        registry: &Registry,
        from: Timestamp,
    ) -> Result<Self, Error> {
        let error = |problems| Error::Plan { name: name.to_owned(), problems };
        let estimate = estimate(document, registry).map_err(error)?;
        let plan = plan::check(document, &plan::Rules::open()).map_err(error)?;
        let graph = plan.graph()?;
        // Steps have no place in time.
        let graph = if graph.has_durations() { plan.graph_from(from)? } else { graph };
        let times = graph.timetable(order.workers, order.strategy);
        let overdue = if graph.has_durations() { overdue(&plan, &times, from) } else { Vec::new() };
        let tasks = document.tasks.iter().zip(&times.slots).map(|(task, slot)| Task {
            id: task.id.clone(),
            title: task.title.clone(),
            role: task.role.clone(),
            depends_on: task.depends_on.clone(),
            start: slot.start,
            end: slot.end,
        });
        let schedule = Schedule {
            makespan: times.makespan,
            workers: order.workers.map(std::num::NonZeroUsize::get),
            strategy: order.strategy,
            without_duration: graph.unknown(),
        };
        Ok(Self { goal: document.goal.clone(), tasks: tasks.collect(), schedule, estimate, overdue })
    }

    /// For people.
    pub(crate) fn table(&self, style: Style) -> String {
        let has_durations = self.schedule.without_duration < self.tasks.len();
        let mut columns =
            vec![("TASK", Align::Left), ("ROLE", Align::Left), ("TITLE", Align::Left), ("DEPENDS ON", Align::Left)];
        // Without durations the timetable is made of steps.
        columns.extend(if has_durations {
            &[("START", Align::Right), ("END", Align::Right)][..]
        } else {
            &[("STEP", Align::Right)]
        });
        let rows: Vec<Vec<String>> = self
            .tasks
            .iter()
            .map(|task| {
                let mut row = vec![
                    clean(&task.id).into_owned(),
                    clean(task.role.as_deref().unwrap_or("default")).into_owned(),
                    fit(&clean(&task.title), 60).into_owned(),
                    fit(&clean(&task.depends_on.join(", ")), 40).into_owned(),
                ];
                if has_durations {
                    row.extend([seconds(task.start), seconds(task.end)]);
                } else {
                    row.push(task.end.to_string());
                }
                row
            })
            .collect();
        let cost_max = if let Some(cost_max) = self.estimate.cost_max {
            format!("at most {}", cost(cost_max, 0))
        } else {
            let models: Vec<&str> = self.estimate.unpriced.iter().map(ModelAlias::as_str).collect();
            format!("cost unknown (no price for {})", models.join(", "))
        };
        let time = if has_durations {
            format!("{} by the plan's durations", seconds(self.schedule.makespan))
        } else {
            format!("{} steps", self.schedule.makespan)
        };
        format!(
            "{}\n\n{} tasks · {time} · {} calls · up to {}→{} tokens · {cost_max}",
            table(style, &columns, &rows),
            count(self.tasks.len() as u64),
            count(self.estimate.calls.into()),
            count(self.estimate.input_tokens),
            count(self.estimate.output_tokens_max),
        )
    }
}
