//! Chaos: real processes against a scripted upstream, killed, frozen and starved at random; then the promise of
//! `docs/runtime-semantics.md` is checked from outside. `cargo xtask chaos` starts it.
//!
//! Where is what: [`plan`] random plans, [`ledger`] the upstream that remembers, [`crew`] processes, [`solo`] what happens to
//! a run of one process, [`fleet`] to servers and workers, [`verify`] the checks, [`rows`] what the database says, [`tally`] the table.
//!
//! **Invariant:** a violation is told with its seed, and its folder is kept.
//! **Invariant:** only processes and servers that were started for this are disturbed.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod cluster;
mod crew;
mod disk;
mod fleet;
mod ledger;
mod plan;
mod rows;
mod shop;
mod solo;
mod tally;
mod verify;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use crewline_testkit::TestApp;

use crate::{
    cluster::Cluster,
    disk::Disk,
    fleet::Fleet,
    ledger::Ledger,
    rows::Database,
    shop::{Place, Shop},
    solo::Solo,
    tally::Tally,
};

/// Kill, freeze and starve real processes, and check that nothing is lost.
#[derive(Debug, Parser)]
struct Args {
    /// The binary under test
    #[arg(long, default_value = env!("CARGO_BIN_EXE_crewline"))]
    binary: PathBuf,
    /// How long rounds are begun
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Rounds at most
    #[arg(long, default_value_t = u64::MAX)]
    rounds: u64,
    /// Kills at most
    #[arg(long, default_value_t = u64::MAX)]
    kills: u64,
    /// What the first round is made from
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds at a time
    #[arg(long, default_value_t = 2)]
    lanes: u64,
    /// A PostgreSQL server instead of SQLite files
    #[arg(long)]
    postgres: Option<String>,
    /// Where that server keeps its files, when it may be crashed
    #[arg(long, requires = "pg_ctl")]
    cluster: Option<PathBuf>,
    /// The program that starts it
    #[arg(long)]
    pg_ctl: Option<PathBuf>,
    /// What it is started with
    #[arg(long, default_value = "")]
    pg_options: String,
    /// Who runs it, as UID:GID
    #[arg(long, value_parser = account)]
    pg_user: Option<(u32, u32)>,
    /// The binary has no fences: violations are expected
    #[arg(long)]
    unfenced: bool,
}

fn account(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    numbers.ok_or_else(|| "give UID:GID".to_owned())
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    // Processes run in folders of their own.
    args.binary = match args.binary.canonicalize() {
        Ok(path) => path,
        Err(error) => {
            eprintln!("error: there is no binary `{}`: {error}", args.binary.display());
            return ExitCode::from(2);
        }
    };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let place = if args.postgres.is_some() { "PostgreSQL" } else { "SQLite" };
    println!("chaos on {place}, seed {seed}");
    let cluster = args
        .cluster
        .as_ref()
        .zip(args.pg_ctl.as_ref())
        .map(|(data, pg_ctl)| Cluster::new(pg_ctl.clone(), data.clone(), args.pg_user, args.pg_options.clone()));
    let ledger = Ledger::default();
    let shop = Shop {
        server: ledger.serve(),
        ledger,
        tally: Tally::default(),
        cluster,
        until: Instant::now() + Duration::from_secs(args.seconds),
        kills_max: args.kills,
        is_control: args.unfenced,
    };
    let rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..args.lanes {
            scope.spawn(|| {
                let mut home = None;
                while !shop.is_over() {
                    let number = rounds.fetch_add(1, Ordering::SeqCst);
                    if number >= args.rounds {
                        break;
                    }
                    round(&shop, &args, &mut home, seed.wrapping_add(number));
                }
                if let Some(home) = home {
                    home.leave();
                }
            });
        }
    });
    conclude(&shop, &args, seed)
}

