//! The little SQL the store speaks, on SQLite or PostgreSQL: statements are written in SQLite's words and
//! put into PostgreSQL's once.
//!
//! | written | PostgreSQL |
//! | --- | --- |
//! | `?1` | `$1` |
//! | `user` | `"user"`, which is a word of its own there |
//! | `INSERT OR IGNORE INTO t ...` | `INSERT INTO t ... ON CONFLICT DO NOTHING` |
//! | `LIMIT (?2 + 0)` | the same: SQLite prepares a statement with a bare `LIMIT ?2` anew for each run |
//! | `/* lock */`, `/* claim */` | `FOR UPDATE`, `FOR UPDATE OF d SKIP LOCKED`: SQLite has one writer |

use super::StoreError;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use std::cell::RefCell;
use std::collections::HashMap;

/// A value of a row or a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
}

/// What can be a parameter.
pub(super) trait Param {
    fn value(&self) -> Value;
}

impl Param for str {
    fn value(&self) -> Value {
        Value::Text(self.to_owned())
    }
}

impl Param for String {
    fn value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Param for i64 {
    fn value(&self) -> Value {
        Value::Integer(*self)
    }
}

impl Param for u32 {
    fn value(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Param for u16 {
    fn value(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Param for bool {
    fn value(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl<T: Param + ?Sized> Param for &T {
    fn value(&self) -> Value {
        (**self).value()
    }
}

impl<T: Param> Param for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, Param::value)
    }
}

/// A list of parameters: an array of one type, or `params!` of several.
pub(super) trait Params {
    fn values(self) -> Vec<Value>;
}

impl Params for Vec<Value> {
    fn values(self) -> Vec<Value> {
        self
    }
}

impl<T: Param, const N: usize> Params for [T; N] {
    fn values(self) -> Vec<Value> {
        self.iter().map(Param::value).collect()
    }
}

/// Parameters of several types.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::gateway::store::sql::Param::value(&$value)),*] };
}
pub(super) use params;

/// What a column can be read as.
pub(super) trait Column: Sized {
    fn read(value: &Value) -> Option<Self>;
}

impl Column for String {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl Column for i64 {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl Column for u32 {
    fn read(value: &Value) -> Option<Self> {
        i64::read(value).and_then(|number| Self::try_from(number).ok())
    }
}

impl Column for u16 {
    fn read(value: &Value) -> Option<Self> {
        i64::read(value).and_then(|number| Self::try_from(number).ok())
    }
}

impl Column for bool {
    fn read(value: &Value) -> Option<Self> {
        i64::read(value).map(|number| number != 0)
    }
}

impl<T: Column> Column for Option<T> {
    fn read(value: &Value) -> Option<Self> {
        if *value == Value::Null { Some(None) } else { T::read(value).map(Some) }
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Row(Vec<Value>);

impl Row {
    /// # Errors
    /// [`StoreError::Corrupt`] when the column holds something else.
    pub fn get<T: Column>(&self, at: usize) -> Result<T, StoreError> {
        let wrong = || StoreError::Corrupt(format!("column {at} holds {:?}", self.0.get(at)));
        self.0.get(at).and_then(T::read).ok_or_else(wrong)
    }
}

/// Where a transaction runs.
enum Backend<'a> {
    Sqlite(&'a rusqlite::Transaction<'a>),
    Postgres(RefCell<(postgres::Transaction<'a>, &'a mut Statements)>),
}

/// Prepared statements of one PostgreSQL connection, by how they are written here.
pub(super) type Statements = HashMap<String, postgres::Statement>;

/// A transaction on either.
pub(super) struct Transaction<'a>(Backend<'a>);

/// A statement of a transaction.
pub(super) struct Statement<'a, 't> {
    transaction: &'a Transaction<'t>,
    sql: &'a str,
}

impl<'t> Transaction<'t> {
    pub fn sqlite(transaction: &'t rusqlite::Transaction<'t>) -> Self {
        Self(Backend::Sqlite(transaction))
    }

    pub fn postgres(transaction: postgres::Transaction<'t>, statements: &'t mut Statements) -> Self {
        Self(Backend::Postgres(RefCell::new((transaction, statements))))
    }

    /// # Errors
    /// [`StoreError`]: PostgreSQL did not commit. SQLite's is its owner's to commit.
    pub fn commit(self) -> Result<(), StoreError> {
        match self.0 {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(held) => Ok(held.into_inner().0.commit()?),
        }
    }

    /// Statements are prepared when they first run, and kept.
    #[allow(clippy::unnecessary_wraps, reason = "it reads as the databases' own")]
    pub fn prepare_cached<'a>(&'a self, sql: &'a str) -> Result<Statement<'a, 't>, StoreError> {
        Ok(Statement { transaction: self, sql })
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        let values = params.values();
        match &self.0 {
            Backend::Sqlite(t) => Ok(t.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values))?),
            Backend::Postgres(held) => {
                let (t, statements) = &mut *held.borrow_mut();
                let statement = prepared(t, statements, sql)?;
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
                Ok(usize::try_from(t.execute(&statement, &values)?).unwrap_or(usize::MAX))
            }
        }
    }

    /// # Errors
    /// [`StoreError`]; [`StoreError::NoRow`] when there is none.
    pub fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(self.rows(sql, params)?.first().ok_or(StoreError::NoRow)?)
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute_batch(&self, sql: &str) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sqlite(t) => Ok(t.execute_batch(sql)?),
            Backend::Postgres(held) => Ok(held.borrow_mut().0.batch_execute(&in_postgres(sql))?),
        }
    }

