//! How far a task is, and what people say of its result.
//!
//! **Invariant:** a rating that is not on its scale is refused, and nothing is written.

use crewline_types::{
    event::TaskAction,
    task::{Feedback, Progress},
};

use crate::Error;

use super::draft::Draft;

/// Characters of what is said at most.
const TEXT_MAX: usize = 2_000;
/// Feedback that a task keeps; the events keep all.
const FEEDBACK_MAX: usize = 100;

impl Draft {
    /// Says how much of a task is done.
    pub(super) fn progress(&mut self, task: &str, percent: u8, text: Option<&str>) -> Result<(), Error> {
        let place = self.place(task)?;
        if percent > 100 {
            return Err(field(format!("`percent` is 0 to 100, and this is {percent}")));
        }
        let text = said(text)?;
        let detail = [Some(format!("progress {percent} %")), text.clone()].into_iter().flatten().collect::<Vec<_>>();
        self.detail(place).progress = Some(Progress { percent, text, at: self.at });
        self.tell(place, TaskAction::Updated, detail.join(": "));
        Ok(())
    }

    /// Rates the result of a task.
    pub(super) fn feedback(
        &mut self,
        task: &str,
        (quality, timeliness): (u8, u8),
        text: Option<&str>,
    ) -> Result<(), Error> {
        let place = self.place(task)?;
        for (name, rating) in [("quality", quality), ("timeliness", timeliness)] {
            if !(1..=5).contains(&rating) {
                return Err(field(format!("`{name}` is 1 to 5, and this is {rating}")));
            }
        }
        let text = said(text)?;
        let words = format!("feedback: quality {quality}, timeliness {timeliness}");
        let detail = [Some(words), text.clone()].into_iter().flatten().collect::<Vec<_>>();
        let (at, agent) = (self.at, self.agent.to_string());
        let kept = &mut self.detail(place).feedback;
        if kept.len() >= FEEDBACK_MAX {
            kept.remove(0);
        }
        kept.push(Feedback { quality, timeliness, text, agent, at });
        self.tell(place, TaskAction::Updated, detail.join(": "));
        Ok(())
    }
}

fn said(text: Option<&str>) -> Result<Option<String>, Error> {
    match text.map(str::trim).filter(|it| !it.is_empty()) {
        Some(text) if text.chars().count() > TEXT_MAX => {
            Err(field(format!("a text has at most {TEXT_MAX} characters")))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

fn field(message: String) -> Error {
    Error::TaskField { message }
}
