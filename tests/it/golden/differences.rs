//! Where we answer otherwise than the seed's server, on purpose.
//!
//! `body` is what we answer instead, compared as a recording is: recorded ids stand for ours,
//! `new:…` for an id the recording does not have, and members we add need not be named.

/// One exchange that differs.
#[derive(Debug)]
pub struct Difference {
    /// The recording.
    pub name: &'static str,
    /// Our status.
    pub status: u16,
    /// Our body.
    pub body: &'static str,
    /// Why.
    pub reason: &'static str,
}

const ANY_EVENT_NAME: &str = "any printable text of up to 200 characters is an event's name: the \
    seed's own mobile SDK sends such names, and replays a refused event for ever";
const LATER_EVENTS: &str = "events that the seed refused are stored here, and so is each identify";
const ROUTE_EXISTS: &str = "the seed's clients call this route and its server lacked it";

const ROUTES_DIFFER: &str = "the refusal lists our routes, which are more than the seed's";

/// Every difference there is.
pub const DIFFERENCES: [Difference; 31] = [
    Difference {
        name: "01-health",
        status: 200,
        body: concat!(
            r#"{"status":"ok","timestamp":"2026-11-21T00:00:00Z","auth":"enabled","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""}"#
        ),
        reason: "keys are always required, and the version is ours",
    },
    Difference {
        name: "17-track-properties-null",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:17","user_id":"u-1001",
            "event":"Checkout_Started","properties":{},"ts":1795224887872}}"#,
        reason: "null properties are none: real SDKs send them",
    },
    Difference {
        name: "18-track-event-space",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:18","user_id":"u-1001",
            "event":"Order Completed","properties":{},"ts":1795224887872}}"#,
        reason: ANY_EVENT_NAME,
    },
    Difference {
        name: "19-track-event-dollar",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:19","user_id":"u-1001",
            "event":"$identify","properties":{},"ts":1795224887872}}"#,
        reason: ANY_EVENT_NAME,
    },
    Difference {
        name: "20-track-event-flutter-route",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:20","user_id":"u-1001",
            "event":"/_Viewed","properties":{},"ts":1795224887872}}"#,
        reason: ANY_EVENT_NAME,
    },
    Difference {
        name: "21-track-event-flutter-dialog",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:21","user_id":"u-1001",
            "event":"DialogRoute<dynamic>_Viewed","properties":{},"ts":1795224887872}}"#,
        reason: ANY_EVENT_NAME,
    },
    Difference {
        name: "22-track-event-101",
        status: 200,
        body: concat!(
            r#"{"ok":true,"matched":[],"event":{"id":"new:22","user_id":"u-1001","event":""#,
            "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
            "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
            r#"","properties":{},"ts":1795224887872}}"#
        ),
        reason: ANY_EVENT_NAME,
    },
    Difference {
        name: "27-text-plain-body",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:27","user_id":"u","event":"e",
            "properties":{},"ts":1795224887872}}"#,
        reason: "the content type is not trusted: browser SDKs send JSON as text/plain",
    },
    Difference {
        name: "30-nan-body",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:30","user_id":"u","event":"e",
            "properties":{"x":null},"ts":1795224887872}}"#,
        reason: "Python SDKs write NaN; it is read as null",
    },
    Difference {
        name: "46-campaign-put-type-bottomsheet",
        status: 200,
        body: r#"{"name":"Renamed","status":"paused","trigger":"Checkout_Started","type":"bottomsheet",
            "id":"a3c4e101-9d8e-4386-abe4-23b4419562fc"}"#,
        reason: "any type is accepted: the seed's own dashboard writes this one",
    },
    Difference {
        name: "47-campaign-put-type-floater",
        status: 200,
        body: r#"{"name":"Renamed","status":"paused","trigger":"Checkout_Started","type":"floater",
            "id":"a3c4e101-9d8e-4386-abe4-23b4419562fc"}"#,
        reason: "any type is accepted: the seed's own create made this one",
    },
    Difference {
        name: "51-events-list",
        status: 200,
        body: r#"{"events":[
            {"id":"5c3cc346-df10-4956-b83f-8edb6dfe314f","user_id":"u-9",
             "event":"Checkout_Started","properties":{"sku":"B"},"ts":1795224887919},
            {"id":"2a1621aa-084c-448b-827d-745818f77aa8","user_id":"u-1001",
             "event":"Checkout_Started","properties":{"sku":"A-1"},"ts":1795224887917}],
            "total":23}"#,
        reason: LATER_EVENTS,
    },
    Difference {
        name: "52-users-list",
        status: 200,
        body: r#"{"users":[
            {"id":"u-1001","plan":null,"cart_total":150,"addr":{"b":2}},
            {"id":"u-1002"}],"total":9}"#,
        reason: "people are listed as they were first seen, not with numbers first, and whoever \
            tracks is a person",
    },
    Difference {
        name: "53-analytics-overview",
        status: 200,
        body: r#"{"totalCampaigns":3,"activeCampaigns":0,"totalEvents":23,"totalUsers":9,
            "impressions":0,"clicks":0,"conversions":0,"ctr":0,"conversionRate":0}"#,
        reason: "more is stored (51), and whoever tracks is a person (52)",
    },
    Difference {
        name: "61-feature-value-missing-route",
        status: 200,
        body: r#"{"key":"beta","value":"blue"}"#,
        reason: ROUTE_EXISTS,
    },
    Difference {
        name: "62-feature-payload-missing-route",
        status: 200,
        body: r#""blue""#,
        reason: ROUTE_EXISTS,
    },
    Difference {
        name: "68-missing-upload",
        status: 404,
        body: r#"{"error":"Not Found","message":"Route POST /v1/upload does not exist",
            "code":"route_not_found"}"#,
        reason: ROUTES_DIFFER,
    },
    Difference {
        name: "69-missing-leads",
        status: 200,
        body: r#"{"ok":true}"#,
        reason: ROUTE_EXISTS,
    },
    Difference {
        name: "70-missing-analytics-track",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:70","user_id":"u","event":"e",
            "properties":{},"ts":1795224887872}}"#,
        reason: ROUTE_EXISTS,
    },
    Difference {
        name: "71-missing-analytics-identify",
        status: 200,
        body: r#"{"ok":true,"user":{}}"#,
        reason: ROUTE_EXISTS,
    },
    Difference {
        name: "77-auth-basic-rejected",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:77","user_id":"u","event":"e",
            "properties":{},"ts":1795224887872}}"#,
        reason: "Segment's SDKs send their key as the Basic user",
    },
    Difference {
        name: "80-auth-admin-ok",
        status: 200,
        body: r#"{"events":[
            {"id":"new:77","user_id":"u","event":"e","properties":{},"ts":1795224887996},
            {"id":"e0922ecf-e6dc-40ff-a732-04e6786b4982","user_id":"u","event":"e",
             "properties":{},"ts":1795224887996},
            {"id":"7a405796-b4a1-431f-8fae-61dc5c833d50","user_id":"u","event":"e",
             "properties":{},"ts":1795224887993}],
            "total":3}"#,
        reason: LATER_EVENTS,
    },
    Difference {
        name: "81-auth-campaign-analytics-is-public",
        status: 401,
        body: r#"{"error":"Unauthorized","code":"missing_key","success":false}"#,
        reason: "a campaign's figures are nobody's business without a key",
    },
    Difference {
        name: "82-auth-404-is-public",
        status: 404,
        body: r#"{"error":"Not Found","message":"Route GET /v1/nope does not exist",
            "code":"route_not_found"}"#,
        reason: ROUTES_DIFFER,
    },
    Difference {
        name: "83-ratelimited",
        status: 200,
        body: r#"{"status":"ok"}"#,
        reason: "the limit is made for real SDKs, not 100 in 15 minutes, and spares the health check",
    },
    Difference {
        name: "85-campaign-create-rules-object",
        status: 400,
        body: r#"{"error":"Validation failed","code":"invalid_field","details":[
            {"type":"field","value":{"a":1},"msg":"rules must be an array","path":"rules",
             "location":"body"}]}"#,
        reason: "rules are a list; the seed saved this and then failed on every track",
    },
    Difference {
        name: "86-track-rules-object-500",
        status: 200,
        body: r#"{"ok":true,"matched":[],"event":{"id":"new:86","user_id":"u-77",
            "event":"BadRules","properties":{},"ts":1795224887872}}"#,
        reason: "no stored campaign can make a track fail",
    },
    Difference {
        name: "87-campaign-list-limit-0",
        status: 200,
        body: r#"{"campaigns":[
            {"name":"T","type":"bottomsheet","status":"draft","trigger":"screen_viewed",
             "rules":[{"id":1,"type":"event","field":"unknown","operator":"==","value":"x"}],
             "config":{},"id":"3d4a3c4c-8fe1-4935-b041-b9c7519ee1c7",
             "createdAt":"2026-11-21T01:34:47.914Z"}],
            "total":3}"#,
        reason: "a limit is between 1 and 100 and is clamped; 0 meant all in the seed",
    },
    Difference {
        name: "88-campaign-delete-badrules",
        status: 404,
        body: r#"{"error":"Campaign not found"}"#,
        reason: "this campaign was refused when it was created (85)",
    },
    Difference {
        name: "92-events-limit-negative",
        status: 200,
        body: r#"{"events":[
            {"id":"new:92","user_id":"u-50","event":"identify",
             "properties":{"address":{"city":"X"},"address.city":"Y"},"ts":1795225828216}],
            "total":30}"#,
        reason: "a limit is between 1 and 100 and is clamped (-1 meant all but one in the seed), and \
            an identify is an event too",
    },
    Difference {
        name: "94-users-list-id-shadowed",
        status: 200,
        body: r#"{"users":[
            {"id":"u-1001","plan":null,"cart_total":150,"addr":{"b":2}},
            {"id":"u-1002"},
            {"id":"5","a":1},
            {"id":"sp","a":1},
            {"id":"a,b"},
            {"id":"u-1003","x":1},
            {"id":"u"},
            {"id":"u-gz"},
            {"id":"u-9"},
            {"id":"e"},
            {"id":"__proto__","cart_total":999},
            {"id":"u-77"},
            {"id":"cart_total_unknown_user"},
            {"id":"u-50","address":{"city":"X"},"address.city":"Y"},
            {"id":"u-51"}],
            "total":15}"#,
        reason: "people are listed as they were first seen, whoever tracks is a person, \
            __proto__ is a name like any other, and a trait named id does not hide the user's id",
    },
];
