//! Why somebody is shown a campaign, or is not.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, post, web};
use diesel::{Connection, PgConnection};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::Error;
use crate::history::{Answer, Case, Ground, Question};
use crate::http::auth::{Authorized, Read};
use crate::http::body;
use crate::http::limits::{self, OVERLOAD_RETRY};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::targeting::awaited;

/// How long a call waits for those before it.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// How long an explanation may take. Less than others wait for their turn, so that the next of them
/// comes to it.
const WORK_MAX: Duration = Duration::from_secs(8);

/// What is to be explained.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `Question` reads")]
struct ExplainBody {
    /// The user. Without it and `anonymous_id`, a newcomer of whom nothing is known.
    user_id: Option<String>,
    /// Else the anonymous id.
    anonymous_id: Option<String>,
    /// An event that need not be stored; its name alone will do. Without one it is a fetch.
    #[schema(inline)]
    event: Option<ExplainedTrigger>,
    /// A stored event: it is decided as of then, for its own user. Nothing else of who, what and
    /// when may be given beside it.
    event_id: Option<String>,
    /// One campaign, whatever its status; else all live ones.
    campaign_id: Option<String>,
    /// The moment of the decision, RFC 3339. One that has passed is decided as of then.
    at: Option<String>,
    /// How many campaigns are shown in full, 1 to 1,000; default 100. All are counted.
    limit: Option<u32>,
}

/// What somebody might do.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes bodies that `Question` reads")]
enum ExplainedTrigger {
    /// The event's name.
    Name(String),
    /// The event.
    Event(#[schema(inline)] ExplainedEvent),
}

/// An event that need not be stored.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `Question` reads")]
struct ExplainedEvent {
    /// Its name.
    name: String,
    /// Its details.
    #[schema(value_type = Option<Object>)]
    properties: Option<Value>,
    /// Its context.
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    /// When it happened, RFC 3339; at the moment of the decision, if left out.
    timestamp: Option<String>,
}

/// Explains which campaigns somebody is shown and why the others are not.
#[utoipa::path(tag = "admin", operation_id = "explain_decision", security(("api_key" = ["read"])),
    request_body = ExplainBody,
    responses((status = 200, description = "The gates of every campaign.", body = Answer),
              (status = 404, description = "The user, event or campaign is not there.")))]
#[post("/v1/admin/explain")]
pub(super) async fn explain_decision(
    request: HttpRequest,
    reader: Authorized<Read>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let body = body::read_object_with_event(&request, payload, &state).await?;
    let question = Question::parse(&body)?;
    if !state.targeting.is_ready_for(reader.access.project) {
        return Err(Error::DatabaseUnavailable.into());
    }
    let project = reader.access.project;
    let limits = state.targeting.rule_limits().clone();
    let ground = Ground {
        project,
        snapshot: state.targeting.snapshot(project),
        limits: limits.clone(),
        now: state.clock.now(),
    };
    let place = state.explanations.of(project).try_acquire_owned();
    let place = place.map_err(|_| Error::RateLimited {
        retry_after: OVERLOAD_RETRY,
    })?;
    // One at a time: many campaigns keep a core busy for a while. Its own project's first, so that who
    // waits for them holds nothing of the others'.
    let own = state.explaining_of_each.of(project);
    let own = limits::turn(&own, TURN_WAIT, TURN_WAIT).await?;
    let turn = limits::turn(&state.explaining, TURN_WAIT, TURN_WAIT).await?;
    // Whoever stops waiting does not stop the work at once, so its turns and place end with that.
    let held = (place, own, turn);
    let answer = awaited(WORK_MAX, |abandoned| async move {
        let load = move |connection: &mut PgConnection| {
            let case =
                connection.transaction(|connection| Case::load(connection, &ground, &question));
            Ok(case.map(|case| (case, held)))
        };
        let (case, held) = state.store.browse(project, load).await??;
        let explained = web::block(move || {
            let _until_it_is_explained = held;
            serde_json::to_vec(&case.explain(&limits, Some(&abandoned)))
        });
        explained
            .await
            .map_err(|error| Error::Internal(error.to_string()))?
            .map_err(|error| Error::Internal(error.to_string()))
    })
    .await?;
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(answer))
}
