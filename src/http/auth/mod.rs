//! Who may do what.
//!
//! A key is looked up by its SHA-256 and kept in a bounded cache for a moment, unknown ones
//! too, so that a flood of one bad key costs one query. A key that is revoked through this process
//! is forgotten at once; one that is revoked elsewhere is good until it is read again, which
//! happens on its first use after `FRESH`. While the database is away or slow, a key that was
//! good stays good and costs no wait: an outage must not lock out those who were let in.
//!
//! A handler says what it needs by the type of its extractor ([`Authorized`]); ingest, whose key
//! may stand in the body, calls `Authenticator::by_head` and `Authenticator::by_body`.

mod credentials;
mod guard;
mod look_ups;
mod origins;
mod secret;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::ORIGIN;
use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::http::limits::{self, KeyMisses};
use crate::http::settings::HttpSettings;
use crate::model::{KeyId, ProjectId};
use crate::store::{Store, keys};
pub use guard::{Admin, Authorized, Client, Read, Requirement};
use look_ups::LookUps;
use origins::Origins;
pub use secret::Secret;

/// How long a cached key is used without a second thought.
const FRESH: Duration = Duration::from_millis(500);
/// How long a key that was not found is taken for unknown. Each look-up counts as a guess, and some
/// SDKs send a token of somebody else's beside the key with every call.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// How long a request waits for a good key to be read again before it goes on with what is known.
const REREAD_WAIT: Duration = Duration::from_millis(250);
/// How many keys are remembered, known and unknown.
const CACHED_KEYS_MAX: usize = 20_000;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Ingest, fetch campaigns, read flags. Such keys are public.
    Client,
    /// Admin reads.
    Read,
    /// Everything in the project.
    Admin,
}

impl Scope {
    /// The word stored in the database and used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// The scope a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "client" => Some(Self::Client),
            "read" => Some(Self::Read),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// Who is asking, and in which project.
#[derive(Debug, Clone)]
pub struct Access {
    /// The project everything is scoped by.
    pub project: ProjectId,
    /// What is allowed.
    pub scope: Scope,
    /// The key; `None` for an origin that needs none.
    pub key: Option<KeyId>,
    /// How the audit log names the caller.
    pub actor: Arc<str>,
}

/// A key that was found.
#[derive(Debug)]
struct KnownKey {
    access: Access,
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct Entry {
    key: Option<Arc<KnownKey>>,
    read_at: Instant,
    reading: AtomicBool,
}

impl Entry {
    fn new(key: Option<Arc<KnownKey>>) -> Arc<Self> {
        Arc::new(Self {
            key,
            read_at: Instant::now(),
            reading: AtomicBool::new(false),
        })
    }

    /// True when this request may use the entry as it is: it is fresh, or another request is
    /// reading it again.
    fn is_usable(&self) -> bool {
        let age = self.read_at.elapsed();
        match self.key {
            Some(_) => age < FRESH || self.reading.swap(true, Ordering::AcqRel),
            None => age < UNKNOWN_FOR,
        }
    }
}

/// What the head of a request says about its key, or its body.
#[derive(Debug)]
pub(super) enum ByHead {
    /// A key that is known.
    Known(Access),
    /// Keys, none of them known.
    Unknown,
    /// Keys, none of them known, and some not looked for: this address has tried too many.
    Refused(Error),
    /// No key at all.
    Absent,
}

/// The service. Cheap to clone; clones share the cache.
#[derive(Debug, Clone)]
pub struct Authenticator {
    store: Store,
    clock: Clock,
    cache: Arc<Cache<[u8; 32], Arc<Entry>>>,
    look_ups: Arc<LookUps>,
    /// Counts changes of keys, so that a reading that began before one is not kept after it.
    changes: Arc<AtomicU64>,
    misses: Arc<KeyMisses>,
    /// Whether the last key that was looked for could not be read, nor any other.
    is_cut_off: Arc<AtomicBool>,
    origins: Origins,
    trusted_proxy_hops: usize,
}

impl Authenticator {
    /// A service with an empty cache.
    pub fn new(store: Store, clock: Clock, settings: &HttpSettings) -> Self {
        Self {
            origins: Origins::new(store.clone(), settings.keyless_localhost),
            store,
            clock,
            cache: Arc::new(Cache::new(CACHED_KEYS_MAX)),
            look_ups: Arc::default(),
            changes: Arc::default(),
            misses: Arc::new(KeyMisses::new(settings)),
            is_cut_off: Arc::default(),
            trusted_proxy_hops: settings.trusted_proxy_hops,
        }
    }

    /// Forgets a key, after it was made or revoked. `hash` is the SHA-256 of its text.
    pub fn invalidate(&self, hash: &[u8]) {
        if let Ok(digest) = <[u8; 32]>::try_from(hash) {
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.look_ups.forget(&digest);
            self.cache.remove(&digest);
        }
    }

    /// Forgets the list of origins, after it was changed.
    pub fn invalidate_origins(&self) {
        self.origins.invalidate();
    }

    /// The key that a text is, if it is a good one now.
    pub(super) async fn find(
        &self,
        request: &HttpRequest,
        text: &str,
    ) -> Result<Option<Access>, Error> {
        let digest = secret::digest(text);
        let entry = match self.cache.get(&digest) {
            Some(entry) if entry.is_usable() => entry,
            known => self.read(request, digest, known).await?,
        };
        let Some(key) = &entry.key else {
            return Ok(None);
        };
        let expired = key.expires_at.is_some_and(|end| end <= self.clock.now());
        Ok((!expired).then(|| key.access.clone()))
    }

