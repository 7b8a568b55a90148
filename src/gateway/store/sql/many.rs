//! One statement with many rows: run for each of them on SQLite, and once with all as arrays on PostgreSQL.

use super::super::StoreError;
use super::super::repeated::Repeated;
use super::super::value::{Bound, Params, Row, from_postgres};
use super::super::words::OPEN;
use super::{Backend, Transaction, is_question, prepared, references};

impl Transaction<'_> {
    /// As [`Self::execute_now`], on PostgreSQL, with these rows' columns as parameters, each as an array.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn execute_arrays<'r>(&self, sql: &str, rows: impl Iterator<Item = Vec<Bound<'r>>>) -> Result<(), StoreError> {
        debug_assert!(self.is_shared());
        let Backend::Postgres(held) = &self.backend else { return Ok(()) };
        self.sends(false);
        let columns = transposed(rows);
        let (t, statements) = &mut *held.borrow_mut();
        let statement = prepared(t, statements, sql)?;
        t.execute(&statement, &references(&columns)).inspect_err(|error| self.note(error))?;
        Ok(())
    }

    /// Asks for these rows, each a statement's parameters, and returns every answer with its row's place among them. The
    /// place is the last parameter, and the last column of an answer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn for_rows<'r, T>(
        &self,
        statements: (&str, &str),
        rows: impl Iterator<Item = impl Params<'r>>,
        read: impl Fn(&mut Row) -> Result<T, StoreError>,
    ) -> Result<Vec<(usize, T)>, StoreError> {
        let placed = rows.zip(0..).map(|(row, place)| {
            let mut row = row.bound();
            row.push(Bound::Integer(place));
            row
        });
        self.with_rows(statements, placed, |row| Ok((row.get_last()?, read(row)?)))
    }

    /// Runs a statement with each of these rows as its parameters: one by one, or on PostgreSQL all at once, their columns
    /// as arrays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn with_rows<'r, T>(
        &self,
        (one, all): (&str, &str),
        rows: impl Iterator<Item = Vec<Bound<'r>>>,
        read: impl Fn(&mut Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.unwritten.write_for(self, all)?;
        let held = match &self.backend {
            Backend::Postgres(held) => held,
            Backend::Sqlite(t) => {
                let (mut each, mut found) = (Repeated::new(t, &self.usage), Vec::new());
                let is_of_open = one.contains(OPEN);
                for row in rows {
                    if is_of_open {
                        self.enter_kept(&row)?;
                    }
                    each.query(one, &row, |mut row| {
                        found.push(read(&mut row)?);
                        Ok(())
                    })?;
                }
                return Ok(found);
            }
        };
        let columns = transposed(rows);
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        self.sends(is_question(all));
        let (t, statements) = &mut *held.borrow_mut();
        let statement = prepared(t, statements, all)?;
        let found = t.query(&statement, &references(&columns)).inspect_err(|error| self.note(error))?;
        found.iter().map(|row| read(&mut from_postgres(row)?)).collect()
    }

    /// Carries a statement out with each of these rows, as [`Self::with_rows`] runs one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn execute_rows<'r>(
        &self,
        (one, all): (&str, &str),
        rows: impl Iterator<Item = Vec<Bound<'r>>>,
    ) -> Result<(), StoreError> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        self.unwritten.write_for(self, all)?;
        if self.is_shared() {
            return self.execute_arrays(all, rows);
        }
        let rows: Vec<Vec<Bound<'r>>> = rows.collect();
        if one.contains(OPEN) {
            rows.iter().try_for_each(|row| self.enter_kept(row))?;
        }
        self.execute_each(rows.into_iter().map(|row| (one, row)))
    }

    /// Carries these out one after the other, on SQLite, before what is not written yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn execute_each<'r>(
        &self,
        mut statements: impl Iterator<Item = (&'r str, Vec<Bound<'r>>)>,
    ) -> Result<(), StoreError> {
        debug_assert!(!self.is_shared());
        let Backend::Sqlite(t) = &self.backend else { return Ok(()) };
        let mut each = Repeated::new(t, &self.usage);
        statements.try_for_each(|(sql, values)| each.execute(sql, &values).map(drop))
    }

    /// Adds these rows unless they are there, and returns the first column of those that are new, a text, which is their
    /// first parameter. `all` returns that column, and `one` nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn add_rows<'r>(
        &self,
        (one, all): (&str, &str),
        rows: impl Iterator<Item = Vec<Bound<'r>>>,
    ) -> Result<Vec<String>, StoreError> {
        let Backend::Sqlite(t) = &self.backend else { return self.with_rows((one, all), rows, |row| row.get(0)) };
        self.unwritten.write_for(self, one)?;
        // To tell which are new by RETURNING, SQLite would fill a table of its own for each.
        let (mut each, mut new) = (Repeated::new(t, &self.usage), Vec::new());
        for row in rows {
            if each.execute(one, &row)? > 0
                && let Some(Bound::Text(first)) = row.first()
            {
                new.push((*first).to_owned());
            }
        }
        Ok(new)
    }
}

fn transposed<'r>(rows: impl Iterator<Item = Vec<Bound<'r>>>) -> Vec<Vec<Bound<'r>>> {
    let mut columns: Vec<Vec<Bound<'r>>> = Vec::new();
    for row in rows {
        columns.resize_with(row.len(), Vec::new);
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    columns
}
