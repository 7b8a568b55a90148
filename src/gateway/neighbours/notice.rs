//! What notices say, and how many words go into one.

use crate::ids::MessageId;
use std::collections::BTreeMap;

/// The channel's end that every gateway listens to.
pub(super) const ALL: &str = "all";
/// PostgreSQL takes 7,999 bytes.
const LONGEST: usize = 7_900;
/// Ids that wait to be told to one gateway, or to be looked at here; beyond them everything is looked at.
const MOST: usize = 20_000;
/// Notices that one gateway is sent at once; what is more is to be looked for.
const AT_ONCE: usize = 8;
/// The words that are no ids.
const ORDERS: &str = "!orders";
const LOOK: &str = "!look";

/// For one gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub ids: Vec<MessageId>,
    /// There are orders.
    pub orders: bool,
    /// There may be messages that nobody names.
    pub look: bool,
}

impl Heard {
    pub fn id(&mut self, id: MessageId) {
        if self.ids.len() < MOST {
            self.ids.push(id);
        } else {
            self.look = true;
        }
    }

    /// What a notice says.
    pub fn add(&mut self, payload: &str) {
        for word in payload.split(',') {
            match word {
                ORDERS => self.orders = true,
                LOOK => self.look = true,
                id => MessageId::try_from(id.to_owned()).into_iter().for_each(|id| self.id(id)),
            }
        }
    }

    fn payloads(&self) -> Vec<String> {
        let mut all = vec![String::new()];
        let words = [(ORDERS, self.orders), (LOOK, self.look)].into_iter().filter(|(_, said)| *said);
        for word in words.map(|(word, _)| word).chain(self.ids.iter().map(MessageId::as_str)) {
            let full = all.last().is_none_or(|last| last.len() + word.len() + 1 > LONGEST);
            if full {
                all.push(String::new());
            }
            let Some(last) = all.last_mut() else { continue };
            if !last.is_empty() {
                last.push(',');
            }
            last.push_str(word);
        }
        if all.len() > AT_ONCE {
            all = vec![if self.orders { format!("{ORDERS},{LOOK}") } else { LOOK.to_owned() }];
        }
        all
    }
}

/// For all of them.
#[derive(Debug, Default)]
pub(super) struct Notices(BTreeMap<String, Heard>);

impl Notices {
    pub fn message(&mut self, node: String, id: MessageId) {
        self.0.entry(node).or_default().id(id);
    }

    pub fn orders(&mut self, node: &str) {
        self.0.entry(node.to_owned()).or_default().orders = true;
    }

    /// Each with the gateway it is for; nothing waits any more.
    pub fn take(&mut self) -> Vec<(String, String)> {
        let all = std::mem::take(&mut self.0);
        let each = |(node, heard): (String, Heard)| heard.payloads().into_iter().map(move |said| (node.clone(), said));
        all.into_iter().flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(count: u64, orders: bool) -> (Vec<String>, Heard) {
        let mut notices = Notices::default();
        (0..count).for_each(|n| notices.message("b".into(), MessageId::made(n, [0; 4])));
        if orders {
            notices.orders("b");
        }
        let all: Vec<String> = notices.take().into_iter().map(|(_, said)| said).collect();
        let mut heard = Heard::default();
        all.iter().for_each(|said| heard.add(said));
        assert!(notices.take().is_empty(), "it is told once");
        (all, heard)
    }

    #[test]
    fn what_waits_for_one_gateway_is_told_together() {
        let (all, heard) = told(300, true);
        assert_eq!((all.len(), heard.ids.len(), heard.orders, heard.look), (1, 300, true, false));
        assert_eq!(told(0, true).0, ["!orders"]);
    }

    #[test]
    fn what_does_not_fit_goes_in_several_and_what_is_too_much_is_to_be_looked_for() {
        let (all, heard) = told(2000, false);
        assert_eq!((all.len(), heard.ids.len(), heard.look), (6, 2000, false));
        assert!(all.iter().all(|said| said.len() < 8000));
        for (count, orders) in [(5000, true), (30_000, true)] {
            let (all, heard) = told(count, orders);
            assert_eq!((all.len(), heard), (1, Heard { ids: Vec::new(), orders, look: true }), "{count}");
        }
    }

    #[test]
    fn what_another_version_says_is_no_fault() {
        let mut heard = Heard::default();
        heard.add("");
        heard.add("!orders,,!look");
        assert_eq!(heard, Heard { ids: Vec::new(), orders: true, look: true });
    }
}
