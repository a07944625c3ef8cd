//! Rounds of `crewline serve` and `crewline worker`: many processes share runs on one PostgreSQL database, and all of them are
//! killed, frozen, drained and started again.
//!
//! **Invariant:** every wait has a limit; runs that do not complete when everybody is well again are a violation.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crewline_testkit::{TestApp, client};
use serde_json::json;

use crate::{
    crew::{Process, Signal},
    plan::Plan,
    rows::Database,
    shop::{LEASE, Place, Shop},
    verify::{Acknowledged, Case, verify},
};

/// How long runs may take once nobody is disturbed any more: leases run out, attempts are made again.
const END_LIMIT: Duration = Duration::from_mins(2);
/// How long a process may take to hand over what it has.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// A process that ends so soon after its start could not find its database.
const START_TIME: Duration = Duration::from_secs(8);
/// How often the fleet is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How often the database is asked how the runs are.
const LOOK: Duration = Duration::from_millis(200);
/// Disturbances of one round at most.
const DISTURBANCES_MAX: u32 = 12;

/// A process of the fleet and what it is started with.
struct Member {
    name: String,
    words: Vec<String>,
    /// Where it listens, if it is a server.
    port: Option<u16>,
    process: Option<Process>,
    /// When it is started again.
    starts_at: Instant,
    /// When it wakes up.
    wakes_at: Option<Instant>,
    /// It was asked to end.
    is_leaving: bool,
    /// How the database server was when it was started.
    changes: u64,
}

/// A run of the fleet.
struct Run {
    plan: Arc<Plan>,
    is_launched: bool,
    is_done: bool,
    acknowledged: Acknowledged,
}

/// What a fleet suffers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Everything.
    Mixed,
    /// Processes that are frozen past their leases and come back while others have their work: what only fences are against.
    Frost,
}

/// All processes and runs of a round.
pub struct Fleet<'a> {
    shop: &'a Shop,
    app: &'a TestApp,
    place: &'a Place,
    database: Database,
    rng: fastrand::Rng,
    members: Vec<Member>,
    runs: Vec<Run>,
    weather: Weather,
}

impl<'a> Fleet<'a> {
    /// A random fleet with random runs.
    pub fn new(shop: &'a Shop, app: &'a TestApp, place: &'a Place, url: &str, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut members: Vec<Member> = (0..rng.usize(1..=2)).map(|index| server(&mut rng, index)).collect();
        members.extend((0..rng.usize(1..=4)).map(|index| worker(&mut rng, index)));
        let runs: Vec<Run> = (0..rng.usize(1..=4))
            .map(|index| {
                let plan = Arc::new(Plan::random(&mut rng, format!("s{seed}r{index}")));
                shop.ledger.open(&plan);
                Run { plan, is_launched: false, is_done: false, acknowledged: Acknowledged::default() }
            })
            .collect();
        let database = Database::postgres(url);
        let weather = if shop.is_control || rng.u8(..3) == 0 { Weather::Frost } else { Weather::Mixed };
        Self { shop, app, place, database, rng, members, runs, weather }
    }

    /// Runs everything to its end and checks the promise.
    pub fn play(mut self) {
        if let Err(violation) = self.until_complete() {
            self.broken(&violation);
        }
        self.drain();
        if self.shop.has_shown() {
            return;
        }
        for run in &mut self.runs {
            let mut case = Case {
                plan: &run.plan,
                ledger: &self.shop.ledger,
                database: &self.database,
                outs: None,
                disruptions: None,
                acknowledged: &mut run.acknowledged,
            };
            let verdict = verify(&mut case);
            self.shop.tally.judge(&format!("{} in {}", run.plan.tag, self.app.dir().display()), verdict);
            self.shop.ledger.close(&run.plan.tag);
        }
    }

    fn broken(&self, violation: &str) {
        let tag = self.runs.first().map_or("", |run| run.plan.tag.as_str());
        self.shop.tally.violation(format!("{tag} in {}: {violation}", self.app.dir().display()));
    }