    async fn read(
        &self,
        request: &HttpRequest,
        digest: [u8; 32],
        known: Option<Arc<Entry>>,
    ) -> Result<Arc<Entry>, Error> {
        if let Some(entry) = known.filter(|entry| entry.key.is_some()) {
            let (this, key) = (self.clone(), entry.key.clone());
            let again = tokio::spawn(async move { this.look_up(digest, key).await });
            return match timeout(REREAD_WAIT, again).await {
                Ok(Ok(read)) => read,
                // It is still being read; what comes of it is for the next request.
                _ => Ok(entry),
            };
        }
        let address = limits::client_address(request, self.trusted_proxy_hops);
        let begin = || match address {
            // Without the database a good key is as unknown as any other, and nobody learns anything.
            Some(address) if !self.is_cut_off.load(Ordering::Relaxed) => {
                // Counted before the query, so that guessing is slow and costs the database little.
                self.misses.check(address)
            }
            _ => Ok(()),
        };
        let look_up = self.look_up(digest, None);
        let shared = self.look_ups.share(digest, begin, look_up);
        // Who takes over from one that gave up would wait for longer than a look-up does.
        let found = timeout(self.store.deadline(), shared).await;
        found.unwrap_or(Err(Error::DatabaseUnavailable))
    }

    async fn look_up(
        &self,
        digest: [u8; 32],
        known_good: Option<Arc<KnownKey>>,
    ) -> Result<Arc<Entry>, Error> {
        let changes = self.changes.load(Ordering::Acquire);
        let found = self
            .store
            .run(move |connection| keys::find_by_hash(connection, &digest))
            .await;
        self.is_cut_off.store(found.is_err(), Ordering::Relaxed);
        let entry = match (found, known_good) {
            (Ok(row), _) => Entry::new(row.and_then(|row| known_key(&row, &digest)).map(Arc::new)),
            (Err(_), Some(key)) => Entry::new(Some(key)),
            (Err(error), None) => return Err(error),
        };
        self.cache.insert(digest, Arc::clone(&entry));
        if self.changes.load(Ordering::Acquire) != changes {
            self.cache.remove(&digest);
        }
        Ok(entry)
    }

    /// Tries the keys in a request's head.
    pub(super) async fn by_head(&self, request: &HttpRequest) -> Result<ByHead, Error> {
        self.first_known(request, &credentials::candidates(request))
            .await
    }

    async fn first_known(
        &self,
        request: &HttpRequest,
        candidates: &[String],
    ) -> Result<ByHead, Error> {
        let mut refused = None;
        for text in candidates {
            match self.find(request, text).await {
                Ok(Some(access)) => return Ok(ByHead::Known(access)),
                Ok(None) => {}
                // Beside a token of somebody else's there may be a good key.
                Err(error @ Error::RateLimited { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(match refused {
            Some(error) => ByHead::Refused(error),
            None if candidates.is_empty() => ByHead::Absent,
            None => ByHead::Unknown,
        })
    }

    /// Tries the keys of last resort, the body's; then, for a request without any key, its origin.
    pub(super) async fn by_body(
        &self,
        request: &HttpRequest,
        head: ByHead,
        body_keys: &[String],
    ) -> Result<Access, Error> {
        let without_body = match head {
            ByHead::Known(access) => return Ok(access),
            ByHead::Unknown => Some(unknown_key()),
            ByHead::Refused(error) => Some(error),
            ByHead::Absent => None,
        };
        let mut texts = Vec::new();
        for key in body_keys {
            credentials::push(&mut texts, Some(key));
        }
        match self.first_known(request, &texts).await? {
            ByHead::Known(access) => return Ok(access),
            ByHead::Unknown => return Err(unknown_key()),
            ByHead::Refused(error) => return Err(error),
            ByHead::Absent => {}
        }
        if let Some(error) = without_body {
            return Err(error);
        }
        self.by_origin(request).await?.ok_or(Error::Unauthorized {
            code: Code::MissingKey,
            message: guard::CLIENT_KEY_REQUIRED,
        })
    }

    /// The access that a page's origin gives without a key.
    async fn by_origin(&self, request: &HttpRequest) -> Result<Option<Access>, Error> {
        let origin = request.headers().get(ORIGIN);
        let Some(origin) = origin.and_then(|value| value.to_str().ok()) else {
            return Ok(None);
        };
        let project = self.origins.project_of(origin).await?;
        Ok(project.map(|project| Access {
            project,
            scope: Scope::Client,
            key: None,
            actor: Arc::from(format!("origin:{origin}")),
        }))
    }

    /// True when some project lists this origin; such pages get permission from CORS.
    pub(super) async fn is_listed_origin(&self, origin: &str) -> bool {
        matches!(self.origins.project_of(origin).await, Ok(Some(_)))
    }
}

fn unknown_key() -> Error {
    Error::Unauthorized {
        code: Code::InvalidKey,
        message: "Invalid API key.",
    }
}

/// The key in a row, unless it was revoked. The database found the row by its index; the comparison
/// here takes the same time wherever two hashes differ.
fn known_key(row: &keys::StoredKey, digest: &[u8; 32]) -> Option<KnownKey> {
    let same = bool::from(row.hash.as_slice().ct_eq(digest.as_slice()));
    if !same || row.revoked_at.is_some() {
        return None;
    }
    Some(KnownKey {
        access: Access {
            project: ProjectId(row.project_id),
            scope: Scope::parse(&row.scope)?,
            key: Some(KeyId(row.id)),
            actor: Arc::from(format!("key:{}", row.id)),
        },
        expires_at: row.expires_at,
    })
}
