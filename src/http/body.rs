//! Reads request bodies, bounded in size, in time and in what all of them hold together.
//!
//! The framework's own readers are not used: their limits answer in their own words, and a client
//! that is too slow would get a 408, which SDKs retry. Here such a client is disconnected.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodyStream, MessageBody};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use actix_web::web;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::limits::{self, OVERLOAD_RETRY};
use super::problem::Problem;
use super::state::AppState;
use crate::error::{Code, Error, FieldError};
use crate::ingest::decode::{self, DecodeLimits, Encodings};

/// How many bytes of bodies are in memory. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
    /// Of which it is a part.
    whole: Option<Arc<BodyBudget>>,
}

impl BodyBudget {
    /// A budget of which nothing is used.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            used: Arc::default(),
            bytes_max,
            whole: None,
        }
    }

    /// A part of it, of which nothing is used.
    pub fn part(&self, bytes_max: usize) -> Self {
        Self {
            whole: Some(Arc::new(self.clone())),
            ..Self::new(bytes_max)
        }
    }

    fn reserve(&self, bytes: usize) -> Result<(), Error> {
        let before = self.used.fetch_add(bytes, Ordering::AcqRel);
        let fits = match before.saturating_add(bytes) > self.bytes_max {
            true => Err(Error::Overloaded {
                retry_after: OVERLOAD_RETRY,
            }),
            false => self.whole.as_ref().map_or(Ok(()), |it| it.reserve(bytes)),
        };
        if fits.is_err() {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// A body and its place in the budget, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Vec<u8>,
    budget: BodyBudget,
    reserved: usize,
}

impl Body {
    fn empty(budget: &BodyBudget) -> Self {
        Self {
            bytes: Vec::new(),
            budget: budget.clone(),
            reserved: 0,
        }
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.budget.reserve(chunk.len())?;
        self.reserved += chunk.len();
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// The bytes it holds now.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The body without its encodings. It takes its place in the budget for as long as it lives, as
    /// what was received did.
    pub(super) fn unpacked(
        self,
        encodings: &Encodings,
        limits: &DecodeLimits,
    ) -> Result<Self, Error> {
        let plain = match encodings.undo(&self.bytes, limits)? {
            Cow::Borrowed(_) => return Ok(self),
            Cow::Owned(plain) => plain,
        };
        self.budget.reserve(plain.len())?;
        Ok(Self {
            reserved: plain.len(),
            budget: self.budget.clone(),
            bytes: plain,
        })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget.give_back(self.reserved);
    }
}

/// Reads a whole body of at most `bytes_max`, which takes its place in this budget.
pub(super) async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    state: &AppState,
    budget: &BodyBudget,
    bytes_max: usize,
) -> Result<Body, Problem> {
    if announced_length(request).is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max).into());
    }
    let settings = &state.settings;
    let deadline = Instant::now() + settings.body_timeout;
    let mut body = Body::empty(budget);
    let mut stream = pin!(BodyStream::new(payload));
    loop {
        let pause_ends = Instant::now() + settings.body_idle_timeout;
        let next = poll_fn(|context| stream.as_mut().poll_next(context));
        match timeout_at(deadline.min(pause_ends), next).await {
            Err(_too_slow) => return Err(Problem::hangup()),
            Ok(None) => return Ok(body),
            Ok(Some(Ok(chunk))) => {
                if body.bytes.len() + chunk.len() > bytes_max {
                    return Err(too_large(bytes_max).into());
                }
                body.append(&chunk)?;
            }
            Ok(Some(Err(PayloadError::EncodingCorrupted))) => {
                let reason = "The chunked body is damaged".to_owned();
                return Err(Error::MalformedEncoding(reason).into());
            }
            // The client is gone: nobody reads an answer.
            Ok(Some(Err(_))) => return Err(Problem::hangup()),
        }
    }
}

/// Undoes the body's encodings, away from the threads that serve requests: how much work it is shows
/// only when it is done.
pub(super) async fn unpack(
    request: &HttpRequest,
    body: Body,
    state: &AppState,
    limits: &DecodeLimits,
) -> Result<Body, Error> {
    let encodings = encodings(request, &body)?;
    if encodings.is_empty() {
        return Ok(body);
    }
    let limits = limits.clone();
    on_a_decoder(state, move || body.unpacked(&encodings, &limits)).await
}

/// How long work waits for those before it.
const DECODER_WAIT: Duration = Duration::from_secs(5);

/// Runs work on a blocking thread, a few at a time, so that what waits for its turn is what the
/// budget of bodies counts, and not what it may become.
pub(super) async fn on_a_decoder<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = limits::turn(&state.decoders, DECODER_WAIT, OVERLOAD_RETRY).await?;
    let done = tokio::task::spawn_blocking(move || {
        let _until_it_is_done = turn;
        work()
    });
    done.await
        .map_err(|panicked| Error::Internal(panicked.to_string()))?
}

