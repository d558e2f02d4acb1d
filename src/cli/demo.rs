//! `beckon demo`: a server with everything it needs to be tried.

use std::net::SocketAddr;

use diesel::sql_types::{BigInt, Bool};
use diesel::{Connection, PgConnection, RunQueryDsl, sql_query};

use crate::config::{Config, Mode};
use crate::http::auth::{Scope, Secret};
use crate::model::ProjectId;
use crate::transfer;

use super::database::{Database, data_folder};
use super::prepare::{Unprepared, prepare};
use super::serve::{Listeners, Server};
use super::signals::{Signals, Told};
use super::{Failure, Outcome, keys, output};

/// The sample campaigns, segments, users, events and flags, as the seed would write them.
const SAMPLES: &[u8] = include_bytes!("samples.json");

/// A key as the greeting shows it.
enum Shown {
    /// Set by the operator or made just now.
    Known(String),
    /// Made at an earlier start; only its hash is left.
    Forgotten,
}

pub(super) fn demo(config: &Config) -> Outcome {
    let signals = Signals::listen(Told::Server)?;
    let listeners = Listeners::bind(config)?;
    let data_dir = data_folder(config);
    let database = Database::start_private(&data_dir, &signals)?;
    let mut connection = prepare(config, &database.url).map_err(|unprepared| match unprepared {
        Unprepared::NotYet(reason) => Failure::new(reason),
        Unprepared::Never(failure) => failure,
    })?;
    let project = keys::find_project(&mut connection, "default")?;
    load_samples(&mut connection, project)?;
    let admin = demo_key(&mut connection, project, Scope::Admin, &config.admin_key)?;
    let client = demo_key(&mut connection, project, Scope::Client, &config.client_key)?;
    let data_dir = data_dir.display().to_string();
    let server = Server {
        config,
        signals,
        database,
        listeners,
        mode: Mode::Demo,
    };
    server.run(Some(connection), |address| {
        greet(address, &data_dir, &admin, &client);
    })
}

/// Loads the samples once. What the user changes or takes out stays as the user left it.
fn load_samples(connection: &mut PgConnection, project: ProjectId) -> Result<(), Failure> {
    let file = transfer::built_in("samples.json", SAMPLES)?;
    if transfer::was_imported(connection, project, &file)? {
        return Ok(());
    }
    let mode = transfer::Mode::Import;
    let report = transfer::import(connection, project, &file, mode, &mut |_, _| {})?;
    if report.verified() {
        Ok(())
    } else {
        Err(Failure::new("the samples could not be loaded"))
    }
}

/// The operator's key, or one that is made at the first start.
fn demo_key(
    connection: &mut PgConnection,
    project: ProjectId,
    scope: Scope,
    chosen: &Option<String>,
) -> Result<Shown, Failure> {
    if let Some(key) = chosen {
        return Ok(Shown::Known(key.clone()));
    }
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        yes: bool,
    }
    let name = format!("demo {}", scope.as_str());
    let exists = sql_query(
        "SELECT EXISTS (SELECT FROM api_keys WHERE project_id = $1 AND name = $2 \
         AND revoked_at IS NULL) AS yes",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<diesel::sql_types::Text, _>(&name)
    .get_result::<Row>(connection)?;
    if exists.yes {
        return Ok(Shown::Forgotten);
    }
    let secret = Secret::generate(scope)?;
    connection
        .transaction(|connection| keys::insert(connection, project, scope, &name, &secret, None))?;
    Ok(Shown::Known(secret.reveal().to_owned()))
}

/// Prints what to try. A key that is no longer known stands as a variable of the shell.
fn greet(address: SocketAddr, data_dir: &str, admin: &Shown, client: &Shown) {
    let host = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let base = format!("http://{host}");
    let mut admin_key = "$ADMIN_KEY";
    let mut client_key = "$CLIENT_KEY";
    output::line("");
    match (admin, client) {
        (Shown::Known(admin), Shown::Known(client)) => {
            (admin_key, client_key) = (admin, client);
            output::line("Keys of the project `default`, shown this once:");
            output::line(format_args!("  admin   {admin}"));
            output::line(format_args!("  client  {client}"));
        }
        _ => {
            output::line("The keys were shown at the first start. For new ones, in this shell:");
            for (name, scope) in [("ADMIN_KEY", "admin"), ("CLIENT_KEY", "client")] {
                output::line(format_args!(
                    "  {name}=$(beckon keys create --scope {scope} --data-dir '{data_dir}')"
                ));
            }
        }
    }
    output::line(format_args!(
        "
Ada has the plan `pro`, so this event answers with a campaign:
  curl -s {base}/v1/track -H 'content-type: application/json' -H \"x-api-key: {client_key}\" \\
    -d '{{\"user_id\":\"ada\",\"event\":\"checkout_started\",\"properties\":{{\"total\":80}}}}'

Tell who somebody is:
  curl -s {base}/v1/identify -H 'content-type: application/json' -H \"x-api-key: {client_key}\" \\
    -d '{{\"user_id\":\"linus\",\"traits\":{{\"plan\":\"free\"}}}}'

Create a campaign, and see it in the very next answer:
  curl -s {base}/v1/admin/campaigns -H 'content-type: application/json' -H \"x-api-key: {admin_key}\" \\
    -d '{{\"name\":\"Hello\",\"status\":\"active\",\"trigger\":\"app_opened\",\"rules\":[]}}'
  curl -s {base}/v1/track -H 'content-type: application/json' -H \"x-api-key: {client_key}\" \\
    -d '{{\"user_id\":\"linus\",\"event\":\"app_opened\"}}'

See what was stored:
  curl -s '{base}/v1/admin/events?limit=5' -H \"x-api-key: {admin_key}\"

Every route: {base}/docs        Stop with Ctrl-C; the data stays in {data_dir}."
    ));
}
