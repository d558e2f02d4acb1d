//! Permissions as extractors: a handler that takes `Authorized<Admin>` cannot run for anybody else.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};

use super::{Access, ByHead, Scope, unknown_key};
use crate::error::{Code, Error};
use crate::http::problem::Problem;
use crate::http::state::AppState;

pub(super) const CLIENT_KEY_REQUIRED: &str =
    "API key required. Provide x-api-key header or Authorization: Bearer token.";

/// What a route asks of a key.
pub trait Requirement: 'static {
    /// What is said when there is no key.
    const KEY_REQUIRED: &'static str;
    /// What is said when the key's scope is too small.
    const FORBIDDEN: &'static str;
    /// Whether a listed origin will do instead of a key.
    const KEYLESS: bool;
    /// Whether this scope is enough.
    fn allows(scope: Scope) -> bool;
}

/// Admin keys only.
#[derive(Debug)]
pub enum Admin {}

impl Requirement for Admin {
    const KEY_REQUIRED: &'static str = "Admin API key required.";
    const FORBIDDEN: &'static str = "Admin API key required for this operation.";
    const KEYLESS: bool = false;

    fn allows(scope: Scope) -> bool {
        scope == Scope::Admin
    }
}

/// Keys that may read what admins see.
#[derive(Debug)]
pub enum Read {}

impl Requirement for Read {
    const KEY_REQUIRED: &'static str = "Admin API key required.";
    const FORBIDDEN: &'static str = "Admin API key required for this operation.";
    const KEYLESS: bool = false;

    fn allows(scope: Scope) -> bool {
        matches!(scope, Scope::Read | Scope::Admin)
    }
}

/// Keys that applications carry, and listed origins, which need none.
#[derive(Debug)]
pub enum Client {}

impl Requirement for Client {
    const KEY_REQUIRED: &'static str = CLIENT_KEY_REQUIRED;
    const FORBIDDEN: &'static str = "Client API key required for this operation.";
    const KEYLESS: bool = true;

    fn allows(scope: Scope) -> bool {
        matches!(scope, Scope::Client | Scope::Admin)
    }
}

/// Proof that the caller may do what `R` stands for.
#[derive(Debug)]
pub struct Authorized<R: Requirement> {
    /// Who is asking, and in which project.
    pub access: Access,
    requirement: PhantomData<R>,
}

impl<R: Requirement> Authorized<R> {
    /// Checks the scope and the key's rate, and notes the access for the log.
    pub(crate) fn check(
        request: &HttpRequest,
        state: &AppState,
        access: Access,
    ) -> Result<Self, Error> {
        // The note comes first, so that refusals are logged with their project too.
        request.extensions_mut().insert(access.clone());
        if !R::allows(access.scope) {
            return Err(Error::Forbidden(R::FORBIDDEN));
        }
        if let Some(key) = access.key {
            state.limits.check_key(key, &mut request.extensions_mut())?;
        }
        Ok(Self {
            access,
            requirement: PhantomData,
        })
    }

    async fn extract(request: HttpRequest) -> Result<Self, Problem> {
        let state = state_of(&request)?;
        let access = Self::find(&request, &state).await?;
        Ok(Self::check(&request, &state, access)?)
    }

    /// As the extractor, without a limit of the key's rate. For what costs little and must be seen
    /// when the server is busy.
    pub(crate) async fn unlimited(
        request: &HttpRequest,
        state: &AppState,
    ) -> Result<Access, Error> {
        let access = Self::find(request, state).await?;
        request.extensions_mut().insert(access.clone());
        if R::allows(access.scope) {
            Ok(access)
        } else {
            Err(Error::Forbidden(R::FORBIDDEN))
        }
    }

    async fn find(request: &HttpRequest, state: &AppState) -> Result<Access, Error> {
        let access = match state.auth.by_head(request).await? {
            ByHead::Known(access) => access,
            ByHead::Unknown => return Err(unknown_key()),
            ByHead::Refused(error) => return Err(error),
            ByHead::Absent => {
                let keyless = if R::KEYLESS {
                    state.auth.by_origin(request).await?
                } else {
                    None
                };
                keyless.ok_or(Error::Unauthorized {
                    code: Code::MissingKey,
                    message: R::KEY_REQUIRED,
                })?
            }
        };
        Ok(access)
    }
}

fn state_of(request: &HttpRequest) -> Result<web::Data<AppState>, Error> {
    let state = request.app_data::<web::Data<AppState>>();
    state
        .cloned()
        .ok_or_else(|| Error::Internal("the server was built without its state".to_owned()))
}

impl<R: Requirement> FromRequest for Authorized<R> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        Box::pin(Self::extract(request.clone()))
    }
}
