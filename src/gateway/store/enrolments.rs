//! Enrolment codes, and which device became which user with which of them.

use super::sql::{OptionalExtension as _, Transaction, params};
use super::{Issue, Store, StoreError, as_i64, as_u64, logins, turn_of};
use crate::ids::UserId;
use crate::protocol::{EnrolRefusal, NO_SERIAL, serial_word};
use crate::secret::{Secret, digest_hex};
use serde::Serialize;

/// Codes of one app that are not over.
const MOST: u64 = 1000;
/// A code that is over can be looked up for so long; then it goes, with what is known of its devices. In milliseconds.
const KEPT_MS: u64 = 90 * 86_400_000;

/// Devices that are listed with a code, the newest.
const SHOWN: u32 = 100;

/// A code as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnrolmentCode {
    pub id: String,
    /// How a device's user is called: a name with `{serial}` or `{device}` in it.
    pub user: String,
    /// Devices that may enrol with it, in all, and still.
    pub uses: u32,
    pub uses_left: u32,
    pub expires_ms: u64,
    pub created_ms: u64,
    /// A program's client id, or `admin`.
    pub created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<u64>,
}

/// A device that enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Enrolment {
    pub device_id: String,
    pub user: String,
    pub at_ms: u64,
}

/// A device that shows a code.
#[derive(Debug, Clone)]
pub struct Enrolling {
    pub app: String,
    pub secret: Secret,
    pub device: String,
    /// As the device says it; what of it is no name is left out.
    pub serial: String,
}

/// It is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetIn {
    pub user: String,
    pub issue: Issue,
    /// Of the code.
    pub code: String,
    /// The authorities it is to trust, as PEM, where the code names others than the gateway's own.
    pub ca: Option<String>,
    /// It has enrolled with this code before, and took no further use of it.
    pub again: bool,
}

/// A template as it stands in the store, checked.
///
/// # Errors
/// A sentence.
pub fn check_template(template: &str, uses: u32) -> Result<(), String> {
    let rest = template.replace("{serial}", "").replace("{device}", "");
    if rest.contains(['{', '}']) {
        return Err("the user may have `{serial}` and `{device}` in it, and no other braces".to_owned());
    }
    if rest.len() == template.len() && uses > 1 {
        return Err("a code for more than one device needs `{serial}` or `{device}` in the user".to_owned());
    }
    UserId::try_from(template.to_owned()).map(drop).map_err(|error| error.to_string())
}

fn filled(template: &str, serial: &str, device: &str) -> Result<String, EnrolRefusal> {
    let serial = serial_word(serial).filter(|serial| serial != NO_SERIAL);
    if template.contains("{serial}") && serial.is_none() {
        return Err(EnrolRefusal::NoSerial);
    }
    let device = serial_word(device);
    if template.contains("{device}") && device.is_none() {
        return Err(EnrolRefusal::BadDevice);
    }
    // One after the other: what is filled in holds no brace.
    let user =
        template.replace("{serial}", &serial.unwrap_or_default()).replace("{device}", &device.unwrap_or_default());
    UserId::try_from(user).map(String::from).map_err(|_| EnrolRefusal::BadUser)
}

