//! Accepts messages: a call to many in slices, between which other apps' messages come; what is accepted goes on at once.

use super::Dispatch;
use super::finishing::Finishing;
use crate::delivery::Rules;
use crate::gateway::clock::now_ms;
use crate::gateway::outgoing::Word;
use crate::gateway::push::together;
use crate::gateway::store::{NewMessage, SLICE, StoreError};
use crate::ids::MessageId;
use crate::protocol::Message;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a call came the store is asked again: whether a commit took place whose answer was lost, and for the rest of
/// a call of which a part is accepted; and the pause in between.
const AGAIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

impl Dispatch {
    /// Accepts messages, each with its [`Message::to_json`]: after the answer, which has their ids, none will be lost.
    /// Publishing goes on behind it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was accepted then, unless it is [`StoreError::InPart`].
    pub async fn accept(
        &self,
        app: &str,
        messages: Vec<(Message, String)>,
        idempotency: Option<&str>,
    ) -> Result<Vec<MessageId>, StoreError> {
        let (now, rules) = (now_ms(), self.rules());
        let new = |(message, json): (Message, String)| NewMessage {
            app: app.to_owned(),
            message: Arc::new(message),
            json: json.into(),
            expires_ms: now + rules.keep_s * 1000,
            idempotency: idempotency.map(str::to_owned),
        };
        let new: Vec<NewMessage> = messages.into_iter().map(new).collect();
        let this = self.clone();
        Finishing::new(&self.tasks, async move { this.accept_all(new, rules, now).await }).await
    }

    async fn accept_all(&self, new: Vec<NewMessage>, rules: Rules, now: u64) -> Result<Vec<MessageId>, StoreError> {
        let end = Instant::now() + AGAIN;
        let slices: Vec<&[NewMessage]> = new.chunks(SLICE).collect();
        let done = in_parts(slices.len(), |at| self.accept_slice(slices[at], rules, now, end), end).await;
        let accepted = done.iter().flatten().map(Vec::len).sum();
        let all: Result<Vec<_>, _> = done.into_iter().collect();
        match all {
            Err(why) if accepted > 0 => Err(StoreError::InPart { accepted, of: new.len(), why: Box::new(why) }),
            all => Ok(all?.concat()),
        }
    }

    /// All of them or none.
    async fn accept_slice(
        &self,
        new: &[NewMessage],
        rules: Rules,
        now: u64,
        end: Instant,
    ) -> Result<Vec<MessageId>, StoreError> {
        // A lease runs from the claim, so a claim has its call first.
        let mut calls = new.first().map_or_else(Vec::new, |first| self.calls.at_once(&first.app, new.len()));
        let reach = self.reach(calls.len());
        // The messages have their ids, so that they are accepted now if they were not, and are found if they were.
        let all = surely(|| self.store.accept(new.to_vec(), rules, reach, now), end).await?;
        let mut ids = Vec::new();
        for (accepted, NewMessage { message, json, .. }) in all.into_iter().zip(new) {
            self.push.metrics.accepted();
            accepted.due_ms.into_iter().for_each(|due_ms| self.alarm.ring(due_ms));
            self.take_back(accepted.recalls);
            self.send(accepted.live, || Word::of_message(&message.id, json));
            self.neighbours.publish(accepted.elsewhere, &accepted.id);
            for group in together(accepted.jobs) {
                if let Some(call) = calls.pop() {
                    self.carry(group, call);
                }
            }
            ids.push(accepted.id);
        }
        Ok(ids)
    }
}

/// Carries out a call's parts, and those again until `end` that the store was away for, where others of them are done.
async fn in_parts<T, F: Future<Output = Result<T, StoreError>>>(
    count: usize,
    part: impl Fn(usize) -> F,
    end: Instant,
) -> Vec<Result<T, StoreError>> {
    if count == 1 {
        // One part, as most calls have: if it fails nothing of the call is done, and there is nothing to complete.
        return vec![part(0).await];
    }
    let mut done = join_all((0..count).map(&part)).await;
    if done.iter().any(Result::is_ok) {
        for (at, done) in done.iter_mut().enumerate() {
            while done.as_ref().is_err_and(StoreError::is_away) && Instant::now() < end {
                tokio::time::sleep(PAUSE).await;
                *done = part(at).await;
            }
        }
    }
    done
}

/// A commit whose answer was lost is asked for again until `end`, over another connection.
async fn surely<T, F: Future<Output = Result<T, StoreError>>>(
    ask: impl Fn() -> F,
    end: Instant,
) -> Result<T, StoreError> {
    let first = ask().await;
    let Err(unsure) = first else { return first };
    if !unsure.is_unsure() {
        return Err(unsure);
    }
    while Instant::now() < end {
        match ask().await {
            // It was asked, and the database confirms nothing now: a third time takes as long again.
            Err(error) if error.is_unsure() => return Err(error),
            Err(error) if error.is_away() => tokio::time::sleep(PAUSE).await,
            known => return known,
        }
    }
    // It could not be asked.
    Err(unsure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// As long as a commit is waited for that the database does not confirm.
    const COMMIT: Duration = Duration::from_secs(4);

    #[tokio::test(start_paused = true)]
    async fn a_call_has_one_deadline_however_many_of_its_parts_are_not_confirmed() {
        let began = Instant::now();
        let end = began + AGAIN;
        let part = |at: usize| async move {
            let commit = || async move {
                tokio::time::sleep(if at == 0 { Duration::ZERO } else { COMMIT }).await;
                if at == 0 { Ok(at) } else { Err(StoreError::NotCommitted("no standby".to_owned())) }
            };
            surely(commit, end).await
        };
        let done = in_parts(3, part, end).await;
        assert_eq!(done.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false]);
        assert!(began.elapsed() < AGAIN + COMMIT, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_the_store_was_away_for_is_carried_out_once_it_is_back() {
        let began = Instant::now();
        let end = began + AGAIN;
        let back = || began.elapsed() > Duration::from_secs(9);
        let part = |at: usize| async move { if at == 0 || back() { Ok(at) } else { Err(StoreError::Closed) } };
        assert!(in_parts(2, part, end).await.iter().all(Result::is_ok));
        let nothing = |_| async { Err::<(), _>(StoreError::Closed) };
        let before = Instant::now();
        assert!(in_parts(2, nothing, before + AGAIN).await.iter().all(Result::is_err));
        assert_eq!(before.elapsed(), Duration::ZERO, "its caller may repeat a call of which nothing was accepted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_asked_for_until_the_store_says_it() {
        let asked = Cell::new(0);
        let ask = |lost: usize| {
            let (nth, end) = (&asked, Instant::now() + AGAIN);
            nth.set(0);
            surely(
                move || async move {
                    nth.set(nth.get() + 1);
                    match nth.get() {
                        1 => Err(StoreError::NotCommitted("cut".to_owned())),
                        n if n <= lost => Err(StoreError::Closed),
                        _ => Ok(()),
                    }
                },
                end,
            )
        };
        assert!(ask(10).await.is_ok());
        assert!(ask(1000).await.is_err_and(|error| error.is_unsure()), "nobody knows it");
    }
}
