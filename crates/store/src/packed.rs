//! Rows of a whole run in one answer: the database puts them into one JSON text, which is read at once.
//!
//! A row of the driver costs an allocation for each of its values and a trip from thread to thread; a run of a thousand
//! tasks has three thousand rows of twenty values.
//!
//! **Invariant:** the columns are those of the entity, in the order of its fields: a new one needs nothing here.

use std::fmt;

use crewline_types::RunId;
use sea_orm::{ColumnTrait, ColumnType, ConnectionTrait as _, EntityTrait, IdenStatic as _, Iterable as _, Statement};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

use crate::{Backend, Error, Store};

impl Store {
    /// One answer of `from`, which binds the run: an array of what `item` makes, in this order.
    pub(crate) async fn packed<T: DeserializeOwned>(
        &self,
        item: &str,
        order: &str,
        from: &str,
        run: RunId,
    ) -> Result<Vec<T>, Error> {
        let reader = self.reader().await?;
        let text = match self.backend() {
            Backend::Sqlite => format!("SELECT json_group_array({item} ORDER BY {order}) FROM {from}"),
            Backend::Postgres => format!("SELECT json_agg({item} ORDER BY {order})::TEXT FROM {from}"),
        };
        let statement = Statement::from_sql_and_values(reader.get_database_backend(), text, [run.as_str().into()]);
        let answer = reader.query_one_raw(statement).await?;
        let json: Option<String> = answer.map(|row| row.try_get_by_index(0)).transpose()?.flatten();
        let Some(json) = json else { return Ok(Vec::new()) };
        serde_json::from_str(&json).map_err(|error| Error::corrupt("json", &error.to_string()))
    }

    /// An array of values.
    pub(crate) fn array_of(&self, items: &[String]) -> String {
        let name = match self.backend() {
            Backend::Sqlite => "json_array",
            Backend::Postgres => "json_build_array",
        };
        format!("{name}({})", items.join(","))
    }

    /// A row of `E`, whose table is called `alias`, as its `Model` is read from an array.
    pub(crate) fn row_of<E: EntityTrait>(&self, alias: &str) -> String {
        let columns = E::Column::iter().map(|column| {
            let name = format!("{alias}.{}", column.as_str());
            match column.def().get_column_type() {
                ColumnType::VarBinary(_) | ColumnType::Binary(_) | ColumnType::Blob => self.digits_of(&name),
                _ => name,
            }
        });
        self.array_of(&columns.collect::<Vec<_>>())
    }

    /// A column of bytes, which JSON has as hexadecimal digits; SQLite makes NULL of no bytes.
    pub(crate) fn digits_of(&self, column: &str) -> String {
        match self.backend() {
            Backend::Sqlite => format!("nullif(hex({column}),'')"),
            Backend::Postgres => format!("encode({column},'hex')"),
        }
    }
}

/// Bytes, which JSON has as hexadecimal digits.
pub(crate) fn hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let digits = <&str>::deserialize(deserializer)?;
    bytes_of(digits).ok_or_else(|| de::Error::custom("not hexadecimal digits"))
}

/// The same, or NULL.
pub(crate) fn hex_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    let Some(digits) = Option::<&str>::deserialize(deserializer)? else { return Ok(None) };
    bytes_of(digits).map(Some).ok_or_else(|| de::Error::custom("not hexadecimal digits"))
}

pub(crate) fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.as_bytes().chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

/// A truth, which SQLite has as a number.
pub(crate) fn bit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Bit;

    impl de::Visitor<'_> for Bit {
        type Value = bool;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a truth")
        }

        fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
            Ok(value != 0)
        }
    }

    deserializer.deserialize_any(Bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_bytes() {
        assert_eq!(bytes_of("00fFA1"), Some(vec![0, 255, 161]));
        assert_eq!(bytes_of(""), Some(Vec::new()));
        for bad in ["f", "0g", "é0", "0x"] {
            assert_eq!(bytes_of(bad), None, "{bad}");
        }
    }
}
