//! A name's IPv4 and IPv6 addresses, asked for at the same moment.

use super::failure::Failure;
use super::message::{Answer, Kind};
use std::time::Duration;

/// How much longer the second answer is waited for than the first took. Longer than RFC 8305, section 3,
/// has it (50 ms): on a network of IPv6 alone the addresses of IPv4 serve nobody.
const SECOND: Duration = Duration::from_millis(500);

/// Both answers as one, IPv6 first (RFC 6724, section 2.1); `None` of either is the whole answer.
///
/// # Errors
/// [`Failure`] when neither question has one; a definite one only when both are definite.
pub(super) async fn both<F>(ask: impl Fn(Kind) -> F) -> Result<Option<Answer>, Failure>
where
    F: Future<Output = Result<Option<Answer>, Failure>>,
{
    let (mut six, mut four) = (std::pin::pin!(ask(Kind::Aaaa)), std::pin::pin!(ask(Kind::A)));
    let (six, four) = tokio::select! {
        six = &mut six => {
            let four = rest(&six, four).await;
            (Some(six), four)
        }
        four = &mut four => {
            let six = rest(&four, six).await;
            (six, Some(four))
        }
    };
    match (six, four) {
        (Some(Ok(Some(six))), Some(Ok(Some(four)))) => {
            let ttl = six.ttl.min(four.ttl);
            Ok(Some(Answer { addresses: [six.addresses, four.addresses].concat(), ttl }))
        }
        (Some(Ok(one)), _) | (_, Some(Ok(one))) => Ok(one),
        (Some(Err(Failure::Denied(_))), Some(Err(other))) | (Some(Err(other)), _) | (None, Some(Err(other))) => {
            Err(other)
        }
        (None, None) => Err(Failure::Silent(SECOND)),
    }
}

/// The other answer; after a good first one only for a moment.
async fn rest<T, E>(first: &Result<T, E>, other: impl Future<Output = Result<T, E>>) -> Option<Result<T, E>> {
    match first {
        Ok(_) => tokio::time::timeout(SECOND, other).await.ok(),
        Err(_) => Some(other.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn answer(address: &str, ttl_s: u64) -> Result<Option<Answer>, Failure> {
        let addresses = vec![address.parse::<IpAddr>().expect("an address")];
        Ok(Some(Answer { addresses, ttl: Duration::from_secs(ttl_s) }))
    }

    #[tokio::test(start_paused = true)]
    async fn both_answers_make_one_and_a_late_second_is_not_waited_for() {
        let ask = |late: Duration| {
            both(move |kind| async move {
                match kind {
                    Kind::A => answer("192.0.2.1", 60),
                    Kind::Aaaa => {
                        tokio::time::sleep(late).await;
                        answer("2001:db8::1", 30)
                    }
                }
            })
        };
        let found = ask(SECOND / 2).await.expect("found").expect("an answer");
        assert_eq!((found.addresses.len(), found.ttl), (2, Duration::from_secs(30)));
        assert!(found.addresses[0].is_ipv6());
        let found = ask(SECOND * 2).await.expect("found").expect("an answer");
        assert_eq!((found.addresses.len(), found.ttl), (1, Duration::from_secs(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_is_enough_and_a_denial_needs_both() {
        let ask = |six: fn() -> Result<Option<Answer>, Failure>, four: fn() -> Result<Option<Answer>, Failure>| {
            both(move |kind| async move { if kind == Kind::A { four() } else { six() } })
        };
        let (denied, broken) = (|| Err(Failure::Denied("no")), || Err(Failure::Broken("no")));
        assert!(ask(denied, || answer("192.0.2.1", 1)).await.is_ok());
        assert!(ask(|| answer("::1", 1), broken).await.is_ok());
        assert!(matches!(ask(denied, denied).await, Err(Failure::Denied(_))));
        assert!(matches!(ask(denied, broken).await, Err(Failure::Broken(_))));
        assert!(matches!(ask(broken, denied).await, Err(Failure::Broken(_))));
    }
}
