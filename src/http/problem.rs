//! How an error looks to a client: one object that serves every family of clients.
//!
//! It holds the members of RFC 9457 and the seed's `error`, `message` and `details`, and a `code`
//! from the closed list. This is the one place where an error becomes a status. A 5xx says nothing
//! of the inside; its chain is logged once, in `envelope` (readiness logs its own).

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Map, Value, json};

use crate::error::{Code, Error, FieldError};

/// What a handler fails with.
#[derive(Debug)]
pub struct Problem {
    kind: Kind,
    /// Replaces the seed's `error` where its text is one of a kind.
    headline: Option<&'static str>,
    extra: Option<Box<(&'static str, Value)>>,
}

#[derive(Debug)]
enum Kind {
    Domain(Error),
    RouteNotFound {
        route: String,
    },
    MethodNotAllowed {
        route: String,
        allow: String,
    },
    /// The client was too slow: the connection is closed without an answer, because SDKs retry the
    /// framework's 408.
    Hangup,
}

impl Problem {
    /// There is no such route. `route` is the method and path; `known` the list of routes.
    pub(super) fn route_not_found(route: &str, known: &[&String]) -> Self {
        Self {
            kind: Kind::RouteNotFound {
                route: route.to_owned(),
            },
            headline: None,
            extra: Some(Box::new(("availableRoutes", json!(known)))),
        }
    }

    /// The route has other methods, listed in `allow`.
    pub(super) fn method_not_allowed(route: String, allow: String) -> Self {
        Self {
            kind: Kind::MethodNotAllowed { route, allow },
            headline: None,
            extra: None,
        }
    }

    /// The client was too slow to be answered.
    pub(super) fn hangup() -> Self {
        Self {
            kind: Kind::Hangup,
            headline: None,
            extra: None,
        }
    }

    /// Replaces the text of the `error` member.
    pub(super) fn with_headline(mut self, headline: &'static str) -> Self {
        self.headline = Some(headline);
        self
    }

    /// Adds a member.
    pub(super) fn with_extra(mut self, name: &'static str, value: Value) -> Self {
        self.extra = Some(Box::new((name, value)));
        self
    }

    /// True when the connection is to be closed without an answer.
    pub(super) fn is_hangup(&self) -> bool {
        matches!(self.kind, Kind::Hangup)
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match &self.kind {
            Kind::Domain(error) => error.code(),
            Kind::RouteNotFound { .. } => Code::RouteNotFound,
            Kind::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Kind::Hangup => Code::Internal,
        }
    }

    /// The whole answer. `instance` is the request id.
    pub(super) fn respond(&self, instance: Option<&str>) -> HttpResponse<BoxBody> {
        if self.is_hangup() {
            return HttpResponse::Ok().body(BrokenBody);
        }
        let status = self.status_code();
        let mut answer = HttpResponse::build(status);
        answer.insert_header((
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        ));
        if let Some(seconds) = self.retry_after_seconds() {
            answer.insert_header((RETRY_AFTER, HeaderValue::from(seconds)));
        }
        if let Kind::MethodNotAllowed { allow, .. } = &self.kind {
            answer.insert_header(("Allow", allow.as_str()));
        }
        answer.body(Value::Object(self.members(status, instance)).to_string())
    }

    fn members(&self, status: StatusCode, instance: Option<&str>) -> Map<String, Value> {
        let message = self.message();
        let title = status.canonical_reason().unwrap_or("Error");
        let mut members = Map::new();
        let code = self.code().as_str();
        members.insert("type".into(), json!(format!("urn:beckon:error:{code}")));
        members.insert("title".into(), json!(title));
        members.insert("status".into(), json!(status.as_u16()));
        members.insert("detail".into(), json!(message));
        if let Some(instance) = instance {
            members.insert("instance".into(), json!(instance));
        }
        members.insert("success".into(), json!(false));
        members.insert("code".into(), json!(code));
        members.insert("error".into(), json!(self.headline(title)));
        members.insert("message".into(), json!(message));
        members.insert("details".into(), json!(self.details()));
        if let Some(extra) = &self.extra {
            members.insert(extra.0.into(), extra.1.clone());
        }
        members
    }

