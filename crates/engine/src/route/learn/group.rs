//! The tasks and families that questions belong to.

use std::collections::BTreeMap;

use super::outcome::{Question, draw, family};

/// Tasks, families, and who belongs where.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    /// The tasks, by name.
    pub(super) tasks: Vec<String>,
    /// The families, by name.
    pub(super) families: Vec<String>,
    /// The family of each task.
    pub(super) family_of: Vec<usize>,
    /// The task of each question.
    pub(super) task_of: Vec<usize>,
}

impl Groups {
    /// The groups of `questions`.
    pub(super) fn of(questions: &[&Question]) -> Self {
        let mut places: BTreeMap<&str, usize> = questions.iter().map(|it| (it.task.as_str(), 0)).collect();
        let mut families: Vec<String> = places.keys().map(|task| family(task).to_owned()).collect();
        families.sort_unstable();
        families.dedup();
        places.values_mut().enumerate().for_each(|(place, it)| *it = place);
        let family_of = places.keys().map(|task| families.partition_point(|it| it.as_str() < family(task))).collect();
        let task_of = questions.iter().map(|it| places[it.task.as_str()]).collect();
        Self { tasks: places.into_keys().map(str::to_owned).collect(), families, family_of, task_of }
    }

    /// The place of `task` among the tasks, and of its family; `None` where it is new.
    pub(super) fn find(&self, task: &str) -> (Option<usize>, Option<usize>) {
        let task_place = self.tasks.binary_search_by(|it| it.as_str().cmp(task)).ok();
        let family_place = self.families.binary_search_by(|it| it.as_str().cmp(family(task))).ok();
        (task_place, family_place)
    }

    /// Splits `questions` into `folds` parts of equal size that each task is spread over, by chance that the seed decides.
    pub(super) fn folds(&self, questions: &[&Question], folds: usize, seed: u64) -> Vec<usize> {
        let mut order: Vec<(usize, f64, usize)> = questions
            .iter()
            .enumerate()
            .map(|(index, it)| (self.task_of[index], draw(seed, &it.id, "fold"), index))
            .collect();
        order.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        let mut fold_of = vec![0; questions.len()];
        for (rank, (_, _, index)) in order.into_iter().enumerate() {
            fold_of[index] = rank % folds.max(1);
        }
        fold_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_find_their_task_and_family() {
        let question = |id: &str, task: &str| Question { id: id.into(), task: task.into(), chars: 1, outcomes: vec![] };
        let questions: Vec<Question> = (0..30)
            .flat_map(|id| ["mmlu:law", "gsm8k", "mmlu:art"].map(|task| question(&format!("{task}{id}"), task)))
            .collect();
        let known: Vec<&Question> = questions.iter().collect();
        let groups = Groups::of(&known);
        assert_eq!(groups.tasks, ["gsm8k", "mmlu:art", "mmlu:law"]);
        assert_eq!(groups.families, ["gsm8k", "mmlu"]);
        assert_eq!(groups.family_of, [0, 1, 1]);
        assert_eq!(groups.task_of[..3], [2, 0, 1]);
        assert_eq!(groups.find("mmlu:law"), (Some(2), Some(1)));
        assert_eq!(groups.find("mmlu:new"), (None, Some(1)));
        assert_eq!(groups.find("other"), (None, None));

        let folds = groups.folds(&known, 5, 3);
        for task in 0..3 {
            for fold in 0..5 {
                let count = (0..90).filter(|it| groups.task_of[*it] == task && folds[*it] == fold).count();
                assert_eq!(count, 6);
            }
        }
        assert_eq!(folds, groups.folds(&known, 5, 3));
        assert_ne!(folds, groups.folds(&known, 5, 4));
    }
}
