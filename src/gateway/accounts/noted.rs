//! Whose login an account is, as its description says, and which accounts of a device are too many.

use super::super::store::LoginClaim;
use super::super::tokens::Claims;
use crate::protocol::{Address, Leg, Topics};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// Of one device these many accounts stay besides those whose tokens live: a device that was away renews with an old one,
/// and may miss the answer.
const NEWEST: usize = 4;
/// And no more than these in all: whoever has a right password gets tokens as often as they like.
pub const MOST: usize = 8;

/// Whose login an account is: its description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    pub app: String,
    pub user: String,
    pub device: String,
    pub login: String,
    pub generation: u64,
    pub issued_s: u64,
    /// Until then its token lives.
    pub life_s: u64,
    /// Nobody takes the token after it.
    pub end_s: u64,
    /// When the account was made, which tells those apart that were issued within a second. 0 of builds that did not say it.
    #[serde(default)]
    pub made_ms: u64,
    /// Which installation made it. `None` of builds before they had an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
}

impl Noted {
    pub fn of(claims: &Claims, installation: &str, made_ms: u64) -> Option<Self> {
        Some(Self {
            app: claims.app.clone(),
            user: claims.sub.clone(),
            device: claims.device.clone()?,
            login: claims.login.clone(),
            generation: claims.generation,
            issued_s: claims.iat.unwrap_or(0),
            life_s: claims.life.unwrap_or(claims.exp),
            end_s: claims.exp,
            made_ms,
            installation: Some(installation.to_owned()),
        })
    }

    pub fn claim(&self) -> LoginClaim {
        LoginClaim {
            app: self.app.clone(),
            user: self.user.clone(),
            device: Some(self.device.clone()),
            login: self.login.clone(),
            generation: self.generation,
            issued_s: self.issued_s,
        }
    }
}

/// An account as the broker lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub noted: Noted,
}

impl Listed {
    /// `None`: it is somebody else's.
    pub fn read(client: &Json) -> Option<Self> {
        let noted = serde_json::from_str(client["textdescription"].as_str()?).ok()?;
        Some(Self { name: client["username"].as_str()?.to_owned(), noted })
    }

    /// The command that has it bear an installation; `None`: it bears one.
    pub fn marked(&self, installation: &str) -> Option<Json> {
        let marked = Noted { installation: Some(installation.to_owned()), ..self.noted.clone() };
        let description = serde_json::to_string(&marked).ok()?;
        let command = || json!({"command": "modifyClient", "username": self.name, "textdescription": description});
        self.noted.installation.is_none().then(command)
    }
}

/// The commands that make an account, with its topics; `None`: its ids are none.
pub fn added(noted: &Noted, name: &str, token: &Secret, topics: &Topics) -> Option<Vec<Json>> {
    let address = Address::new(&noted.app, &noted.user, &noted.device).ok()?;
    let rule = |kind, leg| json!({"acltype": kind, "topic": topics.topic(&address, leg), "allow": true});
    let rules = [
        rule("publishClientSend", Leg::Up),
        rule("publishClientSend", Leg::State),
        rule("subscribeLiteral", Leg::Down),
        rule("publishClientReceive", Leg::Down),
    ];
    Some(vec![
        json!({"command": "createRole", "rolename": name, "acls": rules}),
        json!({
            "command": "createClient", "username": name, "password": token.expose(), "clientid": address.client_id(),
            "textdescription": serde_json::to_string(noted).ok()?, "roles": [{"rolename": name}],
        }),
    ])
}