    /// The seed's `error`: a short text its dashboard shows.
    fn headline(&self, title: &str) -> String {
        if let Some(headline) = self.headline {
            return headline.to_owned();
        }
        match &self.kind {
            Kind::Domain(error) => match error {
                Error::Validation { .. } | Error::InvalidRule { .. } | Error::NeverShown { .. } => {
                    "Validation failed".to_owned()
                }
                Error::NotFound(_) | Error::RateLimited { .. } => error.to_string(),
                Error::MalformedJson
                | Error::MalformedEncoding(_)
                | Error::TooLarge { .. }
                | Error::Unauthorized { .. }
                | Error::Forbidden(_)
                | Error::Conflict(_)
                | Error::Overloaded { .. }
                | Error::DatabaseUnavailable
                | Error::ShuttingDown
                | Error::Internal(_) => title.to_owned(),
            },
            Kind::RouteNotFound { .. } | Kind::MethodNotAllowed { .. } | Kind::Hangup => {
                title.to_owned()
            }
        }
    }

    fn message(&self) -> String {
        match &self.kind {
            Kind::Domain(Error::Internal(_)) => {
                "Something went wrong on the server; the request id finds it in the log.".to_owned()
            }
            Kind::Domain(Error::Validation { fields, .. }) => {
                let texts: Vec<&str> = fields.iter().map(|field| field.msg.as_str()).collect();
                texts.join("; ")
            }
            Kind::Domain(error) => error.to_string(),
            Kind::RouteNotFound { route } => format!("Route {route} does not exist"),
            Kind::MethodNotAllowed { route, allow } => {
                format!("Route {route} does not exist; the path allows {allow}")
            }
            Kind::Hangup => String::new(),
        }
    }

    fn details(&self) -> Vec<FieldError> {
        let Kind::Domain(error) = &self.kind else {
            return Vec::new();
        };
        match error {
            Error::Validation { fields, .. } => fields.clone(),
            Error::InvalidRule {
                pointer,
                code,
                message,
            } => {
                vec![FieldError::body(pointer, None, message.clone()).with_code(code)]
            }
            Error::NeverShown { findings } => findings.clone(),
            Error::MalformedJson | Error::TooLarge { .. } => {
                vec![FieldError::body("", None, error.to_string())]
            }
            Error::MalformedEncoding(message) => vec![FieldError {
                kind: "field",
                value: Value::String(String::new()),
                msg: message.clone(),
                path: "content-encoding".to_owned(),
                location: "headers",
                code: None,
            }],
            Error::Unauthorized { .. }
            | Error::Forbidden(_)
            | Error::NotFound(_)
            | Error::Conflict(_)
            | Error::RateLimited { .. }
            | Error::Overloaded { .. }
            | Error::DatabaseUnavailable
            | Error::ShuttingDown
            | Error::Internal(_) => Vec::new(),
        }
    }

    /// SDKs read an integer and believe at most 300. Those who are refused together are not asked
    /// to come back together.
    fn retry_after_seconds(&self) -> Option<u64> {
        let Kind::Domain(error) = &self.kind else {
            return None;
        };
        match error {
            Error::RateLimited { retry_after } | Error::Overloaded { retry_after } => {
                let rounded_up = retry_after.as_millis().div_ceil(1_000);
                let least = u64::try_from(rounded_up).unwrap_or(u64::MAX).max(1);
                Some(least.saturating_add(spread()).min(300))
            }
            Error::DatabaseUnavailable | Error::ShuttingDown => Some(1 + spread()),
            Error::MalformedJson
            | Error::MalformedEncoding(_)
            | Error::Validation { .. }
            | Error::TooLarge { .. }
            | Error::Unauthorized { .. }
            | Error::Forbidden(_)
            | Error::NotFound(_)
            | Error::Conflict(_)
            | Error::InvalidRule { .. }
            | Error::NeverShown { .. }
            | Error::Internal(_) => None,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            kind: Kind::Domain(error),
            headline: None,
            extra: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Domain(error) => error.fmt(f),
            Kind::RouteNotFound { route } | Kind::MethodNotAllowed { route, .. } => {
                write!(f, "no route {route}")
            }
            Kind::Hangup => f.write_str("the client was too slow"),
        }
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        match &self.kind {
            Kind::Domain(error) => status_of(error),
            Kind::RouteNotFound { .. } => StatusCode::NOT_FOUND,
            Kind::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Hangup => StatusCode::OK,
        }
    }