impl Store {
    /// `false`: the app has as many as it may. `ca`: what devices are to trust, where it is not the gateway's own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_enrolment_code(
        &self,
        app: String,
        code: EnrolmentCode,
        secret: Secret,
        ca: Option<String>,
    ) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let over = as_i64(code.created_ms.saturating_sub(KEPT_MS));
            let old = "SELECT id FROM enrolment_codes WHERE app = ?1 AND (expires_ms < ?2 OR revoked_ms < ?2)";
            t.execute(&format!("DELETE FROM enrolments WHERE code IN ({old})"), params![app, over])?;
            t.execute(&format!("DELETE FROM enrolment_codes WHERE id IN ({old})"), params![app, over])?;
            let count = "SELECT count(*) FROM enrolment_codes WHERE app = ?1 AND expires_ms > ?2 AND revoked_ms IS NULL";
            if as_u64(t.query_row(count, params![app, as_i64(code.created_ms)], |r| r.get(0))?) >= MOST {
                return Ok(false);
            }
            let EnrolmentCode { id, user, uses, uses_left, expires_ms, created_ms, created_by, .. } = code;
            t.execute(
                "INSERT INTO enrolment_codes (id, app, secret, user, uses, uses_left, expires_ms, created_ms, created_by, ca)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    id,
                    app,
                    digest_hex(secret.expose()),
                    user,
                    uses,
                    uses_left,
                    as_i64(expires_ms),
                    as_i64(created_ms),
                    created_by,
                    ca
                ],
            )?;
            Ok(true)
        })
        .await
    }

    /// An app's, the oldest first, each with the devices that enrolled with it last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enrolment_codes(&self, app: String) -> Result<Vec<(EnrolmentCode, Vec<Enrolment>)>, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let codes: Vec<EnrolmentCode> = t
                .prepare_cached(
                    "SELECT id, user, uses, uses_left, expires_ms, created_ms, created_by, revoked_ms FROM enrolment_codes
                     WHERE app = ?1 ORDER BY created_ms, id",
                )?
                .query_map(params![app], |r| {
                    Ok(EnrolmentCode {
                        id: r.get(0)?,
                        user: r.get(1)?,
                        uses: r.get(2)?,
                        uses_left: r.get(3)?,
                        expires_ms: as_u64(r.get(4)?),
                        created_ms: as_u64(r.get(5)?),
                        created_by: r.get(6)?,
                        revoked_ms: r.get::<Option<i64>>(7)?.map(as_u64),
                    })
                })?
                .collect::<Result<_, _>>()?;
            let with_devices = codes.into_iter().map(|code| {
                let devices = t
                    .prepare_cached("SELECT device, user, at_ms FROM enrolments WHERE code = ?1 ORDER BY at_ms DESC, device LIMIT ?2")?
                    .query_map(params![code.id, SHOWN], |r| {
                        Ok(Enrolment { device_id: r.get(0)?, user: r.get(1)?, at_ms: as_u64(r.get(2)?) })
                    })?
                    .collect::<Result<_, StoreError>>()?;
                Ok((code, devices))
            });
            with_devices.collect()
        })
        .await
    }

    /// No device enrols with it any more; those that have keep their logins. `false`: the app has no such code.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_enrolment_code(&self, app: String, id: String, now_ms: u64) -> Result<bool, StoreError> {
        self.run_in(turn_of(&app), move |t| {
            let sql = "UPDATE enrolment_codes SET revoked_ms = coalesce(revoked_ms, ?3) WHERE app = ?1 AND id = ?2";
            Ok(t.execute(sql, params![app, id, as_i64(now_ms)])? > 0)
        })
        .await
    }

    /// Takes one use of a code for a device, and makes its user. All of it or nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enrol(&self, enrolling: Enrolling, now_ms: u64) -> Result<Result<LetIn, EnrolRefusal>, StoreError> {
        self.run_alone(move |t| enrol(t, &enrolling, now_ms)).await
    }
}

/// A code's row.
struct Of {
    id: String,
    user: String,
    uses_left: i64,
    expires_ms: i64,
    revoked: bool,
    ca: Option<String>,
}

