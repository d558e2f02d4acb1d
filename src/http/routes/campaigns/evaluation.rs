//! What Beckon knows of a campaign's evaluation, and what saving one says about it.

use actix_web::{HttpRequest, HttpResponse, post, web};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::draft::{self, Draft};
use super::{CampaignBody, FORCE, REFUSED};
use crate::error::{Code, Error, FieldError};
use crate::http::auth::{Admin, Authorized};
use crate::http::body;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::routes::author::seed_time;
use crate::http::state::AppState;
use crate::matcher::Refusal;
use crate::model::ProjectId;
use crate::store::campaigns::StoredCampaign;
use crate::targeting::{Targeting, Warning};

/// What may surprise about what was saved.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Warning)]
pub(super) struct WarningDoc {
    /// A stable code; docs/campaigns.md lists them.
    code: String,
    /// JSON pointer into the campaign.
    pointer: String,
    /// The same for a human being.
    message: String,
}

/// What Beckon knows of a campaign's evaluation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Evaluation {
    /// The most steps that an evaluation can take, the segments it names left out; null if the
    /// campaign cannot be compiled.
    cost: Option<u64>,
    /// Whether the index can use a condition of it. If not, it is evaluated at every event that is
    /// its trigger.
    indexed: Option<bool>,
    /// Why it is out of service although it is active, if it is.
    quarantine: Option<Quarantine>,
    /// Why it cannot be compiled, if it cannot, as an import may leave it: nobody is shown it, whatever
    /// its status and the `rules` of this answer.
    broken: Option<Broken>,
}

/// Why a stored campaign cannot be compiled.
#[derive(Debug, Serialize, ToSchema)]
struct Broken {
    /// A stable code, that of a save which is refused for it.
    code: String,
    /// JSON pointer into what is stored. Where that is no list, `rules` are answered as an empty one.
    pointer: String,
    /// The same for a human being.
    message: String,
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        let (code, pointer, message) = match refusal {
            Refusal::Rule(error) => (error.code.as_str(), error.pointer, error.message),
            Refusal::Field { pointer, message } => (Code::InvalidField.as_str(), pointer, message),
        };
        Self {
            code: code.to_owned(),
            pointer,
            message,
        }
    }
}

/// Why a campaign is out of service until it is saved again.
#[derive(Debug, Serialize, ToSchema)]
struct Quarantine {
    /// Since when.
    since: String,
    /// How its targeting failed: `type`, `arithmetic`, `limit` or `other`.
    reason: String,
    /// How often in a row.
    failures: i32,
}

/// What saving a campaign would answer.
#[derive(Debug, Serialize, ToSchema)]
struct CheckedCampaign {
    /// What may surprise.
    warnings: Vec<WarningDoc>,
    /// What Beckon knows of its evaluation.
    evaluation: Evaluation,
}

/// Says what saving a campaign would say, and saves nothing.
///
/// With the `id` of a campaign that is there, it is an edit of that one.
#[utoipa::path(tag = "admin", operation_id = "validate_campaign", security(("api_key" = ["admin"])),
    params(("force" = Option<bool>, Query, description = FORCE)),
    request_body = CampaignBody,
    responses((status = 200, description = "It can be saved.", body = CheckedCampaign),
              (status = 422, description = REFUSED)))]
#[post("/v1/admin/campaigns/validate")]
pub(in crate::http::routes) async fn validate_campaign(
    request: HttpRequest,
    admin: Authorized<Admin>,
    params: Params,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let body = body::read_object(&request, payload, &state).await?;
    let (project, force) = (admin.access.project, params.flag("force")?);
    // It may be an edit of one that is there, which does not stand in its own way.
    let id = body.get("id").and_then(Value::as_str).map(str::to_owned);
    let draft = Draft::new(body, "", &seed_time(state.clock.now()))?;
    let (targeting, object) = (state.targeting.clone(), draft.body.clone());
    // Compiling takes its time, which no async thread has and no connection should be held for.
    let check = move || {
        let warnings = targeting.check_campaign(project, id.as_deref(), &object, force);
        warnings.map(|warnings| (warnings, evaluation(&object, None, &targeting)))
    };
    let checked = tokio::task::spawn_blocking(check).await;
    let (mut warnings, evaluation) =
        checked.map_err(|panicked| Error::Internal(panicked.to_string()))??;
    warnings.extend(
        state
            .targeting
            .compare_with_seen(project, &draft.body)
            .await,
    );
    Ok(HttpResponse::Ok().json(json!({"warnings": warnings, "evaluation": evaluation})))
}

/// A stored campaign with what is known of its evaluation.
pub(super) fn answered(stored: StoredCampaign, targeting: &Targeting) -> Map<String, Value> {
    let quarantine = match (stored.quarantined_at, &stored.quarantine_reason) {
        (Some(since), Some(reason)) => Some(Quarantine {
            since: seed_time(since),
            reason: reason.clone(),
            failures: stored.quarantine_failures.unwrap_or_default(),
        }),
        _ => None,
    };
    let stored = draft::as_stored(stored);
    // Of what is stored: what is answered may have been made presentable.
    let evaluation = evaluation(&stored, quarantine, targeting);
    let mut answer = draft::into_answer(stored);
    answer.insert(draft::EVALUATION.into(), json!(evaluation));
    answer
}

fn evaluation(
    body: &Map<String, Value>,
    quarantine: Option<Quarantine>,
    targeting: &Targeting,
) -> Evaluation {
    let (effort, broken) = match targeting.effort_of(body) {
        Ok(effort) => (Some(effort), None),
        Err(refusal) => (None, Some(Broken::from(refusal))),
    };
    let (cost, indexed) = effort.unzip();
    Evaluation {
        cost,
        indexed,
        quarantine,
        broken,
    }
}

/// A campaign as it is answered, and what may surprise about it.
pub(super) type Saved = (Map<String, Value>, Vec<Warning>);

/// The answer to a save.
pub(super) async fn with_warnings(
    (mut answer, mut warnings): Saved,
    targeting: &Targeting,
    project: ProjectId,
) -> Map<String, Value> {
    // After the save, which must not wait for it.
    warnings.extend(targeting.compare_with_seen(project, &answer).await);
    if !warnings.is_empty() {
        answer.insert("warnings".into(), json!(warnings));
    }
    answer
}

pub(super) fn refuse_sort(sort: &str) -> Error {
    Error::field(FieldError::query(
        "sort",
        Some(&json!(sort)),
        "sort can be cost, without a filter",
    ))
}