    /// `envelope` writes the final answer, which also names the request.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        self.respond(None)
    }
}

/// 0, 1 and 2 in turns: how many seconds longer than the next one a client is asked to stay away.
fn spread() -> u64 {
    static REFUSED: AtomicU64 = AtomicU64::new(0);
    REFUSED.fetch_add(1, Ordering::Relaxed) % 3
}

/// The status of each error.
pub fn status_of(error: &Error) -> StatusCode {
    match error {
        Error::MalformedJson | Error::MalformedEncoding(_) | Error::Validation { .. } => {
            StatusCode::BAD_REQUEST
        }
        Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
        Error::Forbidden(_) => StatusCode::FORBIDDEN,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Conflict(_) => StatusCode::CONFLICT,
        Error::InvalidRule { .. } | Error::NeverShown { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Error::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Overloaded { .. } | Error::DatabaseUnavailable | Error::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A body that fails before its first byte. The framework then drops the connection before it has
/// flushed the head, so the client sees a closed connection and no status; a test over a real
/// socket keeps it so.
#[derive(Debug)]
struct BrokenBody;

impl MessageBody for BrokenBody {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::Error::from(
            std::io::ErrorKind::TimedOut,
        ))))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::collections::BTreeSet;
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use super::*;

    fn members(problem: &Problem) -> Map<String, Value> {
        problem.members(problem.status_code(), Some("req-1"))
    }

    #[test]
    fn validation_reads_like_the_seeds() {
        let problem = Problem::from(Error::field(FieldError::body(
            "user_id",
            None,
            "user_id is required",
        )));
        let members = members(&problem);
        assert_eq!(members["error"], "Validation failed");
        assert_eq!(members["code"], "invalid_field");
        assert_eq!(members["success"], false);
        assert_eq!(members["instance"], "req-1");
        assert_eq!(
            members["details"],
            json!([{"type": "field", "value": "", "msg": "user_id is required",
                    "path": "user_id", "location": "body"}])
        );
    }

    #[actix_web::test]
    async fn a_slow_client_is_hung_up_on_without_a_byte() {
        let server = actix_web::HttpServer::new(|| {
            actix_web::App::new().default_service(actix_web::web::to(|| async {
                Err::<HttpResponse, Problem>(Problem::hangup())
            }))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        let received = actix_web::rt::task::spawn_blocking(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc";
            socket.write_all(head).unwrap();
            let mut received = Vec::new();
            // A reset is as good as an end: either way there was no status.
            let _ended = socket.read_to_end(&mut received);
            received
        });
        assert_eq!(String::from_utf8_lossy(&received.await.unwrap()), "");
        handle.stop(false).await;
    }

    #[test]
    fn internal_text_is_never_shown() {
        let problem = Problem::from(Error::Internal("secret table".to_owned()));
        let text = Value::Object(members(&problem)).to_string();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(problem.status_code(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn retry_after_is_a_small_integer_and_not_the_same_for_everybody() {
        let after = |retry_after| {
            let seconds = || Problem::from(Error::Overloaded { retry_after }).retry_after_seconds();
            let answers: BTreeSet<u64> = (0..20).filter_map(|_| seconds()).collect();
            (answers.first().copied(), answers.last().copied())
        };
        assert_eq!(after(Duration::ZERO), (Some(1), Some(3)));
        assert_eq!(after(Duration::from_millis(1_001)), (Some(2), Some(4)));
        assert_eq!(after(Duration::from_secs(10_000)), (Some(300), Some(300)));
    }

    #[test]
    fn seeds_error_texts_are_kept() {
        let text = |error: Error| members(&Problem::from(error))["error"].clone();
        assert_eq!(text(Error::NotFound("Campaign")), "Campaign not found");
        assert_eq!(text(Error::MalformedJson), "Bad Request");
        assert_eq!(text(Error::Forbidden("x")), "Forbidden");
        assert_eq!(
            text(Error::RateLimited {
                retry_after: Duration::ZERO
            }),
            "Too many requests, please try again later."
        );
    }
}