    fn rows(&self, sql: &str, params: impl Params) -> Result<Vec<Row>, StoreError> {
        let values = params.values();
        match &self.0 {
            Backend::Sqlite(t) => {
                let mut statement = t.prepare_cached(sql)?;
                let columns = statement.column_count();
                let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
                    (0..columns).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>().map(Row)
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Backend::Postgres(held) => {
                let (t, statements) = &mut *held.borrow_mut();
                let statement = prepared(t, statements, sql)?;
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
                t.query(&statement, &values)?.iter().map(from_postgres).collect()
            }
        }
    }
}

impl Statement<'_, '_> {
    /// # Errors
    /// As [`Transaction::query_row`].
    pub fn query_row<T>(
        &self,
        params: impl Params,
        read: impl FnOnce(&Row) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transaction.query_row(self.sql, params, read)
    }

    /// # Errors
    /// [`StoreError`].
    pub fn query_map<T>(
        &self,
        params: impl Params,
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<impl Iterator<Item = Result<T, StoreError>>, StoreError> {
        let rows = self.transaction.rows(self.sql, params)?;
        Ok(rows.into_iter().map(move |row| read(&row)))
    }

    /// # Errors
    /// [`StoreError`].
    pub fn execute(&self, params: impl Params) -> Result<usize, StoreError> {
        self.transaction.execute(self.sql, params)
    }
}

/// No row is `None`.
pub(super) trait OptionalExtension<T> {
    /// # Errors
    /// Every other error.
    fn optional(self) -> Result<Option<T>, StoreError>;
}

impl<T> OptionalExtension<T> for Result<T, StoreError> {
    fn optional(self) -> Result<Option<T>, StoreError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::NoRow) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn prepared(
    t: &mut postgres::Transaction<'_>,
    statements: &mut Statements,
    sql: &str,
) -> Result<postgres::Statement, StoreError> {
    if let Some(statement) = statements.get(sql) {
        return Ok(statement.clone());
    }
    let statement = t.prepare(&in_postgres(sql))?;
    statements.insert(sql.to_owned(), statement.clone());
    Ok(statement)
}

/// A statement in PostgreSQL's words.
pub(super) fn in_postgres(sql: &str) -> String {
    let ignores = sql.contains("INSERT OR IGNORE");
    let mut out = String::with_capacity(sql.len() + 32);
    let mut word = String::new();
    let mut quoted = false;
    let flush = |word: &mut String, out: &mut String| {
        out.push_str(if word == "user" { "\"user\"" } else { word });
        word.clear();
    };
    for c in sql.chars() {
        if c == '\'' {
            quoted = !quoted;
        }
        if !quoted && (c.is_ascii_alphanumeric() || c == '_') {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(if c == '?' && !quoted { '$' } else { c });
        }
    }
    flush(&mut word, &mut out);
    let mut out = out
        .replace("INSERT OR IGNORE", "INSERT")
        .replace("/* lock */", "FOR UPDATE")
        .replace("/* claim */", "FOR UPDATE OF d SKIP LOCKED")
        .replace("WITHOUT ROWID", "")
        .replace("id INTEGER PRIMARY KEY", "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        .replace("INTEGER", "BIGINT");
    if ignores {
        out.push_str(" ON CONFLICT DO NOTHING");
    }
    out
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Owned::Null),
            Self::Integer(number) => ToSqlOutput::Owned(Owned::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

impl rusqlite::types::FromSql for Value {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        use rusqlite::types::{FromSqlError, ValueRef};
        match value {
            ValueRef::Null => Ok(Self::Null),
            ValueRef::Integer(number) => Ok(Self::Integer(number)),
            ValueRef::Text(bytes) => std::str::from_utf8(bytes)
                .map(|text| Self::Text(text.to_owned()))
                .map_err(|_| FromSqlError::InvalidType),
            ValueRef::Real(_) | ValueRef::Blob(_) => Err(FromSqlError::InvalidType),
        }
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) if *kind == Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
            Self::Integer(number) => number.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::TEXT, Type::VARCHAR].contains(kind)
    }

    to_sql_checked!();
}

fn from_postgres(row: &postgres::Row) -> Result<Row, StoreError> {
    let read = |at: usize| {
        let kind = row.columns()[at].type_();
        Ok(match *kind {
            Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map_or(Value::Null, Value::Integer),
            Type::INT4 => row.try_get::<_, Option<i32>>(at)?.map_or(Value::Null, |n| Value::Integer(n.into())),
            Type::BOOL => row.try_get::<_, Option<bool>>(at)?.map_or(Value::Null, |b| Value::Integer(b.into())),
            _ => row.try_get::<_, Option<String>>(at)?.map_or(Value::Null, Value::Text),
        })
    };
    (0..row.len()).map(read).collect::<Result<_, StoreError>>().map(Row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_put_into_the_other_databases_words() {
        for (written, there) in [
            ("SELECT user FROM users WHERE user = ?1", "SELECT \"user\" FROM users WHERE \"user\" = $1"),
            (
                "INSERT OR IGNORE INTO t (user) VALUES (?1)",
                "INSERT INTO t (\"user\") VALUES ($1) ON CONFLICT DO NOTHING",
            ),
            ("SELECT 'user?' FROM d /* claim */", "SELECT 'user?' FROM d FOR UPDATE OF d SKIP LOCKED"),
            (
                "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)",
                "CREATE TABLE t (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n BIGINT)",
            ),
        ] {
            assert_eq!(in_postgres(written), there);
        }
    }
}
