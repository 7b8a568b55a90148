//! What a device has said and waits to be carried out: acknowledgements that wait one behind the other are one word to the
//! store. Those of which each is followed by what an app has taken are not.

use crate::gateway::store::SLICE;
use crate::gateway::workers::Said;
use crate::protocol::{Up, decode_up};
use std::collections::VecDeque;

/// Messages that a word names which was joined of several: what the store does in one go where it has nobody else's work.
const MOST: usize = 4 * SLICE;

/// A word, and the packet that is acknowledged when it is stored.
pub(super) type Heard = (Said, Option<u16>);

/// What is carried out next, and the packets that it came in.
pub(super) fn next(words: &mut VecDeque<Heard>) -> Option<(Said, Vec<Option<u16>>)> {
    let (first, packet_id) = words.pop_front()?;
    let mut packet_ids = vec![packet_id];
    let joined = if words.is_empty() { None } else { had(&first) };
    let Some(mut joined) = joined else { return Some((first, packet_ids)) };
    while let Some((said, packet_id)) = words.front()
        && let Some(next) = had(said)
        && join(&mut joined, next)
    {
        packet_ids.push(*packet_id);
        words.pop_front();
    }
    let said = if packet_ids.len() > 1 { Said::Understood(Box::new(joined)) } else { first };
    Some((said, packet_ids))
}

/// A word that only says which messages a device has.
fn had(said: &Said) -> Option<Up> {
    match said {
        Said::Up(payload) => decode_up(payload).ok().filter(|up| matches!(up, Up::Ack { .. } | Up::Taken { .. })),
        _ => None,
    }
}

/// `false`: they are two.
fn join(first: &mut Up, next: Up) -> bool {
    match (first, next) {
        (Up::Ack { ids, attached }, Up::Ack { ids: more, attached: same })
            if *attached == same && ids.len() + more.len() <= MOST =>
        {
            ids.extend(more);
        }
        (Up::Taken { ids, woke }, Up::Taken { ids: more, woke: more_woke })
            if ids.len() + woke.len() + more.len() + more_woke.len() <= MOST =>
        {
            ids.extend(more);
            woke.extend(more_woke);
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MessageId;

    fn ids(from: u64, count: u64) -> Vec<MessageId> {
        (from..from + count).map(|n| MessageId::made(n, [0; 4])).collect()
    }

    fn said(words: impl IntoIterator<Item = Up>) -> VecDeque<Heard> {
        words.into_iter().zip(1..).map(|(up, id)| (Said::Up(up.encode().into()), Some(id))).collect()
    }

    fn all(mut words: VecDeque<Heard>) -> Vec<(Up, Vec<Option<u16>>)> {
        let up = |said| match said {
            Said::Understood(up) => *up,
            Said::Up(payload) => decode_up(&payload).expect("a word"),
            _ => panic!("another word"),
        };
        std::iter::from_fn(|| next(&mut words)).map(|(said, packets)| (up(said), packets)).collect()
    }

    #[test]
    fn acknowledgements_one_behind_the_other_are_one_and_each_packet_is_answered() {
        let ack = |from, attached| Up::Ack { ids: ids(from, 2), attached };
        let taken = |from: u64| Up::Taken { ids: ids(from, 1), woke: ids(from, from % 2) };
        let presence = || Up::Presence { presence: crate::protocol::Presence::Attached };
        let words =
            said([ack(0, None), ack(2, None), taken(3), taken(4), presence(), ack(6, None), ack(8, Some(true))]);
        let wanted = [
            (Up::Ack { ids: ids(0, 4), attached: None }, vec![Some(1), Some(2)]),
            (Up::Taken { ids: ids(3, 2), woke: ids(3, 1) }, vec![Some(3), Some(4)]),
            (presence(), vec![Some(5)]),
            (ack(6, None), vec![Some(6)]),
            (ack(8, Some(true)), vec![Some(7)]),
        ];
        assert_eq!(all(words), wanted);
    }

    #[test]
    fn a_word_has_its_bounds_and_what_cannot_be_read_stays_as_it_is() {
        let ack = |from| Up::Ack { ids: ids(from, MOST as u64 / 2), attached: None };
        let lengths: Vec<_> =
            all(said([ack(0), ack(100), ack(200)])).iter().map(|(_, packets)| packets.len()).collect();
        assert_eq!(lengths, [2, 1]);
        let mut words = said([ack(0), ack(100)]);
        words.insert(1, (Said::Up("{".into()), Some(9)));
        let packets: Vec<_> = std::iter::from_fn(|| next(&mut words)).map(|(_, packets)| packets).collect();
        assert_eq!(packets, [[Some(1)], [Some(9)], [Some(2)]]);
    }
}