/// What is refused here has written nothing.
fn enrol(t: &Transaction<'_>, one: &Enrolling, now_ms: u64) -> Result<Result<LetIn, EnrolRefusal>, StoreError> {
    let Enrolling { app, secret, device, serial } = one;
    // Held to the end: of two devices that come for the last use, the second waits and finds none.
    let found = t
        .prepare_cached(
            "SELECT id, user, uses_left, expires_ms, revoked_ms, ca FROM enrolment_codes WHERE app = ?1 AND secret = ?2 /* lock */",
        )?
        .query_row(params![app, digest_hex(secret.expose())], |r| {
            Ok(Of {
                id: r.get(0)?,
                user: r.get(1)?,
                uses_left: r.get(2)?,
                expires_ms: r.get(3)?,
                revoked: r.get::<Option<i64>>(4)?.is_some(),
                ca: r.get(5)?,
            })
        })
        .optional()?;
    let Some(code) = found else { return Ok(Err(EnrolRefusal::Unknown)) };
    if code.revoked {
        return Ok(Err(EnrolRefusal::Revoked));
    }
    if as_u64(code.expires_ms) <= now_ms {
        return Ok(Err(EnrolRefusal::Expired));
    }
    let before: Option<String> = t
        .prepare_cached("SELECT user FROM enrolments WHERE code = ?1 AND device = ?2")?
        .query_row(params![code.id, device], |r| r.get(0))
        .optional()?;
    let again = before.is_some();
    let user = match before.map_or_else(|| filled(&code.user, serial, device), Ok) {
        Ok(user) => user,
        Err(refused) => return Ok(Err(refused)),
    };
    if !again {
        if code.uses_left <= 0 {
            return Ok(Err(EnrolRefusal::UsedUp));
        }
        // No password opens it. Whoever is there already stays who it is.
        let made = t.execute(
            "INSERT OR IGNORE INTO users (app, user, password, created_ms, generation) VALUES (?1, ?2, '', ?3, ?3)",
            params![app, user, as_i64(now_ms)],
        )?;
        if made == 0 {
            return Ok(Err(EnrolRefusal::UserExists));
        }
        t.execute("UPDATE enrolment_codes SET uses_left = uses_left - 1 WHERE id = ?1", params![code.id])?;
        t.execute(
            "INSERT INTO enrolments (code, device, app, user, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![code.id, device, app, user, as_i64(now_ms)],
        )?;
    }
    let issue = logins::issue(t, app, &user, Some(device), false)?;
    Ok(issue.map(|issue| LetIn { user, issue, code: code.id, ca: code.ca, again }).ok_or(EnrolRefusal::NotActive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Rules;
    use crate::gateway::store::{UserChange, Vault};

    const APP: &str = "o#a";

    struct Stage {
        store: Store,
        _home: tempfile::TempDir,
    }

    impl Stage {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let vault = Vault::open(&home.path().join("key"), true).expect("a key");
            Self { store: Store::open(&home.path().join("db"), vault).expect("a store"), _home: home }
        }

        async fn code(&self, id: &str, user: &str, uses: u32) {
            let code = EnrolmentCode {
                id: id.to_owned(),
                user: user.to_owned(),
                uses,
                uses_left: uses,
                expires_ms: 1000,
                created_ms: 1,
                created_by: "admin".to_owned(),
                revoked_ms: None,
            };
            let secret = Secret::new(format!("secret of {id}"));
            assert!(self.store.add_enrolment_code(APP.into(), code, secret, None).await.expect("stored"));
        }

        async fn enrol(&self, id: &str, device: &str, serial: &str, now_ms: u64) -> Result<LetIn, EnrolRefusal> {
            let secret = Secret::new(format!("secret of {id}"));
            let (app, device, serial) = (APP.to_owned(), device.to_owned(), serial.to_owned());
            self.store.enrol(Enrolling { app, secret, device, serial }, now_ms).await.expect("asked")
        }

        async fn uses_left(&self, id: &str) -> u32 {
            let codes = self.store.enrolment_codes(APP.into()).await.expect("read");
            codes.into_iter().find(|(code, _)| code.id == id).expect("there").0.uses_left
        }
    }

    #[tokio::test]
    async fn each_device_takes_one_use_and_the_same_one_no_second() {
        let stage = Stage::new();
        stage.code("c", "kiosk-{serial}", 2).await;
        let first = stage.enrol("c", "d1", "S1", 10).await.expect("let in");
        assert_eq!((first.user.as_str(), first.again, first.issue.generation), ("kiosk-S1", false, 10));
        let again = stage.enrol("c", "d1", "another", 11).await.expect("its answer was lost");
        assert_eq!((again.user.as_str(), again.again), ("kiosk-S1", true));
        assert_eq!(stage.uses_left("c").await, 1);
        assert_eq!(stage.enrol("c", "d2", "S1", 12).await, Err(EnrolRefusal::UserExists), "another device's user");
        assert_eq!(stage.uses_left("c").await, 1, "what is refused costs nothing");
        stage.enrol("c", "d2", "S2", 13).await.expect("let in");
        assert_eq!(stage.enrol("c", "d3", "S3", 14).await, Err(EnrolRefusal::UsedUp));
        assert!(!stage.store.user_exists(APP.into(), "kiosk-S3".into()).await.expect("read"));
        stage.enrol("c", "d2", "S2", 15).await.expect("used up for others only");
    }

    #[tokio::test]
    async fn nobody_takes_over_a_user_that_is_there() {
        let stage = Stage::new();
        stage.store.add_users(APP.into(), vec![("admin".into(), "hash".into())], 1).await.expect("stored");
        stage.code("c", "{serial}", 9).await;
        assert_eq!(stage.enrol("c", "d", "admin", 10).await, Err(EnrolRefusal::UserExists));
        assert_eq!(stage.store.password(APP.into(), "admin".into()).await.expect("read").as_deref(), Some("hash"));
    }

    #[tokio::test]
    async fn a_code_that_is_over_is_refused_with_its_reason_also_to_a_device_that_had_it() {
        let stage = Stage::new();
        stage.code("c", "{device}", 9).await;
        stage.enrol("c", "d", "-", 10).await.expect("let in");
        assert_eq!(stage.enrol("c", "d", "-", 1000).await, Err(EnrolRefusal::Expired));
        assert!(stage.store.revoke_enrolment_code(APP.into(), "c".into(), 20).await.expect("stored"));
        assert!(!stage.store.revoke_enrolment_code("o#b".into(), "c".into(), 20).await.expect("read"));
        assert_eq!(stage.enrol("c", "d", "-", 21).await, Err(EnrolRefusal::Revoked));
        assert_eq!(stage.enrol("nothing", "d", "-", 21).await, Err(EnrolRefusal::Unknown));
    }

    #[tokio::test]
    async fn a_user_who_was_removed_may_enrol_anew_and_one_who_is_deactivated_may_not() {
        let stage = Stage::new();
        stage.code("c", "{device}", 2).await;
        stage.enrol("c", "d", "-", 10).await.expect("let in");
        let change = async |change| {
            let changed = stage.store.change_user(APP.into(), "d".into(), change, Rules::FOR_TESTS, 20).await;
            changed.expect("stored").expect("known");
        };
        change(UserChange::Deactivated).await;
        assert_eq!(stage.enrol("c", "d", "-", 21).await, Err(EnrolRefusal::NotActive));
        change(UserChange::Deleted).await;
        assert!(!stage.enrol("c", "d", "-", 22).await.expect("let in").again);
        assert_eq!(stage.uses_left("c").await, 0);
    }

    #[tokio::test]
    async fn of_many_devices_at_once_as_many_get_in_as_there_are_uses() {
        let stage = Stage::new();
        stage.code("c", "{device}", 3).await;
        let all = (0..20).map(|n| {
            let stage = &stage;
            async move { stage.enrol("c", &format!("d{n}"), "-", 10).await.is_ok() }
        });
        let entered = futures_util::future::join_all(all).await.into_iter().filter(|entered| *entered).count();
        assert_eq!((entered, stage.uses_left("c").await), (3, 0));
    }

    #[tokio::test]
    async fn a_code_that_has_long_been_over_is_forgotten_with_its_devices() {
        let stage = Stage::new();
        stage.code("c", "{device}", 1).await;
        stage.enrol("c", "d", "-", 10).await.expect("let in");
        let later = EnrolmentCode {
            id: "later".into(),
            created_ms: 1001 + KEPT_MS,
            expires_ms: u64::MAX,
            ..stage.store.enrolment_codes(APP.into()).await.expect("read").remove(0).0
        };
        stage.store.add_enrolment_code(APP.into(), later, Secret::new("s"), None).await.expect("stored");
        let left = stage.store.enrolment_codes(APP.into()).await.expect("read");
        assert_eq!(
            left.iter().map(|(code, devices)| (code.id.as_str(), devices.len())).collect::<Vec<_>>(),
            [("later", 0)]
        );
    }

    #[test]
    fn a_template_makes_a_user_name_or_says_why_not() {
        assert_eq!(filled("kiosk-{serial}", "a/b", "d"), Ok("kiosk-a-b".to_owned()));
        assert_eq!(filled("{device}.{serial}", "1", "d"), Ok("d.1".to_owned()));
        assert_eq!(filled("{serial}", "{device}", "d"), Ok("device".to_owned()), "what a device says fills in nothing");
        assert_eq!(filled("kiosk-{serial}", "-", "d"), Err(EnrolRefusal::NoSerial));
        assert_eq!(filled("kiosk-{device}", "", "d"), Ok("kiosk-d".to_owned()));
        assert_eq!(filled(&format!("{}{{serial}}", "k".repeat(240)), &"s".repeat(40), "d"), Err(EnrolRefusal::BadUser));
        assert!(check_template("kiosk", 1).is_ok() && check_template("kiosk", 2).is_err());
        assert!(check_template("kiosk-{serial}", 500).is_ok() && check_template("", 1).is_err());
        assert!(check_template("kiosk-{imei}", 1).is_err());
    }
}
