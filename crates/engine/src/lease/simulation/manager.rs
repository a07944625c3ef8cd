//! A manager: takes the run, loads it into a schedule, offers what is to be made and settles what comes back. Whatever it is not
//! sure of makes it start anew.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use crewline_types::Priority;

use super::{
    super::{Answer, Attempt, Found, Micros, Op, Settled, State, Status},
    LEASE, Note, Outside, POLL, SECOND, Timer,
    worker::LOST,
};
use crate::schedule::{self, Action, Begun, Dag, Event, Limits, Retry, Stage};

type Tasks = Vec<(Status, u32, Option<u64>)>;

/// What it does next, one after the other.
#[derive(Debug)]
enum Step {
    Manage,
    /// Loads the run.
    Load,
    /// Settles the attempts that are lost or reported.
    Settle(Vec<(Attempt, State)>),
    /// Writes; then the schedule goes on with the event.
    Write(Op, Option<Event>),
    Look,
    Withdraw,
}

#[derive(Debug)]
pub(super) struct Manager {
    needs: Vec<Vec<u32>>,
    epoch: Option<u64>,
    dag: Option<Dag>,
    steps: VecDeque<Step>,
    waiting: Option<(u64, Step)>,
    keeping: Option<u64>,
    handled: BTreeSet<Attempt>,
}

impl Manager {
    pub(super) fn new(needs: &[Vec<u32>]) -> Self {
        Self {
            needs: needs.to_vec(),
            epoch: None,
            dag: None,
            steps: VecDeque::new(),
            waiting: None,
            keeping: None,
            handled: BTreeSet::new(),
        }
    }

    pub(super) fn start(&mut self, outside: &mut Outside<'_>) {
        outside.remind(POLL, Timer::Look);
        outside.remind(LEASE / 3, Timer::Keep);
        self.steps.push_back(Step::Manage);
        self.go_on(outside);
    }

    pub(super) fn on(&mut self, note: Note, outside: &mut Outside<'_>) {
        match note {
            Note::Timer(timer) => self.on_timer(timer, outside),
            Note::Answered(ticket, answer) if self.keeping == Some(ticket) => {
                self.keeping = None;
                if !answer.is_done() {
                    self.distrust();
                }
            }
            Note::Answered(ticket, answer) => {
                if let Some((_, step)) = self.waiting.take_if(|(asked, _)| *asked == ticket) {
                    self.on_answer(step, answer, outside);
                }
            }
            // It may still happen, later: what follows must not rely on either.
            Note::TimedOut(ticket) if self.waiting.take_if(|(asked, _)| *asked == ticket).is_some() => self.distrust(),
            Note::TimedOut(ticket) => self.keeping = self.keeping.filter(|it| *it != ticket),
        }
        self.go_on(outside);
    }

    fn distrust(&mut self) {
        (self.epoch, self.dag, self.keeping) = (None, None, None);
        self.steps.clear();
        self.handled.clear();
        self.waiting = None;
    }

    fn on_timer(&mut self, timer: Timer, outside: &mut Outside<'_>) {
        match timer {
            Timer::Look => {
                outside.remind(POLL, Timer::Look);
                let step = match self.epoch {
                    None => Step::Manage,
                    Some(_) if outside.rng.below(20) == 0 => Step::Withdraw,
                    Some(_) => Step::Look,
                };
                if self.steps.is_empty() && self.waiting.is_none() {
                    self.steps.push_back(step);
                }
            }
            Timer::Keep => {
                outside.remind(LEASE / 3, Timer::Keep);
                if let (Some(epoch), None) = (self.epoch, self.keeping) {
                    self.keeping = Some(outside.ask(Op::KeepRun { epoch, lease: LEASE }));
                }
            }
            Timer::RetryDue(node) => self.event(Event::RetryDue { node }, outside),
            Timer::Reap | Timer::WorkEnds(_) | Timer::Expire => {}
        }
    }

    /// Asks the next question, when none is open.
    fn go_on(&mut self, outside: &mut Outside<'_>) {
        if self.waiting.is_some() {
            return;
        }
        let Some(step) = self.steps.pop_front() else { return };
        let op = match (&step, self.epoch) {
            (Step::Manage, _) => Op::Manage { who: outside.who, lease: LEASE },
            (Step::Write(op, _), _) => op.clone(),
            (Step::Load | Step::Settle(_), _) => Op::Load,
            (Step::Look, _) => Op::Answered,
            (Step::Withdraw, Some(epoch)) => Op::Withdraw { epoch, is_free_only: outside.rng.below(2) == 0 },
            (Step::Withdraw, None) => return,
        };
        self.waiting = Some((outside.ask(op), step));
    }

