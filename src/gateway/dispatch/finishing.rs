//! What has begun and is carried out to its end, though whoever awaits it goes away.
//!
//! A task of its own would do the same; that costs its memory and two wakes more, of every message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

/// Becomes one of the tasks where it is let go before its end.
pub(super) struct Finishing<F>(Option<Pin<Box<TrackedFuture<F>>>>)
where
    F: Future<Output: Send> + Send + 'static;

impl<F: Future<Output: Send> + Send + 'static> Finishing<F> {
    pub fn new(tasks: &TaskTracker, work: F) -> Self {
        Self(Some(Box::pin(tasks.track_future(work))))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Finishing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let done = ready!(work.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(done)
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Finishing<F> {
    fn drop(&mut self) {
        // Without a runtime the process ends.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_has_begun_goes_on_when_its_caller_goes_away_and_the_end_waits_for_it() {
        let tasks = TaskTracker::new();
        tasks.close();
        let (go, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let mut call = Box::pin(Finishing::new(&tasks, async move {
            assert!(gone.await.is_ok());
            assert!(done.send("to its end").is_ok());
        }));
        assert!(call.as_mut().now_or_never().is_none(), "it waits");
        drop(call);
        tokio::task::yield_now().await;
        assert!(!go.is_closed() && tasks.wait().now_or_never().is_none(), "it is under way");
        assert!(go.send(()).is_ok());
        assert_eq!(seen.await, Ok("to its end"));
        tasks.wait().await;
    }

    #[tokio::test]
    async fn what_is_awaited_to_its_end_is_no_task() {
        let tasks = TaskTracker::new();
        tasks.close();
        assert_eq!(Finishing::new(&tasks, async { 7 }).await, 7);
        assert!(tasks.wait().now_or_never().is_some());
    }
}
