//! Permission for pages of other origins.
//!
//! The origin and the headers a preflight asks for are mirrored, with credentials, and never a
//! wildcard: beacons come with cookies, and SDKs add headers of their own. `actix-cors` is not used
//! because it answers a preflight with 200 and refuses unknown origins with a 400 in its own words,
//! and because the list of origins is asked of the database here.

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};

use super::auth::Authenticator;
use super::settings::CorsOrigins;

const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Retry-After,X-Request-Id,RateLimit-Limit,RateLimit-Remaining,RateLimit-Reset",
);
const TRUE: HeaderValue = HeaderValue::from_static("true");
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// What the page that sent a request is allowed.
#[derive(Debug, Clone)]
pub(super) struct Permission {
    /// The origin to mirror, when it has permission.
    origin: Option<HeaderValue>,
    /// The headers to mirror, on a preflight.
    headers: Option<HeaderValue>,
    is_preflight: bool,
}

impl Permission {
    /// Decides for a request's head.
    pub(super) async fn of(
        method: &Method,
        headers: &HeaderMap,
        origins: &CorsOrigins,
        auth: &Authenticator,
    ) -> Self {
        let is_preflight = method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Self {
            origin: allowed_origin(headers, origins, auth).await,
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            is_preflight,
        }
    }

    /// True when the request only asks for permission.
    pub(super) fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    /// The answer to a request that only asks for permission.
    pub(super) fn preflight_answer(&self) -> HttpResponse {
        let mut answer = HttpResponse::NoContent().finish();
        if self.origin.is_some() {
            let headers = answer.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
            if let Some(asked) = &self.headers {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
            }
        }
        answer
    }

    /// Adds the permission to any answer, errors too, so that a page can read them.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if self.is_preflight {
            let vary = HeaderValue::from_static("Access-Control-Request-Headers");
            headers.append(VARY, vary);
        }
        if let Some(origin) = &self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

async fn allowed_origin(
    headers: &HeaderMap,
    origins: &CorsOrigins,
    auth: &Authenticator,
) -> Option<HeaderValue> {
    let value = headers.get(ORIGIN)?;
    let text = value.to_str().ok()?;
    let allowed = match origins {
        CorsOrigins::Mirror => true,
        CorsOrigins::List(list) => {
            list.iter().any(|known| known == text) || auth.is_listed_origin(text).await
        }
    };
    allowed.then(|| value.clone())
}