    fn on_answer(&mut self, step: Step, answer: Answer, outside: &mut Outside<'_>) {
        let Answer::Done(found) = answer else {
            // Somebody else holds the run: it is asked for again later.
            return self.distrust();
        };
        match (step, found) {
            (Step::Manage, Found::Epoch(epoch)) => {
                self.epoch = Some(epoch);
                self.steps.push_back(Step::Load);
            }
            (Step::Load, Found::All(tasks, offers)) => self.load(&tasks, &offers, outside),
            (Step::Look, Found::Offers(offers)) if !offers.is_empty() => self.steps.push_back(Step::Settle(offers)),
            (Step::Settle(offers), Found::All(tasks, _)) => {
                for (attempt, state) in offers {
                    self.settle(attempt, state, &tasks, outside);
                }
            }
            (Step::Withdraw, Found::Attempts(attempts)) => {
                let offers = attempts.into_iter().map(|attempt| (attempt, State::Lost)).collect();
                self.steps.push_front(Step::Settle(offers));
            }
            (Step::Write(_, Some(event)), _) => self.event(event, outside),
            (Step::Write(_, None) | Step::Look, _) => {}
            (step, found) => panic!("{step:?} is answered by {found:?}"),
        }
    }

    fn load(&mut self, tasks: &Tasks, offers: &[(Attempt, State)], outside: &mut Outside<'_>) {
        let Some(epoch) = self.epoch else { return };
        let nodes = tasks.iter().zip(&self.needs).map(|((status, attempts, _), needs)| schedule::Node {
            priority: Priority::default(),
            urgency: 0,
            needs: needs.clone(),
            stage: match status {
                Status::Pending | Status::InProgress => Stage::Waiting,
                Status::Completed => Stage::Done,
                Status::Failed => Stage::Failed,
            },
            attempts: *attempts,
        });
        let limits = Limits {
            parallel_max: 3,
            attempts_max: 3,
            retry_delay_base: Duration::from_secs(2),
            retry_delay_max: Duration::from_secs(8),
        };
        let mut dag = Dag::new(nodes.collect(), limits).unwrap();
        for (attempt, _) in offers {
            let begun = match tasks[attempt.task as usize].0 {
                Status::InProgress => Begun::Recorded,
                Status::Pending | Status::Completed | Status::Failed => Begun::Not,
            };
            assert!(dag.adopt(attempt.task, attempt.number, begun), "{attempt:?} is offered and can not be made");
        }
        for (task, (status, attempts, _)) in (0_u32..).zip(tasks) {
            if *status == Status::InProgress && dag.stage(task) != Stage::Running {
                let attempt = Attempt { task, number: *attempts };
                let op = Op::Settle { epoch, attempt, was_begun: true, settled: Settled::Again };
                self.steps.push_back(Step::Write(op, None));
            }
        }
        self.dag = Some(dag);
        self.event(Event::Begin, outside);
        self.steps.push_back(Step::Look);
    }

    fn settle(&mut self, attempt: Attempt, state: State, tasks: &Tasks, outside: &mut Outside<'_>) {
        let (Some(epoch), Some(dag)) = (self.epoch, &self.dag) else { return };
        let is_current = dag.stage(attempt.task) == Stage::Running && dag.attempt(attempt.task) == attempt.number;
        if !is_current || !self.handled.insert(attempt) {
            return;
        }
        let (status, attempts, _) = tasks[attempt.task as usize];
        let was_begun = (status, attempts) == (Status::InProgress, attempt.number);
        let (node, number) = (attempt.task, attempt.number);
        let op = |settled| Op::Settle { epoch, attempt, was_begun, settled };
        match state {
            State::Reported(report) if report != LOST && report % 8 > 1 => {
                let event = Event::Succeeded { node, attempt: number };
                self.steps.push_back(Step::Write(op(Settled::Completed(report)), Some(event)));
            }
            State::Reported(report) if report != LOST => {
                let retry = if report % 8 == 0 { Retry::Never } else { Retry::May };
                self.event(Event::AttemptFailed { node, attempt: number, retry }, outside);
            }
            State::Reported(_) | State::Lost => {
                let event = Event::AttemptLost { node, attempt: number };
                self.steps.push_back(Step::Write(op(Settled::Again), Some(event)));
            }
            State::Free | State::Claimed(_) => panic!("{attempt:?} is {state:?}"),
        }
    }

    fn event(&mut self, event: Event, outside: &mut Outside<'_>) {
        let (Some(epoch), Some(dag)) = (self.epoch, self.dag.as_mut()) else { return };
        let actions = dag.apply(event);
        let failed = |node: u32, settled| {
            let attempt = Attempt { task: node, number: dag.attempt(node) };
            Step::Write(Op::Settle { epoch, attempt, was_begun: true, settled }, None)
        };
        for action in actions {
            match action {
                Action::Dispatch { node, attempt } => {
                    let (role, rank) = (u8::try_from(node % 3).unwrap(), -i64::from(node));
                    let attempt = Attempt { task: node, number: attempt };
                    self.steps.push_back(Step::Write(Op::Offer { epoch, attempt, role, rank }, None));
                }
                Action::RetryAfter { node, delay } => {
                    self.steps.push_back(failed(node, Settled::Again));
                    let after = Micros::try_from(delay.as_micros()).unwrap_or(SECOND);
                    outside.remind(after, Timer::RetryDue(node));
                }
                Action::Fail { node } => self.steps.push_back(failed(node, Settled::Failed)),
                Action::Block { .. } | Action::Wait => {}
                Action::Finish(_) => self.steps.push_back(Step::Write(Op::End { epoch }, None)),
            }
        }
    }
}
