//! The processes that work, and what somebody asks of a run's manager.
//!
//! **Invariant:** these rows inform people and managers; no claim or lease depends on them.

use std::time::Duration;

use crewline_types::{Role, RunId, TextHash, Timestamp};
use sea_orm::{ColumnTrait, ConnectionTrait as _, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};

use crate::{
    Error, Store,
    commit::run_id,
    entity::{self, parse},
    hints::News,
    run::lease_us,
    sql::{Args, dialect},
    statements as sql,
};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Manages runs.
    Server,
    /// Works on offers.
    Worker,
}

impl NodeKind {
    /// The name used in the database and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Worker => "worker",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "server" => Self::Server,
            "worker" => Self::Worker,
            _ => return None,
        })
    }
}

/// A process that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Names one start of one process.
    pub id: String,
    /// What it does.
    pub kind: NodeKind,
    /// Its version.
    pub version: String,
    /// The roles it claims; `None` for every role.
    pub roles: Option<Vec<Role>>,
    /// Attempts it may have at once.
    pub slots: u32,
    /// Attempts it has.
    pub busy: u32,
    /// Names its registry.
    pub registry: TextHash,
    /// It ends what it has, and claims nothing more.
    pub is_draining: bool,
    /// When it started, on its own clock.
    pub started_at: Timestamp,
    /// When it was last heard of, on the database's clock; not written by [`Store::beat_node`].
    pub seen_at: Timestamp,
    /// How long it may be silent before others take over what it has.
    pub lease: Duration,
}

/// What somebody asks of a run's manager. A heavier wish replaces a lighter one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    /// Begin nothing more, and stop when what runs has ended.
    Pause,
    /// Stop what runs, and end the run as cancelled.
    Cancel,
    /// The same without waiting for anything.
    Kill,
}

impl Wish {
    /// The name used in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Cancel => "cancel",
            Self::Kill => "kill",
        }
    }

    /// As the statement weighs it.
    fn weight(self) -> i64 {
        match self {
            Self::Pause => 1,
            Self::Cancel => 2,
            Self::Kill => 3,
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pause" => Self::Pause,
            "cancel" => Self::Cancel,
            "kill" => Self::Kill,
            _ => return None,
        })
    }
}

impl Store {
    /// Says that a node lives, now.
    pub async fn beat_node(&self, node: &NodeRow) -> Result<(), Error> {
        self.write_alone(&sql::BEAT_NODE, std::slice::from_ref(node), add_node).await?;
        Ok(())
    }

    /// Every node there is, by name, and the time on the database's clock; also nodes that have been silent for long.
    pub async fn nodes(&self) -> Result<(Vec<NodeRow>, Timestamp), Error> {
        let reader = self.reader().await?;
        let rows = entity::node::Entity::find().order_by_asc(entity::node::Column::Id).all(reader).await?;
        let clock = Statement::from_string(reader.get_database_backend(), dialect("SELECT NOW_MICROS", self.backend()));
        let now = match reader.query_one_raw(clock).await? {
            Some(row) => Timestamp(row.try_get_by_index(0)?),
            None => return Err(Error::corrupt("clock", "no answer")),
        };
        Ok((rows.into_iter().map(NodeRow::try_from).collect::<Result<_, _>>()?, now))
    }

    /// Forgets the nodes that were silent for `leases` of their own leases, and says how many.
    pub async fn forget_nodes(&self, leases: u32) -> Result<u64, Error> {
        self.write_alone(&sql::FORGET_NODES, &[leases], |args, leases| args.int(i64::from(*leases))).await
    }

    /// Forgets a node. Its claims stay until their leases run out.
    pub async fn remove_node(&self, id: &str) -> Result<(), Error> {
        self.write_alone(&sql::DELETE_NODES, &[id], |args, id| args.text(id)).await?;
        Ok(())
    }

    /// Asks something of a run's manager, and says whether the run was running. It is forgotten when the run is claimed
    /// and when it ends.
    pub async fn wish(&self, run: RunId, wish: Wish) -> Result<bool, Error> {
        let add = |args: &mut Args, (run, wish): &(RunId, Wish)| {
            args.text(run.as_str());
            args.text(wish.as_str());
            args.int(wish.weight());
        };
        let touched = self.write_alone(&sql::WISH, &[(run, wish)], add).await?;
        if touched > 0 {
            self.tell(&News { wishes: [run].into(), ..News::default() }).await;
        }
        Ok(touched > 0)
    }

    /// What is asked of the managers of `runs`.
    pub async fn wishes(&self, runs: &[RunId]) -> Result<Vec<(RunId, Wish)>, Error> {
        let rows: Vec<(String, String)> = entity::run::Entity::find()
            .select_only()
            .column(entity::run::Column::Id)
            .column(entity::run::Column::Wish)
            .filter(entity::run::Column::Id.is_in(runs.iter().map(RunId::as_str)))
            .filter(entity::run::Column::Wish.is_not_null())
            .order_by_asc(entity::run::Column::Id)
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(|(run, wish)| Ok((run_id(&run)?, parse("runs.wish", &wish, Wish::parse)?))).collect()
    }
}

fn add_node(args: &mut Args, node: &NodeRow) {
    args.text(&node.id);
    args.word(node.kind.as_str());
    args.text(&node.version);
    match &node.roles {
        // A list of words can not fail to serialise.
        Some(roles) => args.text(&serde_json::to_string(roles).unwrap_or_default()),
        None => args.no_text(),
    }
    args.int(node.slots.into());
    args.int(node.busy.into());
    args.bytes(&node.registry.0);
    args.bool(node.is_draining);
    args.int(node.started_at.0);
    args.int(lease_us(node.lease));
}