    fn until_complete(&mut self) -> Result<(), String> {
        let mut left = self.rng.u32(1..=DISTURBANCES_MAX);
        let pace = *self.rng.choice(&[50, 200, 600]).unwrap_or(&200);
        let mut next = Instant::now() + Duration::from_millis(self.rng.u64(200..2_000));
        let mut looked = Instant::now();
        let mut quiet_since = Instant::now();
        loop {
            self.tend()?;
            self.launch();
            if left > 0 && Instant::now() >= next && !self.shop.is_over() {
                self.disturb()?;
                left -= 1;
                next = Instant::now() + Duration::from_millis(self.rng.u64(1..pace * 2));
                quiet_since = Instant::now();
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if self.look() || self.shop.has_shown() {
                    return Ok(());
                }
            }
            if quiet_since.elapsed() > END_LIMIT {
                let open: Vec<&str> = self.runs.iter().filter(|it| !it.is_done).map(|it| &*it.plan.tag).collect();
                return Err(format!(
                    "{open:?} do not complete though nobody is disturbed for {} s",
                    END_LIMIT.as_secs()
                ));
            }
            thread::sleep(GLANCE);
        }
    }

    /// Starts who is down, wakes who slept enough, and finds who ended without being asked.
    fn tend(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let mut complaint = None;
        for member in &mut self.members {
            if member.wakes_at.is_some_and(|at| now >= at) {
                member.wakes_at = None;
                if let Some(process) = &member.process {
                    process.signal(Signal::SIGCONT);
                }
            }
            if let Some(process) = &mut member.process
                && process.has_ended()
            {
                let age = process.age();
                let is_excused = member.is_leaving || (self.shop.was_down_since(member.changes) && age < START_TIME);
                if !is_excused {
                    complaint = Some(format!("{} ended by itself after {} ms", member.name, age.as_millis()));
                }
                member.process = None;
                member.is_leaving = false;
            }
            if member.process.is_none() && now >= member.starts_at {
                let mut command = self.app.command(&member.words);
                self.place.configure(&mut command);
                let log = self.app.path(&format!("{}.log", member.name));
                member.changes = self.shop.changes();
                let process =
                    Process::start(&mut command, &log).map_err(|error| format!("no process starts: {error}"))?;
                member.process = Some(process);
            }
        }
        match complaint {
            Some(complaint) => Err(complaint),
            None => Ok(()),
        }
    }

    /// Gives one run that is not recorded yet to a server that answers.
    fn launch(&mut self) {
        let Some(run) = self.runs.iter_mut().find(|run| !run.is_launched) else { return };
        let plan = &run.plan;
        let awake = self.members.iter().filter(|it| it.process.is_some() && it.wakes_at.is_none() && !it.is_leaving);
        let ports: Vec<u16> = awake.filter_map(|member| member.port).collect();
        let Some(port) = self.rng.choice(&ports) else { return };
        let body = if plan.is_by_model {
            json!({"goal": plan.goal(), "concurrency": plan.concurrency})
        } else {
            json!({"plan": plan.document(), "concurrency": plan.concurrency})
        };
        // A server that died while it answered may have recorded it: whoever is asked again launches no second one.
        let key = [("idempotency-key", &*plan.tag)];
        let answer = client::post_with(*port, "/api/v1/runs", &key, &body.to_string());
        run.is_launched = answer.is_ok_and(|answer| answer.status == 201);
    }

