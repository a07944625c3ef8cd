//! Rounds of `crewline run` and `crewline resume`: one process drives a run, and everything happens to it.
//!
//! **Invariant:** every wait has a limit; a process that does not end in time is a violation.

use std::{
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crewline_testkit::TestApp;

use crate::{
    crew::{GLANCE, Process, Signal},
    disk::Disk,
    plan::Plan,
    rows::Database,
    shop::{Place, Shop},
    verify::{Acknowledged, Case, verify},
};

/// How long a process may take that nobody disturbs.
const END_LIMIT: Duration = Duration::from_mins(1);
/// Disturbances of one run at most.
const DISTURBANCES_MAX: u32 = 8;
/// Processes of one run at most: the last ones are left alone.
const PROCESSES_MAX: u32 = 60;

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Peace,
    /// SIGKILL.
    Kill,
    /// SIGINT, so often.
    Interrupt(u8),
    /// A second process wants the same run.
    Rival,
    /// SIGSTOP for so long, with a rival meanwhile.
    Freeze(Duration),
    /// The disk is full from then on.
    FillDisk,
    /// The database server crashes and comes back.
    CrashDatabase,
}

/// When it happens.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after the start of the process.
    After(Duration),
    /// So long after the upstream was asked so often.
    Asked(u64, Duration),
}

/// One run and all its processes.
pub struct Solo<'a> {
    shop: &'a Shop,
    app: &'a TestApp,
    place: &'a Place,
    disk: Option<&'a Disk>,
    data: PathBuf,
    database: Database,
    plan: Arc<Plan>,
    rng: fastrand::Rng,
    disruptions: u64,
    restarts_before: u64,
    acknowledged: Acknowledged,
    outs: Vec<PathBuf>,
    processes: u32,
    /// The environment failed since the last start, so a process may end with an error.
    is_excused: bool,
}

impl<'a> Solo<'a> {
    /// A run of a random plan in this place.
    pub fn new(
        shop: &'a Shop,
        app: &'a TestApp,
        place: &'a Place,
        disk: Option<&'a Disk>,
        tag: String,
        seed: u64,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Arc::new(Plan::random(&mut rng, tag));
        shop.ledger.open(&plan);
        let data = if disk.is_some() { app.path("disk/data") } else { app.path("data") };
        let database = match place {
            Place::Sqlite => Database::sqlite(&data),
            Place::Postgres { url } => Database::postgres(url),
        };
        app.write(&format!("{}.json", plan.tag), &plan.document().to_string());
        Self {
            shop,
            app,
            place,
            disk,
            data,
            database,
            plan,
            rng,
            disruptions: 0,
            restarts_before: shop.restarts(),
            acknowledged: Acknowledged::default(),
            outs: Vec::new(),
            processes: 0,
            is_excused: false,
        }
    }

    /// Runs it to its end and checks the promise.
    pub fn play(mut self) {
        if let Err(violation) = self.until_complete() {
            self.broken(&violation);
        }
        let disruptions = self.disruptions + self.shop.restarts() - self.restarts_before;
        let mut case = Case {
            plan: &self.plan,
            ledger: &self.shop.ledger,
            database: &self.database,
            outs: Some(&self.outs),
            disruptions: matches!(self.place, Place::Sqlite).then_some(disruptions),
            acknowledged: &mut self.acknowledged,
        };
        let verdict = verify(&mut case);
        self.shop.tally.judge(&format!("{} in {}", self.plan.tag, self.app.dir().display()), verdict);
        self.shop.ledger.close(&self.plan.tag);
    }

    fn broken(&self, violation: &str) {
        self.shop.tally.violation(format!("{} in {}: {violation}", self.plan.tag, self.app.dir().display()));
    }

