//! Look-ups of keys that are under way, so that many requests with a key that nobody has seen yet, as
//! after a start, are one query and one guess.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::Entry;
use crate::error::Error;

/// The SHA-256 of a key's text.
type Digest = [u8; 32];
/// What a look-up found, once it ended; `None` if the key could not be read.
type Answer = Arc<OnceCell<Option<Arc<Entry>>>>;

/// All look-ups under way. There are no more of them than requests.
#[derive(Debug, Default)]
pub(super) struct LookUps(Mutex<HashMap<Digest, Answer>>);

/// One request's part in a look-up. The last to go, or the first once it has ended, takes it off the
/// list.
struct Part<'l> {
    look_ups: &'l LookUps,
    digest: Digest,
    answer: Answer,
}

impl LookUps {
    /// What `look_up` finds, or one that began before for the same key. `begin` is called only where
    /// none is under way, and may refuse. Those who wait for another's that fails hear that the database
    /// is not available.
    pub(super) async fn share(
        &self,
        digest: Digest,
        begin: impl FnOnce() -> Result<(), Error>,
        look_up: impl Future<Output = Result<Arc<Entry>, Error>>,
    ) -> Result<Arc<Entry>, Error> {
        let part = self.join(digest, begin)?;
        let mut failure = None;
        let found = part
            .answer
            .get_or_init(|| async { look_up.await.map_err(|error| failure = Some(error)).ok() });
        let found = found.await.clone();
        found.ok_or_else(|| failure.unwrap_or(Error::DatabaseUnavailable))
    }

    /// Lets those who come now look for themselves, since the key was changed.
    pub(super) fn forget(&self, digest: &Digest) {
        self.lock().remove(digest);
    }

    fn join(
        &self,
        digest: Digest,
        begin: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Part<'_>, Error> {
        let mut under_way = self.lock();
        let answer = match under_way.get(&digest) {
            Some(answer) => Arc::clone(answer),
            None => {
                begin()?;
                Arc::clone(under_way.entry(digest).or_default())
            }
        };
        Ok(Part {
            look_ups: self,
            digest,
            answer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Answer>> {
        // Every change under the lock is whole before anything in it can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut under_way = self.look_ups.lock();
        let is_ours = under_way
            .get(&self.digest)
            .is_some_and(|answer| Arc::ptr_eq(answer, &self.answer));
        // The list has one, this part another.
        let is_last = Arc::strong_count(&self.answer) <= 2;
        if is_ours && (is_last || self.answer.initialized()) {
            under_way.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    const KEY: Digest = [7; 32];

    async fn slow(fails: bool) -> Result<Arc<Entry>, Error> {
        sleep(Duration::from_millis(20)).await;
        if fails {
            Err(Error::ShuttingDown)
        } else {
            Ok(Entry::new(None))
        }
    }

    #[actix_web::test]
    async fn those_who_come_meanwhile_share_what_is_found() {
        let look_ups = LookUps::default();
        for fails in [false, true] {
            let begun = Cell::new(0);
            let ask = || {
                let begin = || {
                    begun.set(begun.get() + 1);
                    Ok(())
                };
                look_ups.share(KEY, begin, slow(fails))
            };
            let (first, second, third) = tokio::join!(ask(), ask(), ask());
            assert_eq!(begun.get(), 1);
            for found in [first, second, third] {
                assert_eq!(found.is_err(), fails);
            }
            assert!(look_ups.lock().is_empty());
        }
    }

    #[actix_web::test]
    async fn who_gives_up_leaves_the_look_up_to_the_next() {
        let look_ups = LookUps::default();
        let ask = || look_ups.share(KEY, || Ok(()), slow(false));
        let hurried = timeout(Duration::from_millis(5), ask());
        let (hurried, patient) = tokio::join!(hurried, ask());
        assert!(hurried.is_err());
        assert!(patient.is_ok());
        assert!(timeout(Duration::from_millis(5), ask()).await.is_err());
        assert!(look_ups.lock().is_empty(), "nobody is left");
    }

    #[actix_web::test]
    async fn nobody_joins_what_began_before_a_change() {
        let look_ups = LookUps::default();
        let old = look_ups.share(KEY, || Ok(()), slow(true));
        let new = async {
            look_ups.forget(&KEY);
            look_ups.share(KEY, || Ok(()), slow(false)).await
        };
        let (old, new) = tokio::join!(old, new);
        assert!(matches!(old, Err(Error::ShuttingDown)));
        new.unwrap();
        let refused = look_ups.share(KEY, || Err(Error::ShuttingDown), slow(false));
        assert!(refused.await.is_err());
        assert!(look_ups.lock().is_empty());
    }
}
