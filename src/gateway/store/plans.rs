//! How PostgreSQL is to plan the store's statements, and when it plans them anew.

use std::time::Duration;

/// Rows are found by their indexes, as on SQLite. A plan is made when a statement first runs, where a table may be empty and
/// a walk through it the cheapest, and is kept while the table grows. It is kept where a table has partitions too, though one made
/// for its values would look cheaper: to make it costs more than to pass over the partitions that those are not of. None is
/// compiled: a walk that is not to be would look so dear that PostgreSQL does it before it reads a table of three rows.
pub(super) const SETTINGS: &str =
    "SELECT set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
     set_config('enable_mergejoin', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false),
     set_config('jit', 'off', false)";
/// Forgets a connection's plans; its statements stay prepared.
pub(super) const FORGET: &str = "DISCARD PLANS";
/// To plan all statements takes a connection some 20 ms.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// A connection's plans. On an empty table an index looks no better than a walk through another one, whatever the settings, and
/// PostgreSQL thinks better of it by itself only once the table was analysed: where nobody does that, never. So plans are forgotten soon
/// after a connection was made, and again and again in pauses that grow: no table becomes large under a plan of when it was empty.
#[derive(Debug)]
pub(super) struct Plans {
    since: Duration,
    last: Duration,
}

impl Plans {
    pub fn of_new_connection(now: Duration) -> Self {
        Self { since: now, last: FIRST }
    }

    /// Whether they are to be forgotten now.
    pub fn are_old(&mut self, now: Duration) -> bool {
        let are = now.saturating_sub(self.since) >= self.last;
        if are {
            *self = Self { since: now, last: (2 * self.last).min(LAST) };
        }
        are
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::store::trial::Trial;
    use crate::gateway::store::value::{Bound, params};
    use std::time::Instant;

    #[test]
    fn plans_are_made_anew_in_pauses_that_grow_to_a_minute() {
        let mut plans = Plans::of_new_connection(Duration::from_secs(100));
        let anew: Vec<u64> = (100..400).filter(|now| plans.are_old(Duration::from_secs(*now))).collect();
        assert_eq!(anew, [101, 103, 107, 115, 131, 163, 223, 283, 343]);
    }

    #[tokio::test]
    async fn a_plan_of_an_empty_table_is_not_kept_though_nobody_analyses_it() {
        let Some(trial) = Trial::start("a_plan_of_an_empty_table_is_not_kept") else { return };
        trial.database("anew");
        let store = trial.store("impush", "anew").await;
        trial.ask("anew", "ALTER TABLE devices SET (autovacuum_enabled = off)");
        trial.ask("anew", "VACUUM ANALYZE devices");
        // How many rows it goes through to find one device.
        let ask = || {
            store.run(|t| {
                const ALL: &str = "SELECT v.nonce FROM unnest(CAST(?1 AS text[]), CAST(?2 AS text[]), CAST(?3 AS text[]))
                     AS u (app, user, device) JOIN devices v ON v.app = u.app AND v.user = u.user AND v.device = u.device";
                const READ: &str = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'devices'";
                let before: i64 = t.query_row(READ, params![], |r| r.get(0))?;
                let row = ["o#a", "u1", "phone"].map(Bound::Text).to_vec();
                t.with_rows((ALL, ALL), std::iter::once(row), |r| r.get::<String>(0))?;
                Ok(t.query_row(READ, params![], |r| r.get::<i64>(0))? - before)
            })
        };
        for _ in 0..8 {
            // On every connection.
            assert_eq!(tokio::try_join!(ask(), ask()).expect("asked"), (0, 0));
        }
        trial.ask(
            "anew",
            "INSERT INTO devices (app, \"user\", device) SELECT 'o#a', 'u' || n, 'phone' FROM generate_series(1, 5000) AS n",
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut most = 0;
            for _ in 0..8 {
                let (one, other) = tokio::try_join!(ask(), ask()).expect("asked");
                most = most.max(one).max(other);
            }
            if most == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "{most} rows");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
