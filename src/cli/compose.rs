//! The one place where the services are made and handed to each other.

use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Store, StoreOptions};

use super::Failure;

/// The services of one server.
#[derive(Debug)]
pub(super) struct Services {
    /// The shared pool.
    pub(super) store: Store,
    /// Where the time comes from.
    pub(super) clock: Clock,
}

/// Makes every service. The database may be absent: nothing here waits for it.
pub(super) fn compose(config: &Config, url: &str) -> Result<Services, Failure> {
    let store = Store::new(StoreOptions {
        url: url.to_owned(),
        pool_size: config.pool_size,
        deadline: config.database_deadline,
    });
    Ok(Services {
        store,
        clock: Clock::system(),
    })
}
