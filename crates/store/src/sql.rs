//! Statement texts and their arguments, for both databases.
//!
//! A [`Bulk`] is one statement over many rows, `… FROM (VALUES (…), (…)) AS v …`. Rows are padded to the next size of a
//! ladder, so that a handful of texts serves any batch and the driver's cache of prepared statements is hit. Padding
//! rows are all NULL; every statement leaves them out by a condition on a column that is never NULL.
//!
//! **Invariant:** values are bound, never written into a text.
//! **Invariant:** a NUL character never reaches a database: it becomes U+FFFD here.

use std::{
    borrow::Cow,
    fmt::Write as _,
    ops::Range,
    sync::{Arc, OnceLock},
};

use sea_orm::sqlx::{Arguments as _, postgres::PgArguments, sqlite::SqliteArguments};

use crate::{Backend, error::Error};

/// Sizes of a statement: 1, 2, 4 … 256 rows on PostgreSQL.
const BUCKETS: usize = 9;

/// Each size is so many times the one before, as a power of two. SQLite reads every text anew in each process, so that fewer texts
/// cost less than the padding they need.
fn step(backend: Backend) -> usize {
    match backend {
        Backend::Sqlite => 2,
        Backend::Postgres => 1,
    }
}

/// Rows of the largest statement; on SQLite few, for the same reason.
pub(crate) fn rows_max(backend: Backend) -> usize {
    match backend {
        Backend::Sqlite => 64,
        Backend::Postgres => 1 << (BUCKETS - 1),
    }
}

/// The type of a column of `VALUES`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Int,
    Text,
    Bytes,
    Bool,
}

impl Type {
    fn postgres(self) -> &'static str {
        match self {
            Self::Int => "BIGINT",
            Self::Text => "TEXT",
            Self::Bytes => "BYTEA",
            Self::Bool => "BOOLEAN",
        }
    }
}

/// One statement over many rows.
///
/// In the texts `LEAST(` is the smaller of two numbers, `NOW_MICROS` the database's clock, `TRANSACTION_ID` the name of
/// the transaction or NULL; `FOR_UPDATE_OF_O` and `SKIP_LOCKED_OF_O` lock rows where the database has such locks.
#[derive(Debug)]
pub(crate) struct Bulk {
    before: &'static str,
    columns: &'static [Type],
    after: &'static str,
    texts: [[OnceLock<Arc<str>>; BUCKETS]; 2],
}

impl Bulk {
    pub(crate) const fn new(before: &'static str, columns: &'static [Type], after: &'static str) -> Self {
        Self { before, columns, after, texts: [const { [const { OnceLock::new() }; BUCKETS] }; 2] }
    }

    /// The text for so many rows, and how many rows of padding it needs.
    pub(crate) fn text(&self, backend: Backend, rows: usize) -> (Arc<str>, usize) {
        let (bucket, size) = size_of(backend, rows);
        let of_backend = match backend {
            Backend::Sqlite => &self.texts[0],
            Backend::Postgres => &self.texts[1],
        };
        let text = of_backend[bucket].get_or_init(|| self.build(backend, size));
        (Arc::clone(text), size - rows)
    }

    fn build(&self, backend: Backend, rows: usize) -> Arc<str> {
        let mut text = self.before.to_owned();
        text.push_str("(VALUES ");
        let mut number = 0;
        for row in 0..rows {
            text.push_str(if row == 0 { "(" } else { ",(" });
            for (column, of) in self.columns.iter().enumerate() {
                if column > 0 {
                    text.push(',');
                }
                number += 1;
                let written = match backend {
                    Backend::Sqlite => text.write_char('?'),
                    Backend::Postgres if row == 0 => write!(text, "${number}::{}", of.postgres()),
                    Backend::Postgres => write!(text, "${number}"),
                };
                debug_assert!(written.is_ok(), "writing into memory can not fail");
            }
            text.push(')');
        }
        text.push_str(") AS v");
        text.push_str(self.after);
        dialect(&text, backend).into()
    }

    /// The text and the arguments for some rows of `part`, at most [`rows_max`].
    pub(crate) fn fill(&self, backend: Backend, rows: Range<usize>, add: AddRow<'_>) -> (Arc<str>, Args) {
        let (text, padding) = self.text(backend, rows.len());
        let mut args = Args::new(backend, (rows.len() + padding) * self.columns.len());
        for row in rows {
            add(&mut args, row);
        }
        // SQLite takes what is not bound for NULL; PostgreSQL wants every argument.
        match backend {
            Backend::Sqlite => {}
            Backend::Postgres => args.pad(padding, self.columns),
        }
        (text, args)
    }
}