    fn until_complete(&mut self) -> Result<(), String> {
        let disturbances = self.rng.u32(1..=DISTURBANCES_MAX);
        loop {
            if self.processes == PROCESSES_MAX {
                return Err(format!("{PROCESSES_MAX} processes did not complete the run"));
            }
            let run = self.run_id()?;
            let out = self.out();
            let changes = self.shop.changes();
            let mut process = self.start(run.as_deref(), &out)?;
            self.processes += 1;
            let is_disturbed = self.processes <= disturbances && !self.shop.is_over();
            let fate = if is_disturbed { self.fate() } else { Fate::Peace };
            let happened = fate != Fate::Peace && self.wait_for_moment(&mut process);
            let status = if happened { self.disturb(&mut process, fate, run)? } else { end_of(&mut process)? };
            self.note(&process);
            match status.code() {
                Some(0) => {
                    self.outs.push(out);
                    return Ok(());
                }
                // Killed by us, or drained.
                None | Some(130) => {}
                Some(9) if self.is_over()? => {
                    // An earlier process may have been killed between its last document and its end.
                    if self.outs.is_empty() && out.join("report.json").exists() {
                        self.outs.push(out);
                    }
                    if self.outs.is_empty() {
                        return Err("the run is completed, and its documents are nowhere".into());
                    }
                    return Ok(());
                }
                // Held: by a rival, or by a lease that was not given back.
                Some(9) => thread::sleep(Duration::from_millis(50)),
                Some(_) if self.is_excused || self.shop.was_down_since(changes) => {
                    self.shop.tally.count("processes that gave up in a broken place");
                    if let Some(disk) = self.disk {
                        disk.free().map_err(|error| format!("the disk can not be emptied: {error}"))?;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                Some(code) => return Err(format!("exit code {code} without a cause")),
            }
            self.is_excused = false;
            self.snapshot()?;
        }
    }

    /// Starts or resumes the run.
    fn start(&mut self, run: Option<&str>, out: &PathBuf) -> Result<Process, String> {
        let mut command = self.command(run);
        command.arg("--out").arg(out);
        Process::start(&mut command, &self.log()).map_err(|error| format!("no process starts: {error}"))
    }

    fn command(&self, run: Option<&str>) -> Command {
        let concurrency = self.plan.concurrency.to_string();
        let file = format!("{}.json", self.plan.tag);
        let goal = self.plan.goal();
        let mut words = match run {
            Some(run) => vec!["resume", run],
            None if self.plan.is_by_model => vec!["run", &goal],
            None => vec!["run", "--plan", &file],
        };
        words.extend(["--concurrency", &concurrency, "-o", "jsonl", "--no-input", "--no-progress"]);
        let mut command = self.app.command(words);
        command.arg("--data-dir").arg(&self.data);
        self.place.configure(&mut command);
        command
    }

    fn log(&self) -> PathBuf {
        self.app.path(&format!("{}.log", self.plan.tag))
    }

    fn out(&self) -> PathBuf {
        self.app.path(&format!("{}-out", self.plan.tag))
    }

    fn run_id(&self) -> Result<Option<String>, String> {
        if self.processes == 0 || (self.database.is_sqlite() && !self.data.join("crewline.db").exists()) {
            return Ok(None);
        }
        self.database.patiently(|database| database.run(&self.plan.tag)).map(|run| run.map(|run| run.id))
    }

    fn is_over(&self) -> Result<bool, String> {
        let run = self.database.patiently(|database| database.run(&self.plan.tag))?;
        Ok(run.is_some_and(|run| run.status == "completed"))
    }

    fn fate(&mut self) -> Fate {
        let roll = self.rng.u8(..100);
        if self.disk.is_some() && roll < 50 {
            return Fate::FillDisk;
        }
        if self.shop.cluster.is_some() && matches!(self.place, Place::Postgres { .. }) && roll < 8 {
            return Fate::CrashDatabase;
        }
        match roll {
            0..65 => Fate::Kill,
            65..72 => Fate::Interrupt(1),
            72..76 => Fate::Interrupt(2),
            76..86 => Fate::Rival,
            _ => Fate::Freeze(self.place.freeze(&mut self.rng)),
        }
    }

    /// Waits for a random moment of the process's life; `false` when it ends before.
    fn wait_for_moment(&mut self, process: &mut Process) -> bool {
        let tag = &self.plan.tag;
        let asked = self.shop.ledger.asked(tag);
        let left = (self.plan.tasks.len() as u64 + 2).saturating_sub(asked);
        let moment = if self.rng.bool() {
            Moment::Asked(asked + self.rng.u64(0..=left), Duration::from_micros(self.rng.u64(..30_000)))
        } else {
            Moment::After(Duration::from_millis(self.rng.u64(..self.plan.expected_ms())))
        };
        loop {
            if process.has_ended() {
                return false;
            }
            match moment {
                Moment::After(time) if process.age() >= time => return true,
                Moment::Asked(calls, pause) if self.shop.ledger.asked(tag) >= calls => {
                    thread::sleep(pause);
                    return !process.has_ended();
                }
                // A run that needs fewer calls than we wait for is met at its end.
                Moment::Asked(..) if process.age() > END_LIMIT => return true,
                Moment::After(_) | Moment::Asked(..) => thread::sleep(GLANCE),
            }
        }
    }

    fn disturb(&mut self, process: &mut Process, fate: Fate, run: Option<String>) -> Result<ExitStatus, String> {
        let tally = &self.shop.tally;
        match fate {
            Fate::Peace => {}
            Fate::Kill => {
                tally.count("kill -9");
                self.disruptions += 1;
                process.signal(Signal::SIGKILL);
            }
            Fate::Interrupt(times) => {
                tally.count("interrupts");
                // The second one aborts what runs.
                self.disruptions += u64::from(times > 1);
                for _ in 0..times {
                    process.signal(if self.rng.bool() { Signal::SIGINT } else { Signal::SIGTERM });
                    thread::sleep(Duration::from_millis(self.rng.u64(1..30)));
                }
            }
            Fate::Rival => {
                if let Some(run) = run.or(self.run_id()?) {
                    self.rival(&run, process, None)?;
                }
            }
            Fate::Freeze(time) => {
                tally.count("freezes");
                // Asked before: a frozen process may hold the lock of the file.
                let run = run.or(self.run_id()?);
                process.signal(Signal::SIGSTOP);
                let until = Instant::now() + time;
                let outcome = match run {
                    Some(run) if time > self.place.lease() => self.take_over(&run, process),
                    Some(run) => self.rival(&run, process, Some(until)),
                    None => Ok(()),
                };
                thread::sleep(until.saturating_duration_since(Instant::now()));
                process.signal(Signal::SIGCONT);
                outcome?;
            }
            Fate::FillDisk => {
                let Some(disk) = self.disk else { return end_of(process) };
                tally.count("full disks");
                self.disruptions += 1;
                self.is_excused = true;
                disk.fill(self.rng.usize(..200_000)).map_err(|error| format!("the disk can not be filled: {error}"))?;
                let status = end_of(process);
                disk.free().map_err(|error| format!("the disk can not be emptied: {error}"))?;
                return status;
            }
            Fate::CrashDatabase => {
                let Some(cluster) = &self.shop.cluster else { return end_of(process) };
                tally.count("database crashes");
                self.is_excused = true;
                let crash = if self.rng.bool() {
                    cluster.restart()
                } else {
                    cluster.kill(Duration::from_millis(self.rng.u64(..2_000)))
                };
                crash.map_err(|error| format!("the database server does not come back: {error}"))?;
            }
        }
        end_of(process)
    }

    /// A second process wants the run while the first one has it, or is frozen `until` then.
    fn rival(&mut self, run: &str, first: &mut Process, until: Option<Instant>) -> Result<(), String> {
        let out = self.app.path(&format!("{}-rival-out", self.plan.tag));
        let mut rival = self.start(Some(run), &out)?;
        while until.is_some_and(|until| Instant::now() < until) && !rival.has_ended() {
            thread::sleep(GLANCE);
        }
        // Whoever freezes for long with the file's lock in hand stops everybody, and may.
        first.signal(Signal::SIGCONT);
        let status = end_of(&mut rival)?;
        self.note(&rival);
        match status.code() {
            Some(9) => self.shop.tally.count("rivals refused"),
            // It came after the end, and wrote the documents once more.
            Some(0) if rival.first("run_started").is_none() => self.shop.tally.count("rivals too late"),
            // The first one had not yet taken the run when it was frozen or overtaken: now that one is refused.
            Some(0) => {
                first.signal(Signal::SIGCONT);
                self.outs.push(out);
                match end_of(first)?.code() {
                    Some(9) => self.shop.tally.count("rivals that were faster"),
                    Some(0) if first.first("run_started").is_none() => self.shop.tally.count("rivals that were faster"),
                    code => self.broken(&format!("two processes had the run (the second exit code is {code:?})")),
                }
            }
            code => self.broken(&format!("a rival was not refused (exit code {code:?})")),
        }
        Ok(())
    }

    /// A second process takes the run from one that is frozen past its lease, and completes it.
    fn take_over(&mut self, run: &str, frozen: &Process) -> Result<(), String> {
        self.disruptions += 1;
        let out = self.app.path(&format!("{}-heir-out", self.plan.tag));
        let from = Instant::now();
        loop {
            let mut heir = self.start(Some(run), &out)?;
            // The frozen one wakes while the heir is at work.
            let wake = self.place.lease() + Duration::from_millis(self.rng.u64(200..1_500));
            while !heir.has_ended() && from.elapsed() < END_LIMIT {
                if from.elapsed() > wake && heir.first("run_started").is_some() {
                    frozen.signal(Signal::SIGCONT);
                }
                thread::sleep(GLANCE);
            }
            let status = end_of(&mut heir)?;
            self.note(&heir);
            match status.code() {
                Some(0) => {
                    self.shop.tally.count("runs taken over");
                    self.outs.push(out);
                    return Ok(());
                }
                Some(9) if self.is_over()? => return Ok(()),
                Some(9) if from.elapsed() < self.place.lease() * 4 + Duration::from_secs(20) => {
                    thread::sleep(Duration::from_millis(50));
                }
                _ if self.shop.restarts() > self.restarts_before && from.elapsed() < END_LIMIT * 2 => {
                    thread::sleep(Duration::from_millis(50));
                }
                code => return Err(format!("the run of a frozen process can not be taken over (exit code {code:?})")),
            }
        }
    }

    /// Keeps what the process has shown.
    fn note(&mut self, process: &Process) {
        let events = process.events();
        let start = events.iter().find(|(_, event)| event["type"] == "run_started");
        if let Some((time, event)) = start
            && event["resumed"] == true
        {
            self.shop.tally.resumed(*time);
        }
        self.acknowledged.events.extend(events.into_iter().map(|(_, event)| event));
    }

    /// Keeps what is recorded, now that no process of the run lives.
    fn snapshot(&mut self) -> Result<(), String> {
        // Half of the time the next process is the first to open what the last one left.
        if self.rng.bool() {
            return Ok(());
        }
        let Some(run) = self.run_id()? else { return Ok(()) };
        let tasks = self.database.patiently(|database| database.tasks(&run))?;
        for changed in self.acknowledged.note(&tasks) {
            self.broken(&changed);
        }
        Ok(())
    }
}

/// Waits for the end of a process that nobody disturbs any more.
fn end_of(process: &mut Process) -> Result<ExitStatus, String> {
    process.wait(END_LIMIT).ok_or_else(|| {
        process.kill();
        format!("a process does not end within {} s", END_LIMIT.as_secs())
    })
}
