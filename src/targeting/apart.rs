//! Decisions that are so much work that nobody else should wait for them.
//!
//! They are made on threads that may be busy for as long as it takes. A project has only so many of
//! these at once, fewer than there are in all, so that its rules take no other project's turn. Who has
//! gone is not worked for: the work looks for that between one step and the next.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::model::ProjectId;
use crate::store::Shares;

/// How long a caller waits for a decision, its turn included. Events have a deadline of their own
/// beside it, which is a setting; whichever comes first ends the wait.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// When whoever has waited for so long may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The turns of such decisions.
#[derive(Debug)]
pub(super) struct Apart {
    all: Arc<Semaphore>,
    shares: Shares,
}

/// Says that the caller has gone, once it is dropped.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits so long for `done`. The flag that it is given is set once nobody waits any more, be it that
/// the caller has gone or that it took too long.
pub async fn awaited<T, F: Future<Output = Result<T, Error>>>(
    wait_max: Duration,
    done: impl FnOnce(Arc<AtomicBool>) -> F,
) -> Result<T, Error> {
    let caller = Caller(Arc::default());
    let done = done(Arc::clone(&caller.0));
    let done = tokio::time::timeout(wait_max, done).await;
    done.unwrap_or(Err(Error::Overloaded {
        retry_after: RETRY_AFTER,
    }))
}

impl Apart {
    /// As many turns as there are cores, and half of them for each project.
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get).max(2);
        Self {
            all: Arc::new(Semaphore::new(cores)),
            shares: Shares::of_each(cores / 2),
        }
    }

    /// Does this work of a project when it is its turn. It is told when nobody waits for it any more,
    /// and what it returns then is of no use.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        project: ProjectId,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Error> {
        awaited(WAIT_MAX, |abandoned| async move {
            let turn = self.turn(project).await;
            let turn = turn.map_err(|_closed| Error::ShuttingDown)?;
            let done = tokio::task::spawn_blocking(move || {
                let _until_it_is_done = turn;
                work(&abandoned)
            });
            let done = done.await;
            done.map_err(|panicked| Error::Internal(panicked.to_string()))
        })
        .await
    }

    async fn turn(&self, project: ProjectId) -> Result<[OwnedSemaphorePermit; 2], AcquireError> {
        // Its own first, so that who waits for it holds nothing of the others'.
        let own = self.shares.of(project).acquire_owned().await?;
        Ok([own, Arc::clone(&self.all).acquire_owned().await?])
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::sync::mpsc;
    use std::time::Instant;

    use tokio::sync::oneshot;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Works until nobody waits for it, but no longer than this; whether it was told.
    fn work_until_told(
        most: Duration,
    ) -> (
        impl FnOnce(&AtomicBool) -> bool + Send + 'static,
        oneshot::Receiver<()>,
        mpsc::Receiver<bool>,
    ) {
        let (begin, begun) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let work = move |abandoned: &AtomicBool| {
            let began = Instant::now();
            let _nobody_asks = begin.send(());
            while !abandoned.load(Ordering::Relaxed) && began.elapsed() < most {
                std::thread::yield_now();
            }
            let is_told = abandoned.load(Ordering::Relaxed);
            let _nobody_asks = tell.send(is_told);
            is_told
        };
        (work, begun, told)
    }

    #[tokio::test]
    async fn work_is_told_that_its_caller_has_gone_and_only_then() {
        let apart = Apart::new();
        let (work, _, _) = work_until_told(Duration::from_millis(200));
        assert!(!apart.run(ProjectId(1), work).await.unwrap());
        let (work, begun, told) = work_until_told(SOON);
        {
            let mut call = std::pin::pin!(apart.run(ProjectId(1), work));
            tokio::select! {
                _ = &mut call => unreachable!("it works until it is told"),
                begun = begun => begun.unwrap(),
            }
        }
        assert!(told.recv_timeout(2 * SOON).unwrap());
    }

    /// Its rules may take as long as they like.
    #[tokio::test]
    async fn a_project_takes_no_other_ones_turn() {
        let apart = Arc::new(Apart::new());
        let cores = available_parallelism().map_or(1, NonZero::get).max(2);
        let calls: Vec<_> = (0..2 * cores)
            .map(|_| {
                let (apart, (work, begun, _)) = (Arc::clone(&apart), work_until_told(SOON));
                let call = async move { apart.run(ProjectId(1), work).await };
                (tokio::spawn(call), begun)
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut at_work = 0;
        let mut waiting = Vec::new();
        for (call, mut begun) in calls {
            at_work += usize::from(begun.try_recv().is_ok());
            waiting.push(call);
        }
        assert_eq!(at_work, cores / 2);
        let other = apart.run(ProjectId(2), |_| ());
        tokio::time::timeout(Duration::from_secs(2), other)
            .await
            .unwrap()
            .unwrap();
        for call in waiting {
            call.abort();
        }
    }
}
