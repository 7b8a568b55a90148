//! Accepts messages: a call to many in slices, between which other apps' messages come; what is accepted goes on at once.

use super::Dispatch;
use crate::delivery::Rules;
use crate::gateway::clock::now_ms;
use crate::gateway::push::together;
use crate::gateway::store::{Accepted, NewMessage, Reach, SLICE, StoreError};
use crate::ids::MessageId;
use crate::protocol::Message;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long it is asked whether a commit took place whose answer was lost, and the rest of a call is tried of which a
/// part is accepted; and the pause in between.
const UNSURE: Duration = Duration::from_secs(10);
const UNSURE_PAUSE: Duration = Duration::from_millis(200);

impl Dispatch {
    /// Accepts messages: after the answer, which has their ids, none will be lost. Publishing goes on behind it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was accepted then, unless it is [`StoreError::InPart`].
    pub async fn accept(
        &self,
        app: &str,
        messages: Vec<Message>,
        idempotency: Option<&str>,
    ) -> Result<Vec<MessageId>, StoreError> {
        let (now, rules) = (now_ms(), self.rules());
        let new = |message: Message| NewMessage {
            app: app.to_owned(),
            message: Arc::new(message),
            expires_ms: now + rules.keep_s * 1000,
            idempotency: idempotency.map(str::to_owned),
        };
        let new: Vec<NewMessage> = messages.into_iter().map(new).collect();
        let this = self.clone();
        // What has begun is carried out to its end, though its caller went away.
        self.tasks.spawn(async move { this.accept_all(new, rules, now).await }).await.map_err(|_| StoreError::Closed)?
    }

    async fn accept_all(&self, new: Vec<NewMessage>, rules: Rules, now: u64) -> Result<Vec<MessageId>, StoreError> {
        let slices: Vec<&[NewMessage]> = new.chunks(SLICE).collect();
        let mut done = join_all(slices.iter().map(|slice| self.accept_slice(slice, rules, now))).await;
        if done.iter().any(Result::is_ok) {
            let end = Instant::now() + UNSURE;
            for (slice, done) in slices.iter().zip(&mut done) {
                while done.as_ref().is_err_and(StoreError::is_away) && Instant::now() < end {
                    tokio::time::sleep(UNSURE_PAUSE).await;
                    *done = self.accept_slice(slice, rules, now).await;
                }
            }
        }
        let accepted = done.iter().flatten().map(Vec::len).sum();
        let all: Result<Vec<_>, _> = done.into_iter().collect();
        match all {
            Err(why) if accepted > 0 => Err(StoreError::InPart { accepted, of: new.len(), why: Box::new(why) }),
            all => Ok(all?.concat()),
        }
    }

    /// All of them or none.
    async fn accept_slice(&self, new: &[NewMessage], rules: Rules, now: u64) -> Result<Vec<MessageId>, StoreError> {
        // A lease runs from the claim, so a claim has its call first.
        let mut calls = new.first().map_or_else(Vec::new, |first| self.calls.at_once(&first.app, new.len()));
        let reach = self.reach(calls.len());
        let all = self.accept_surely(new, rules, reach, now).await?;
        let mut ids = Vec::new();
        for (accepted, NewMessage { message, .. }) in all.into_iter().zip(new) {
            self.push.metrics.accepted();
            accepted.due_ms.into_iter().for_each(|due_ms| self.alarm.ring(due_ms));
            self.take_back(accepted.recalls);
            self.send(accepted.live, message);
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

    /// A commit whose answer was lost is asked for again, over another connection: the messages have their ids, so that
    /// they are accepted now if they were not, and are found if they were.
    async fn accept_surely(
        &self,
        new: &[NewMessage],
        rules: Rules,
        reach: Reach,
        now_ms: u64,
    ) -> Result<Vec<Accepted>, StoreError> {
        let first = self.store.accept(new.to_vec(), rules, reach, now_ms).await;
        let Err(unsure) = first else { return first };
        if !unsure.is_unsure() {
            return Err(unsure);
        }
        let end = Instant::now() + UNSURE;
        loop {
            match self.store.accept(new.to_vec(), rules, reach, now_ms).await {
                // It was asked, and the database confirms nothing now: a third time takes as long again.
                Err(error) if error.is_unsure() => return Err(error),
                Err(error) if error.is_away() && Instant::now() < end => tokio::time::sleep(UNSURE_PAUSE).await,
                // It could not be asked.
                Err(error) if error.is_away() => return Err(unsure),
                known => return known,
            }
        }
    }
}