/// The encodings of a request's body.
fn encodings(request: &HttpRequest, body: &Body) -> Result<Encodings, Error> {
    let mut names = Vec::new();
    for value in request.headers().get_all(CONTENT_ENCODING) {
        match value.to_str() {
            Ok(name) => names.push(name),
            Err(_) => {
                let reason = "Unknown content encoding".to_owned();
                return Err(Error::MalformedEncoding(reason));
            }
        }
    }
    let names = (!names.is_empty()).then(|| names.join(","));
    Encodings::of(names.as_deref(), body.as_slice())
}

/// Reads the JSON object an admin sends.
pub(super) async fn read_object(
    request: &HttpRequest,
    payload: web::Payload,
    state: &AppState,
) -> Result<Map<String, Value>, Problem> {
    let body = read_plain(request, payload, state).await?;
    Ok(parse_object(body.as_slice())?)
}

/// Reads the JSON object an admin sends that holds what an application would send: what ingest mends
/// is mended.
pub(super) async fn read_object_with_event(
    request: &HttpRequest,
    payload: web::Payload,
    state: &AppState,
) -> Result<Map<String, Value>, Problem> {
    let body = read_plain(request, payload, state).await?;
    let mended = decode::mended(body.as_slice())?;
    Ok(parse_object(mended.as_bytes())?)
}

async fn read_plain(
    request: &HttpRequest,
    payload: web::Payload,
    state: &AppState,
) -> Result<Body, Problem> {
    let bytes_max = state.settings.admin_body_bytes_max;
    let body = read(request, payload, state, &state.bodies, bytes_max).await?;
    let limits = DecodeLimits {
        body_bytes_max: bytes_max,
        ..state.settings.decode.clone()
    };
    Ok(unpack(request, body, state, &limits).await?)
}

/// The seed reads an empty body as an empty object.
fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(other) => Err(Error::field(FieldError::body(
            "",
            Some(&other),
            "The body must be a JSON object",
        ))),
        Err(error) if error.to_string().starts_with(DEPTH_EXCEEDED) => Err(Error::Validation {
            code: Code::TooDeep,
            fields: vec![FieldError::body(
                "",
                None,
                "The body is nested more than 127 levels deep",
            )],
        }),
        Err(_) => Err(Error::MalformedJson),
    }
}

/// How the JSON library begins to say that a text is nested too deep; it has no other sign of it.
const DEPTH_EXCEEDED: &str = "recursion limit exceeded";

fn announced_length(request: &HttpRequest) -> Option<usize> {
    let value = request.headers().get(CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

fn too_large(bytes_max: usize) -> Error {
    Error::TooLarge {
        code: Code::BodyTooLarge,
        message: format!("The body is larger than {bytes_max} bytes"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn bodies_share_one_budget_and_give_it_back() {
        let budget = BodyBudget::new(10);
        let mut one = Body::empty(&budget);
        one.append(&[0; 6]).unwrap();
        let mut two = Body::empty(&budget);
        assert!(matches!(two.append(&[0; 6]), Err(Error::Overloaded { .. })));
        drop(one);
        two.append(&[0; 6]).unwrap();
        drop(two);
        assert_eq!(budget.used.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_part_of_the_budget_is_no_more_than_that() {
        let budget = BodyBudget::new(10);
        let part = budget.part(4);
        let mut strange = Body::empty(&part);
        strange.append(&[0; 4]).unwrap();
        assert!(strange.append(&[0; 1]).is_err());
        let mut known = Body::empty(&budget);
        known.append(&[0; 6]).unwrap();
        assert!(known.append(&[0; 1]).is_err());
        drop(strange);
        known.append(&[0; 2]).unwrap();
        let mut strange = Body::empty(&part);
        assert!(strange.append(&[0; 3]).is_err(), "the whole counts too");
        strange.append(&[0; 2]).unwrap();
        drop((strange, known));
        assert_eq!(part.used.load(Ordering::Acquire), 0);
        assert_eq!(budget.used.load(Ordering::Acquire), 0);
    }

    #[test]
    fn only_objects_are_objects() {
        assert!(parse_object(b" ").unwrap().is_empty());
        assert_eq!(parse_object(br#"{"a":1}"#).unwrap().len(), 1);
        assert!(matches!(parse_object(b"{"), Err(Error::MalformedJson)));
        let nested = |levels: usize| {
            let lists = levels - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(lists), "]".repeat(lists))
        };
        assert!(parse_object(nested(127).as_bytes()).is_ok());
        let too_deep = parse_object(nested(128).as_bytes());
        let code = Code::TooDeep;
        assert!(matches!(too_deep, Err(Error::Validation { code: found, .. }) if found == code));
        assert!(matches!(
            parse_object(b"[1]"),
            Err(Error::Validation { .. })
        ));
    }
}