fn conclude(shop: &Shop, args: &Args, seed: u64) -> ExitCode {
    if shop.ledger.strangers() > 0 {
        shop.tally.violation(format!("{} requests belong to no plan", shop.ledger.strangers()));
    }
    print!("{}", shop.tally.table());
    match (shop.tally.violations(), args.unfenced) {
        (0, false) => ExitCode::SUCCESS,
        (0, true) => {
            eprintln!("error: without fences nothing went wrong, so this chaos shows nothing (seed {seed})");
            ExitCode::FAILURE
        }
        (_, false) => ExitCode::FAILURE,
        (found, true) => {
            println!("without fences the promise was broken, as it must be: {found} violations");
            ExitCode::SUCCESS
        }
    }
}

/// One place and the runs in it.
fn round(shop: &Shop, args: &Args, home: &mut Option<Home>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut app = TestApp::new(&args.binary);
    app.registry(&shop.server);
    let place = match (&args.postgres, &mut *home) {
        (None, _) => Place::Sqlite,
        (Some(_), Some(home)) => Place::Postgres { url: home.url.clone() },
        (Some(server), None) => match Home::create(server, seed, shop) {
            Ok(found) => Place::Postgres { url: home.insert(found).url.clone() },
            Err(violation) => return shop.tally.violation(violation),
        },
    };
    let disk = if matches!(place, Place::Sqlite) && rng.u8(..8) == 0 { small_disk(&app, shop) } else { None };
    match &place {
        Place::Postgres { url } if rng.u8(..3) > 0 => Fleet::new(shop, &app, &place, url, seed).play(),
        Place::Sqlite | Place::Postgres { .. } => {
            // Two runs of one database now and then: what happens to one must not be felt by the other.
            let runs = if disk.is_none() && rng.u8(..4) == 0 { 2 } else { 1 };
            thread::scope(|scope| {
                for index in 0..runs {
                    let tag = format!("s{seed}r{index}");
                    let seed = seed.wrapping_mul(31).wrapping_add(index);
                    let solo = Solo::new(shop, &app, &place, disk.as_ref(), tag, seed);
                    scope.spawn(|| solo.play());
                }
            });
        }
    }
    if let Place::Sqlite = place {
        let data = if disk.is_some() { app.path("disk/data") } else { app.path("data") };
        match Database::sqlite(&data).damage() {
            Ok(found) => found.into_iter().for_each(|it| shop.tally.violation(format!("s{seed}r*: {it}"))),
            Err(error) => shop.tally.violation(format!("s{seed}r*: the database cannot be read: {error}")),
        }
    }
    let is_broken = shop.tally.has(&format!("s{seed}r"));
    if is_broken && !args.unfenced {
        app.keep();
        if let Some(disk) = &disk {
            disk.save(&app.path("disk-kept"));
        }
        println!("violations in round --seed {seed} --rounds 1; its folder is {}", app.dir().display());
    }
    if is_broken {
        // What is left in it would disturb the next round, and tells the cause.
        *home = None;
    }
    shop.tally.count("rounds");
}

/// The database of a lane: making one takes longer than a round.
struct Home {
    server: String,
    name: String,
    url: String,
}

impl Home {
    /// Another lane may have crashed the server a moment ago.
    fn create(server: &str, seed: u64, shop: &Shop) -> Result<Self, String> {
        let name = format!("chaos_{}_{seed}", std::process::id());
        let from = Instant::now();
        loop {
            match Database::postgres(server).execute(&format!("CREATE DATABASE {name}")) {
                Ok(()) => {
                    let base = server.rsplit_once('/').map_or(server, |(base, _)| base);
                    return Ok(Self { server: server.to_owned(), url: format!("{base}/{name}"), name });
                }
                Err(_) if shop.cluster.is_some() && from.elapsed() < Duration::from_secs(30) => {
                    thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(format!("no database can be created: {error}")),
            }
        }
    }

    fn leave(self) {
        // A server that is down keeps it; it is thrown away with the cluster.
        let _ = Database::postgres(&self.server).execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// A disk that can be filled; without the right to mount one, that part is left out and said once.
fn small_disk(app: &TestApp, shop: &Shop) -> Option<Disk> {
    match Disk::mount(&app.path("disk")) {
        Ok(disk) => Some(disk),
        Err(error) => {
            if shop.tally.of("small disks refused") == 0 {
                println!("full disks are left out: {error}");
            }
            shop.tally.count("small disks refused");
            None
        }
    }
}
