//! The tools of other servers as they were when they were agreed to: what is offered to a model is compared with it.
//!
//! **Invariant:** a tool is known by its server's name and by the program or address behind it; another one behind the same name
//! is another server.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE tool_pins (
    server TEXT NOT NULL,
    -- Names the program or address behind the name.
    origin {bytes} NOT NULL,
    -- The server's own name of the tool.
    tool TEXT NOT NULL,
    hash {bytes} NOT NULL,
    -- What the hash is of, for people to compare.
    definition TEXT NOT NULL,
    pinned_at {bigint} NOT NULL,
    -- Who agreed; `registry` when the server was new.
    pinned_by TEXT NOT NULL,
    PRIMARY KEY (server, origin, tool)
){clustered};
";