/// Those that newer ones of their device have taken the place of, and those whose tokens nobody takes.
pub fn superseded(all: &[Listed], now_s: u64) -> Vec<String> {
    let mut devices: HashMap<(&str, &str, &str), Vec<&Listed>> = HashMap::new();
    for account in all {
        let Noted { app, user, device, .. } = &account.noted;
        devices.entry((app, user, device)).or_default().push(account);
    }
    let mut out = Vec::new();
    for mut accounts in devices.into_values() {
        accounts.sort_by_key(|account| std::cmp::Reverse((account.noted.issued_s, account.noted.made_ms)));
        let over = accounts.into_iter().enumerate().filter(|(newer, account)| {
            account.noted.end_s <= now_s || *newer >= MOST || (*newer >= NEWEST && account.noted.life_s <= now_s)
        });
        out.extend(over.map(|(_, account)| account.name.clone()));
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::PAGE;
    use super::*;

    pub const ID: &str = "0123456789abcdef";

    pub fn account(device: &str, issued_s: u64) -> Listed {
        let noted = Noted {
            app: "o#a".to_owned(),
            user: "ann".to_owned(),
            device: device.to_owned(),
            login: "0123".to_owned(),
            generation: 0,
            issued_s,
            life_s: issued_s + 60,
            end_s: issued_s + 1000,
            made_ms: issued_s * 1000,
            installation: Some(ID.to_owned()),
        };
        Listed { name: format!("{device}/{issued_s}"), noted }
    }

    #[test]
    fn an_account_is_read_back_as_it_was_written_and_is_its_own_devices_alone() {
        let Listed { name, noted } = account("phone", 1);
        let topics = Topics::new("im/v1").expect("a prefix");
        let made = added(&noted, &name, &Secret::new("token"), &topics).expect("made");
        assert_eq!(
            made[0]["acls"][2],
            json!({"acltype": "subscribeLiteral", "topic": "im/v1/o%23a/ann/phone/down", "allow": true})
        );
        assert_eq!((&made[1]["clientid"], &made[1]["password"]), (&json!("ann:phone@o%23a"), &json!("token")));
        assert_eq!(Listed::read(&made[1]), Some(Listed { name, noted }));
        assert_eq!(Listed::read(&json!({"username": "gateway", "textdescription": "the operator's"})), None);
    }

    #[test]
    fn a_device_keeps_the_accounts_that_it_may_still_come_with() {
        let many: Vec<Listed> = (0..6).map(|n| account("phone", n * 100)).collect();
        let all = [many.clone(), vec![account("tablet", 0)]].concat();
        assert_eq!(superseded(&all, 50), Vec::<String>::new(), "all live");
        assert_eq!(superseded(&all, 200), ["phone/100", "phone/0"], "not the tablet's only one");
        assert_eq!(superseded(&many[..1], 1000), ["phone/0"], "nobody takes its token");
        let many: Vec<Listed> = (0..10).map(|n| account("phone", n)).collect();
        assert_eq!(superseded(&many, 20), ["phone/1", "phone/0"], "all live, and are too many");
    }

    #[test]
    fn of_accounts_that_were_issued_within_a_second_the_ones_that_were_made_last_stay() {
        let made = |name: &str, made_ms| {
            let mut account = account("phone", 7);
            (account.name, account.noted.made_ms) = (name.to_owned(), made_ms);
            account
        };
        // In the broker's order, which is none of time.
        let mut all: Vec<Listed> = (0..9).map(|n| made(&format!("{n}"), 7000 + n)).collect();
        all.push(made("of a build before", 0));
        assert_eq!(superseded(&all, 20), ["0", "of a build before"]);
    }

    #[test]
    fn a_page_of_the_longest_accounts_is_one_that_the_gateway_takes() {
        let id = "\"".repeat(256);
        let Listed { mut noted, .. } = account(&id, 1_800_000_000);
        (noted.app, noted.user) = (id.clone(), id.clone());
        let encoded = "%22".repeat(256);
        let name = format!("{encoded}/{encoded}/0123456789abcdef");
        let made = added(&noted, &name, &Secret::new("token"), &Topics::new("im/v1").expect("a prefix"));
        let mut client = made.expect("made").remove(1);
        client["groups"] = json!([]);
        client["roles"] = json!([{"rolename": name, "priority": -1}]);
        let page = json!({"responses": [{"command": "listClients", "data": {"clients": vec![client; PAGE]}}]});
        let bytes = page.to_string().len();
        assert!(bytes + 1024 < crate::protocol::MAX_PACKET as usize, "{bytes}");
    }
}
