//! The tools of other servers as they were agreed to.
//!
//! **Invariant:** what two processes see first at once is one pin: the second one changes nothing.

use crewline_types::{TextHash, Timestamp};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::{
    Error, Store, entity,
    sql::{Args, Bulk, Type},
};

const COLUMNS: [Type; 7] = [Type::Text, Type::Bytes, Type::Text, Type::Bytes, Type::Text, Type::Int, Type::Text];

/// Adds pins; those that are there stay.
static INSERT_PINS: Bulk = Bulk::new(
    "INSERT INTO tool_pins (server, origin, tool, hash, definition, pinned_at, pinned_by) SELECT * FROM ",
    &COLUMNS,
    " WHERE v.column1 IS NOT NULL ON CONFLICT (server, origin, tool) DO NOTHING",
);

/// Sets pins to what was agreed to.
static SET_PINS: Bulk = Bulk::new(
    "INSERT INTO tool_pins (server, origin, tool, hash, definition, pinned_at, pinned_by) SELECT * FROM ",
    &COLUMNS,
    " WHERE v.column1 IS NOT NULL ON CONFLICT (server, origin, tool) DO UPDATE SET hash = excluded.hash, \
     definition = excluded.definition, pinned_at = excluded.pinned_at, pinned_by = excluded.pinned_by",
);

/// A tool of another server as it was agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPin {
    /// The server's name.
    pub server: String,
    /// Names the program or address behind it.
    pub origin: TextHash,
    /// The server's own name of the tool.
    pub tool: String,
    /// Names what was agreed to.
    pub hash: TextHash,
    /// What the hash is of.
    pub definition: String,
    /// When.
    pub at: Timestamp,
    /// Who agreed; `registry` when the server was new.
    pub by: String,
}

/// What becomes of a pin that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It stays.
    First,
    /// A person agreed to another one.
    Agreed,
}

fn add_pin(args: &mut Args, pin: &ToolPin) {
    args.text(&pin.server);
    args.bytes(&pin.origin.0);
    args.text(&pin.tool);
    args.bytes(&pin.hash.0);
    args.text(&pin.definition);
    args.int(pin.at.0);
    args.text(&pin.by);
}

impl Store {
    /// The pins of a server, by tool.
    pub async fn tool_pins(&self, server: &str, origin: TextHash) -> Result<Vec<ToolPin>, Error> {
        let rows = entity::tool_pin::Entity::find()
            .filter(entity::tool_pin::Column::Server.eq(server))
            .filter(entity::tool_pin::Column::Origin.eq(origin.0.to_vec()))
            .order_by_asc(entity::tool_pin::Column::Tool)
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(ToolPin::try_from).collect()
    }

    /// Pins tools, each once, and says how many were written.
    pub async fn pin_tools(&self, pins: &[ToolPin], pin: Pin) -> Result<u64, Error> {
        let statement = match pin {
            Pin::First => &INSERT_PINS,
            Pin::Agreed => &SET_PINS,
        };
        self.write_alone(statement, pins, add_pin).await
    }
}
