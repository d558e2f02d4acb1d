//! A draft tried on stored events, told as it goes on.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use utoipa::ToSchema;

use crate::error::Error;
use crate::history::replay::{Plan, Progress, Report, Stage, replay};
use crate::http::auth::{Admin, Authorized};
use crate::http::body;
use crate::http::connection::{InFlight, Watched};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::store;

/// How many lines may wait for a client that reads slowly; the replay waits then.
const LINES_MAX: usize = 16;

/// A draft and the span it is tried on.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `Plan` reads")]
struct ReplayBody {
    /// The draft, as it would be saved. It needs a trigger; it counts as active.
    #[schema(value_type = Object)]
    campaign: Value,
    /// Events received then or later, RFC 3339; seven days before the end, if left out.
    from: Option<String>,
    /// Events received before; now, if left out.
    to: Option<String>,
    /// Whether the draft's schedule counts; else it is as if it had none.
    keep_schedule: Option<bool>,
}

/// One line of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReplayLine {
    /// How far it has come, about once a second.
    Progress(Progress),
    /// What came out of it: the last line.
    Report(Box<Report>),
    /// Why it ended early: the last line.
    Error(ReplayFailure),
}

/// Why a replay ended early.
#[derive(Debug, Serialize, ToSchema)]
struct ReplayFailure {
    /// A stable code.
    code: &'static str,
    /// The same in words.
    message: String,
}

/// Tries a draft on stored events of its trigger.
///
/// Each event is decided at the moment it was received, with the traits of then as far as stored
/// identify calls tell. The answer is a JSON object a line: progress, and at last the report or an
/// error. Nothing is changed. It ends when the client leaves. One replay runs at a time.
#[utoipa::path(tag = "admin", operation_id = "replay_campaign", security(("api_key" = ["admin"])),
    request_body = ReplayBody,
    responses((status = 200, description = "Progress, then the report; a JSON object a line.",
               content_type = "application/x-ndjson", body = ReplayLine),
              (status = 409, description = "Another replay runs on this node."),
              (status = 422, description = "The draft's rules or targeting cannot be compiled.")))]
#[post("/v1/admin/campaigns/replay")]
pub(in crate::http::routes) async fn replay_campaign(
    request: HttpRequest,
    admin: Authorized<Admin>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let body = body::read_object(&request, payload, &state).await?;
    let limits = state.targeting.rule_limits().clone();
    let plan = Plan::parse(&body, state.clock.now(), &limits)?;
    if !state.targeting.is_ready_for(admin.access.project) {
        return Err(Error::DatabaseUnavailable.into());
    }
    let project = admin.access.project;
    let stage = Stage {
        project,
        snapshot: state.targeting.snapshot(project),
        limits,
        events_per_second: state.settings.replay_events_per_second,
    };
    let place = Arc::clone(&state.replaying).try_acquire_owned();
    let place = place.map_err(|_| {
        let reason = "Another replay runs on this node; try again when it has ended.";
        Error::Conflict(reason.to_owned())
    })?;
    let (lines, waiting) = channel(LINES_MAX);
    let url = state.store.url().to_owned();
    let readiness = state.readiness.clone();
    let work = move || {
        let _until_it_ends = place;
        let is_wanted = || !lines.is_closed() && !readiness.is_shutting_down();
        // A defect in the evaluation of one rule must not leave the client without a last line.
        let replayed = AssertUnwindSafe(|| run(&url, &stage, plan, &lines, is_wanted));
        let last = std::panic::catch_unwind(replayed)
            .unwrap_or_else(|_| failure(&Error::Internal("a replay panicked".to_owned())));
        let _client_left = lines.blocking_send(last);
    };
    std::thread::Builder::new()
        .name("replay".to_owned())
        .spawn(work)
        .map_err(|error| Error::Internal(error.to_string()))?;
    let mut answer = HttpResponse::Ok();
    answer.insert_header((
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    ));
    Ok(answer.body(Lines {
        waiting,
        _in_flight: request.conn_data::<Watched>().map(Watched::request),
    }))
}

/// Replays on a connection of its own; returns the last line.
fn run(
    url: &str,
    stage: &Stage,
    plan: Plan,
    lines: &Sender<ReplayLine>,
    is_wanted: impl Fn() -> bool,
) -> ReplayLine {
    let tell = |progress| {
        let told = is_wanted() && lines.blocking_send(ReplayLine::Progress(progress)).is_ok();
        match told {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let replayed = store::connect(url)
        .map_err(|_| Error::DatabaseUnavailable)
        .and_then(|mut connection| replay(&mut connection, stage, plan, tell));
    match replayed {
        Ok(Some(report)) => ReplayLine::Report(Box::new(report)),
        Ok(None) => failure(&Error::ShuttingDown),
        Err(error) => failure(&error),
    }
}

/// As in other answers, a defect says nothing of the inside.
fn failure(error: &Error) -> ReplayLine {
    let message = match error {
        Error::Internal(_) => {
            tracing::error!(%error, "a replay failed");
            "Something went wrong on the server.".to_owned()
        }
        other => other.to_string(),
    };
    ReplayLine::Error(ReplayFailure {
        code: error.code().as_str(),
        message,
    })
}

/// The lines as they come. While they do, the connection does not count as idle.
struct Lines {
    waiting: Receiver<ReplayLine>,
    _in_flight: Option<InFlight>,
}

impl MessageBody for Lines {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.get_mut().waiting.poll_recv(context).map(|line| {
            let line = line?;
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.push(b'\n');
            Some(Ok(Bytes::from(text)))
        })
    }
}
