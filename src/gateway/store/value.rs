//! The values of rows and the parameters of statements, the same for SQLite and PostgreSQL.

use super::StoreError;
use crate::ids::{AppId, DeviceId, MessageId, Nonce, UserId};
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A value of a row.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Value {
    #[default]
    Null,
    Integer(i64),
    Text(String),
}

/// A parameter of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
}

/// What can be a parameter.
pub(super) trait Param {
    fn bound(&self) -> Bound<'_>;
}

impl Param for str {
    fn bound(&self) -> Bound<'_> {
        Bound::Text(self)
    }
}

impl Param for String {
    fn bound(&self) -> Bound<'_> {
        Bound::Text(self)
    }
}

macro_rules! ids {
    ($($id:ty),*) => {$(
        impl Param for $id {
            fn bound(&self) -> Bound<'_> {
                Bound::Text(self)
            }
        }

        impl Column for $id {
            fn read(value: &mut Value) -> Option<Self> {
                String::read(value)?.try_into().ok()
            }
        }
    )*};
}

ids!(AppId, UserId, DeviceId, MessageId, Nonce);

impl Param for i64 {
    fn bound(&self) -> Bound<'_> {
        Bound::Integer(*self)
    }
}

impl Param for u32 {
    fn bound(&self) -> Bound<'_> {
        Bound::Integer(i64::from(*self))
    }
}

impl Param for u16 {
    fn bound(&self) -> Bound<'_> {
        Bound::Integer(i64::from(*self))
    }
}

impl Param for bool {
    fn bound(&self) -> Bound<'_> {
        Bound::Integer(i64::from(*self))
    }
}

impl<T: Param + ?Sized> Param for &T {
    fn bound(&self) -> Bound<'_> {
        (**self).bound()
    }
}

impl<T: Param> Param for Option<T> {
    fn bound(&self) -> Bound<'_> {
        self.as_ref().map_or(Bound::Null, Param::bound)
    }
}

/// A list of parameters: an array of one type, or `params!` of several.
pub(super) trait Params<'a> {
    fn bound(self) -> Vec<Bound<'a>>;
}

impl<'a> Params<'a> for Vec<Bound<'a>> {
    fn bound(self) -> Self {
        self
    }
}

impl<'a, T: Param + ?Sized, const N: usize> Params<'a> for [&'a T; N] {
    fn bound(self) -> Vec<Bound<'a>> {
        self.into_iter().map(Param::bound).collect()
    }
}

/// Parameters of several types.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::gateway::store::value::Param::bound(&$value)),*] };
}
pub(super) use params;

/// What a column can be read as.
pub(super) trait Column: Sized {
    fn read(value: &mut Value) -> Option<Self>;
}

impl Column for String {
    fn read(value: &mut Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(std::mem::take(text)),
            _ => None,
        }
    }
}

impl Column for i64 {
    fn read(value: &mut Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl Column for u32 {
    fn read(value: &mut Value) -> Option<Self> {
        i64::read(value).and_then(|number| Self::try_from(number).ok())
    }
}

impl Column for u16 {
    fn read(value: &mut Value) -> Option<Self> {
        i64::read(value).and_then(|number| Self::try_from(number).ok())
    }
}

impl Column for usize {
    fn read(value: &mut Value) -> Option<Self> {
        i64::read(value).and_then(|number| Self::try_from(number).ok())
    }
}

impl Column for bool {
    fn read(value: &mut Value) -> Option<Self> {
        i64::read(value).map(|number| number != 0)
    }
}

impl<T: Column> Column for Option<T> {
    fn read(value: &mut Value) -> Option<Self> {
        if *value == Value::Null { Some(None) } else { T::read(value).map(Some) }
    }
}

/// One row. A column is read once: it gives its value away.
#[derive(Debug)]
pub(super) struct Row(pub Vec<Value>);

impl Row {
    /// # Errors
    /// [`StoreError::Corrupt`] when the column holds something else.
    pub fn get<T: Column>(&mut self, at: usize) -> Result<T, StoreError> {
        let value = self.0.get_mut(at).ok_or_else(|| StoreError::Corrupt(format!("there is no column {at}")))?;
        T::read(value).ok_or_else(|| StoreError::Corrupt(format!("column {at} holds {value:?}")))
    }

    /// The last column.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_last<T: Column>(&mut self) -> Result<T, StoreError> {
        self.get(self.0.len().saturating_sub(1))
    }
}

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
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

impl ToSql for Bound<'_> {
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

pub(super) fn from_postgres(row: &postgres::Row) -> Result<Row, StoreError> {
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
