//! The servers that Beckon is compared with, each run as a process of its own by starting this
//! bench again with `--peer`.
//!
//! `bare` parses the body and answers: the limit of HTTP here. `group` is the group-commit
//! baseline: it parses, queues the rows to one of two writers, each of which commits whatever waits
//! in one statement, and answers after the commit. It has no auth, no validation, no state of
//! people, no matching, and its answer is short; it trusts that message ids are new. `naive` is in
//! a file of its own. `recorded` answers a fetch with what Beckon answered for the same person.
//!
//! Each has the allocator that Beckon has.

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use beckon::clock::Clock;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::feed::Person;
use crate::naive::{self, Naive};
use crate::report::{Outcome, line};
use crate::rows::{Row, Rows};
use crate::stage::learn_schema;

/// As many as Beckon's shards.
const WRITERS: usize = 2;
/// The most rows of one transaction, as Beckon's.
const BATCH_ROWS_MAX: usize = 2_500;
const ANSWER: &str = r#"{"ok":true,"success":true,"status":1}"#;

/// A track call, as far as the peers read it.
#[derive(Deserialize)]
pub struct Call<'a> {
    /// The application's id of the person.
    #[serde(rename = "userId")]
    pub user_id: &'a str,
    /// The event's name.
    pub event: &'a str,
    /// The caller's id of the call.
    #[serde(rename = "messageId")]
    pub message_id: &'a str,
    /// A JSON object.
    #[serde(borrow)]
    pub properties: &'a RawValue,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Call<'a>>,
}

struct Job {
    rows: Vec<Row>,
    reply: oneshot::Sender<()>,
}

struct Writers {
    queues: Vec<Sender<Job>>,
    next: AtomicUsize,
    clock: Clock,
}

/// Which peer a process is.
#[derive(Clone)]
enum Peer {
    Bare,
    Group(web::Data<Writers>),
    Naive(web::Data<Naive>),
    Recorded(web::Data<Vec<web::Bytes>>),
}

/// Serves until the standard input ends: `bare`, `group` or `naive` on the database at this URL, or
/// `recorded` with the answers of this file, a JSON array of texts.
pub fn serve(kind: &str, place: &str) -> Outcome<()> {
    let peer = match kind {
        "bare" => Peer::Bare,
        "group" => Peer::Group(web::Data::new(start_writers(place)?)),
        "naive" => Peer::Naive(web::Data::new(Naive::new(place)?)),
        "recorded" => {
            let answers: Vec<String> = serde_json::from_slice(&std::fs::read(place)?)?;
            let answers = answers.into_iter().map(web::Bytes::from).collect();
            Peer::Recorded(web::Data::new(answers))
        }
        _ => return Err(format!("there is no peer {kind:?}").into()),
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = HttpServer::new(move || {
        let app = App::new().app_data(web::PayloadConfig::new(16 << 20));
        match &peer {
            Peer::Bare => app
                .route("/v1/track", web::post().to(answer_track))
                .route("/v1/batch", web::post().to(answer_batch)),
            Peer::Naive(naive) => app
                .app_data(naive.clone())
                .route("/v1/track", web::post().to(naive::track)),
            Peer::Recorded(answers) => app
                .app_data(answers.clone())
                .route("/v1/campaigns", web::get().to(answer_fetch)),
            Peer::Group(writers) => app
                .app_data(writers.clone())
                .route("/v1/track", web::post().to(store_track))
                .route("/v1/batch", web::post().to(store_batch)),
        }
    })
    .listen(listener)?
    .disable_signals();
    actix_web::rt::System::new().block_on(async move {
        let server = server.run();
        let handle = server.handle();
        std::thread::spawn(move || {
            let _ended = std::io::stdin().read_to_end(&mut Vec::new());
            drop(handle.stop(false));
        });
        line(format_args!("listening on http://{address}"));
        server.await
    })?;
    Ok(())
}

async fn answer_track(body: web::Bytes) -> HttpResponse {
    match serde_json::from_slice::<Call<'_>>(&body) {
        Ok(call) => done(std::hint::black_box(call).event.len()),
        Err(error) => refused(&error),
    }
}

async fn answer_batch(body: web::Bytes) -> HttpResponse {
    match serde_json::from_slice::<Batch<'_>>(&body) {
        Ok(batch) => done(std::hint::black_box(batch).batch.len()),
        Err(error) => refused(&error),
    }
}

async fn answer_fetch(request: HttpRequest, answers: web::Data<Vec<web::Bytes>>) -> HttpResponse {
    let user_id = request.query_string().strip_prefix("user_id=");
    let person = user_id.and_then(Person::of_user_id);
    match person.and_then(|person| answers.get(person.number as usize)) {
        Some(answer) => HttpResponse::Ok()
            .content_type("application/json")
            .body(answer.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

async fn store_track(body: web::Bytes, writers: web::Data<Writers>) -> HttpResponse {
    match serde_json::from_slice::<Call<'_>>(&body) {
        Ok(call) => writers.store(&[call]).await,
        Err(error) => refused(&error),
    }
}

async fn store_batch(body: web::Bytes, writers: web::Data<Writers>) -> HttpResponse {
    match serde_json::from_slice::<Batch<'_>>(&body) {
        Ok(batch) => writers.store(&batch.batch).await,
        Err(error) => refused(&error),
    }
}

fn done(_parsed: usize) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(ANSWER)
}

fn refused(error: &serde_json::Error) -> HttpResponse {
    HttpResponse::BadRequest().body(error.to_string())
}

impl Writers {
    async fn store(&self, calls: &[Call<'_>]) -> HttpResponse {
        let at = self.clock.now();
        let rows: Option<Vec<Row>> = calls
            .iter()
            .map(|call| {
                Some(Row {
                    person: Person::of_user_id(call.user_id)?,
                    name: call.event.to_owned(),
                    message_id: call.message_id.to_owned(),
                    properties: call.properties.get().to_owned(),
                    at,
                })
            })
            .collect();
        let Some(rows) = rows else {
            return HttpResponse::BadRequest().body("a user id that the bench did not make");
        };
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        let (reply, committed) = oneshot::channel();
        let sent = self
            .queues
            .get(place)
            .map(|queue| queue.send(Job { rows, reply }));
        if !matches!(sent, Some(Ok(()))) || committed.await.is_err() {
            return HttpResponse::ServiceUnavailable().body("the writer failed");
        }
        done(calls.len())
    }
}

fn start_writers(url: &str) -> Outcome<Writers> {
    let mut queues = Vec::new();
    for _ in 0..WRITERS {
        let mut connection = beckon::store::connect(url)?;
        learn_schema(&mut connection)?;
        let (queue, jobs) = channel();
        std::thread::spawn(move || write(connection, &jobs));
        queues.push(queue);
    }
    Ok(Writers {
        queues,
        next: AtomicUsize::new(0),
        clock: Clock::system(),
    })
}

/// Commits what waits. After a failure it ends, and every call is answered 503.
fn write(mut connection: diesel::PgConnection, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let (mut rows, mut replies) = (first.rows, vec![first.reply]);
        while rows.len() < BATCH_ROWS_MAX {
            let Ok(mut job) = jobs.try_recv() else { break };
            rows.append(&mut job.rows);
            replies.push(job.reply);
        }
        let committed = Rows::of(rows).and_then(|rows| Ok(rows.commit(&mut connection)?));
        if let Err(error) = committed {
            line(format_args!("a writer failed: {error}"));
            return;
        }
        for reply in replies {
            let _gone = reply.send(());
        }
    }
}