    fn disturb(&mut self) -> Result<(), String> {
        let tally = &self.shop.tally;
        if let (Some(cluster), true) = (&self.shop.cluster, self.rng.u8(..100) < 8) {
            tally.count("database crashes");
            let pause = Duration::from_millis(self.rng.u64(..2_000));
            let crash = if self.rng.bool() { cluster.restart() } else { cluster.kill(pause) };
            return crash.map_err(|error| format!("the database server does not come back: {error}"));
        }
        let up: Vec<usize> = (0..self.members.len()).filter(|index| self.members[*index].process.is_some()).collect();
        let Some(index) = self.rng.choice(up) else { return Ok(()) };
        let member = &mut self.members[index];
        let Some(process) = &mut member.process else { return Ok(()) };
        let is_server = member.port.is_some();
        let pause = Duration::from_millis(self.rng.u64(..1_500));
        let roll = match self.weather {
            Weather::Mixed => self.rng.u8(..100),
            // A kill now and then, so that somebody starts anew.
            Weather::Frost => self.rng.u8(35..80),
        };
        match roll {
            0..45 => {
                tally.count(if is_server { "kill -9 of servers" } else { "kill -9 of workers" });
                tally.count("kill -9");
                process.kill();
                member.process = None;
                member.wakes_at = None;
                member.is_leaving = false;
                member.starts_at = Instant::now() + pause;
            }
            45..80 => {
                let time = match self.weather {
                    Weather::Mixed => self.place.freeze(&mut self.rng),
                    Weather::Frost => self.place.freeze_long(&mut self.rng),
                };
                if time > LEASE {
                    tally.count("freezes past the lease");
                } else {
                    tally.count("freezes");
                }
                process.signal(Signal::SIGSTOP);
                member.wakes_at = Some(Instant::now() + time);
            }
            _ => {
                tally.count("drains");
                process.signal(Signal::SIGCONT);
                process.signal(Signal::SIGTERM);
                member.wakes_at = None;
                member.is_leaving = true;
                member.starts_at = Instant::now() + pause;
            }
        }
        Ok(())
    }

    /// Whether every run is completed; what is recorded by now is acknowledged.
    fn look(&mut self) -> bool {
        let mut changed = Vec::new();
        for run in self.runs.iter_mut().filter(|run| run.is_launched && !run.is_done) {
            // The database may be down at the moment.
            let Ok(Some(row)) = self.database.run(&run.plan.tag) else { continue };
            let Ok(tasks) = self.database.tasks(&row.id) else { continue };
            changed.extend(run.acknowledged.note(&tasks));
            run.is_done = row.status == "completed";
        }
        for violation in changed {
            self.broken(&violation);
        }
        self.runs.iter().all(|run| run.is_done)
    }

    /// Ends everybody the gentle way.
    fn drain(&mut self) {
        let mut codes = BTreeMap::new();
        for member in &mut self.members {
            if let Some(process) = &member.process {
                process.signal(Signal::SIGCONT);
                process.signal(Signal::SIGTERM);
            }
        }
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                codes.insert(member.name.clone(), process.wait(DRAIN_LIMIT).map(|status| status.code()));
                process.kill();
            }
        }
        for (name, code) in codes {
            match code {
                // Done, or asked before it listened for being asked.
                Some(Some(0) | None) => {}
                Some(Some(code)) => self.broken(&format!("{name} ended with {code} when it was asked to")),
                None => self.broken(&format!("{name} did not end within {} s", DRAIN_LIMIT.as_secs())),
            }
        }
    }
}

fn server(rng: &mut fastrand::Rng, index: usize) -> Member {
    // A server on port 0 listens where nobody looks for it, and the round fails.
    let port = client::free_port().unwrap_or(0);
    let slots = *rng.choice(&[0, 0, 2, 8]).unwrap_or(&0);
    let words = ["serve", "--addr", &format!("127.0.0.1:{port}"), "--slots", &slots.to_string()];
    member(format!("server-{index}"), words.map(str::to_owned).to_vec(), Some(port))
}

fn worker(rng: &mut fastrand::Rng, index: usize) -> Member {
    let slots = rng.u32(1..=8).to_string();
    let mut words = vec!["worker".to_owned(), "--slots".to_owned(), slots];
    // The first one takes everything, so that no role is left out.
    if index > 0 && rng.u8(..3) == 0 {
        words.extend(["--roles".to_owned(), "coder,tester".to_owned()]);
    }
    member(format!("worker-{index}"), words, None)
}

fn member(name: String, words: Vec<String>, port: Option<u16>) -> Member {
    Member {
        name,
        words,
        port,
        process: None,
        starts_at: Instant::now(),
        wakes_at: None,
        is_leaving: false,
        changes: 0,
    }
}