/// Adds the arguments of the row with this number.
pub(crate) type AddRow<'a> = &'a (dyn Fn(&mut Args, usize) + Sync);

/// A statement and its rows.
pub(crate) struct Part<'a> {
    pub(crate) bulk: &'static Bulk,
    pub(crate) rows: usize,
    pub(crate) add: AddRow<'a>,
}

/// Statements that often come together with as many rows each. SQLite runs them as one: each statement is a trip to
/// the driver's thread and back, which costs more than ten rows.
#[derive(Debug)]
pub(crate) struct Group<const N: usize> {
    bulks: [&'static Bulk; N],
    texts: [OnceLock<Arc<str>>; BUCKETS],
}

impl<const N: usize> Group<N> {
    pub(crate) const fn new(bulks: [&'static Bulk; N]) -> Self {
        Self { bulks, texts: [const { OnceLock::new() }; BUCKETS] }
    }

    /// The text and the arguments of all `parts` at once, when their sizes allow it.
    pub(crate) fn fill(&self, parts: &[Part<'_>; N]) -> Option<(Arc<str>, Args)> {
        let (bucket, size) = size_of(Backend::Sqlite, parts.first()?.rows);
        let fits = |rows: usize| rows > 0 && rows <= size && size_of(Backend::Sqlite, rows).0 == bucket;
        if parts.iter().any(|part| !fits(part.rows)) {
            return None;
        }
        let text = self.texts[bucket].get_or_init(|| {
            let texts: Vec<_> = self.bulks.iter().map(|bulk| bulk.text(Backend::Sqlite, size).0).collect();
            texts.join("; ").into()
        });
        let columns: usize = self.bulks.iter().map(|bulk| bulk.columns.len()).sum();
        let mut args = Args::new(Backend::Sqlite, columns * size);
        for part in parts {
            for row in 0..part.rows {
                (part.add)(&mut args, row);
            }
            args.pad(size - part.rows, part.bulk.columns);
        }
        Some((Arc::clone(text), args))
    }
}

/// The size for so many rows: its place on the ladder, and its rows.
fn size_of(backend: Backend, rows: usize) -> (usize, usize) {
    let rows = rows.clamp(1, rows_max(backend));
    let bucket = (rows.next_power_of_two().trailing_zeros() as usize).div_ceil(step(backend));
    (bucket, 1 << (bucket * step(backend)))
}

pub(crate) fn dialect(text: &str, backend: Backend) -> String {
    let words = match backend {
        Backend::Sqlite => [
            ("LEAST(", "MIN("),
            ("NOW_MICROS", "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
            ("FOR_UPDATE_OF_O", ""),
            ("SKIP_LOCKED_OF_O", ""),
            ("TRANSACTION_ID", "NULL"),
        ],
        Backend::Postgres => [
            ("LEAST(", "LEAST("),
            ("NOW_MICROS", "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT"),
            ("FOR_UPDATE_OF_O", "FOR UPDATE OF o"),
            ("SKIP_LOCKED_OF_O", "FOR UPDATE OF o SKIP LOCKED"),
            ("TRANSACTION_ID", "pg_current_xact_id()::TEXT"),
        ],
    };
    words.into_iter().fold(text.to_owned(), |text, (mark, word)| text.replace(mark, word))
}

/// The arguments of one statement.
pub(crate) enum Args {
    Sqlite(SqliteArguments, Recent),
    Postgres(PgArguments),
}

/// The last few different words of a statement or an answer (status, role, model …), so that they are allocated once.
#[derive(Default)]
pub(crate) struct Recent {
    words: [Option<Arc<str>>; 8],
    next: usize,
}

impl Recent {
    pub(crate) fn word(&mut self, text: &str) -> Arc<str> {
        if let Some(word) = self.words.iter().flatten().find(|word| &***word == text) {
            return Arc::clone(word);
        }
        let word: Arc<str> = text.into();
        self.words[self.next] = Some(Arc::clone(&word));
        self.next = (self.next + 1) % self.words.len();
        word
    }
}

macro_rules! add {
    ($self:ident, $sqlite:expr, $postgres:expr) => {
        // Encoding a number, a text or bytes can not fail; a short argument list would be refused by the database.
        drop(match $self {
            Self::Sqlite(args, _) => args.add($sqlite),
            Self::Postgres(args) => args.add($postgres),
        })
    };
}

impl Args {
    pub(crate) fn new(backend: Backend, capacity: usize) -> Self {
        match backend {
            Backend::Sqlite => {
                let mut args = SqliteArguments::default();
                args.reserve(capacity, 0);
                Self::Sqlite(args, Recent::default())
            }
            Backend::Postgres => {
                let mut args = PgArguments::default();
                args.reserve(capacity, capacity * 8);
                Self::Postgres(args)
            }
        }
    }

    fn pad(&mut self, rows: usize, columns: &[Type]) {
        for column in columns.iter().cycle().take(rows * columns.len()) {
            match column {
                Type::Int => self.int_or_null(None),
                Type::Text => self.no_text(),
                Type::Bytes => self.bytes_or_null(None),
                Type::Bool => add!(self, None::<bool>, None::<bool>),
            }
        }
    }

    pub(crate) fn int(&mut self, value: i64) {
        add!(self, value, value);
    }

    /// A count; what does not fit is the largest number there is.
    pub(crate) fn count(&mut self, value: u64) {
        self.int(clamp(value));
    }

    pub(crate) fn int_or_null(&mut self, value: Option<i64>) {
        add!(self, value, value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        add!(self, value, value);
    }

    /// A text that is not likely to come again.
    pub(crate) fn text(&mut self, value: &str) {
        let value = clean(value);
        add!(self, Arc::<str>::from(&*value), &*value);
    }

    /// A short text that many rows have.
    pub(crate) fn word(&mut self, value: &str) {
        let value = clean(value);
        drop(match self {
            Self::Sqlite(args, recent) => args.add(recent.word(&value)),
            Self::Postgres(args) => args.add(&*value),
        });
    }

    pub(crate) fn text_or_null(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.text(value),
            None => self.no_text(),
        }
    }

    pub(crate) fn no_text(&mut self) {
        add!(self, None::<&str>, None::<&str>);
    }

    /// A text that is shared rather than copied where the driver can.
    pub(crate) fn shared(&mut self, value: &Arc<str>) {
        if has_nul(value) {
            return self.text(value);
        }
        add!(self, Arc::clone(value), &**value);
    }

    /// A text that is given away, known to be free of NUL.
    pub(crate) fn owned(&mut self, value: String) {
        add!(self, value, value.as_str());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        add!(self, value, value);
    }

    pub(crate) fn bytes_or_null(&mut self, value: Option<&[u8]>) {
        add!(self, value, value);
    }
}

/// Counts are unsigned outside and signed in the tables: what does not fit is the largest number there is.
pub(crate) fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

/// The text as a table holds it.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if has_nul(text) { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// A defect: the two enums of this crate disagree.
pub(crate) fn mismatch() -> Error {
    Error::internal("a statement of one database met a connection of the other")
}

#[cfg(test)]
mod tests {
    use super::*;

    static PAIRS: Bulk = Bulk::new("SELECT LEAST(1, 2) FROM ", &[Type::Int, Type::Text], " WHERE column1 IS NOT NULL");

    #[test]
    fn texts_are_shared_and_padded() {
        let (two, padding) = PAIRS.text(Backend::Sqlite, 2);
        assert_eq!(&*two, "SELECT MIN(1, 2) FROM (VALUES (?,?),(?,?),(?,?),(?,?)) AS v WHERE column1 IS NOT NULL");
        assert_eq!(padding, 2);
        assert!(Arc::ptr_eq(&two, &PAIRS.text(Backend::Sqlite, 4).0));
        let (two, padding) = PAIRS.text(Backend::Postgres, 2);
        assert_eq!(
            &*two,
            "SELECT LEAST(1, 2) FROM (VALUES ($1::BIGINT,$2::TEXT),($3,$4)) AS v WHERE column1 IS NOT NULL"
        );
        assert_eq!(padding, 0);
        for (backend, sizes) in
            [(Backend::Sqlite, &[1, 4, 16, 64][..]), (Backend::Postgres, &[1, 2, 4, 8, 16, 32, 64, 128, 256])]
        {
            for rows in 1..=rows_max(backend) {
                let (bucket, size) = size_of(backend, rows);
                assert!(sizes[bucket] == size && rows <= size && (bucket == 0 || rows > sizes[bucket - 1]), "{rows}");
            }
            assert_eq!(sizes.last(), Some(&rows_max(backend)));
        }
    }

    #[test]
    fn nul_becomes_the_replacement_character() {
        assert_eq!(clean("a\0b"), "a\u{fffd}b");
        assert!(matches!(clean("ab"), Cow::Borrowed("ab")));
        assert_eq!(clamp(u64::MAX), i64::MAX);
    }
}
