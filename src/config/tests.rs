#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, Utc};
use cron::Schedule;
use proptest::prelude::*;

use super::*;

fn sources(environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        file: None,
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..Sources::default()
    }
}

fn check(environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    sources(environment, &[])
        .read()
        .unwrap()
        .check(Mode::Normal)
}

fn errors(environment: &[(&str, &str)]) -> String {
    check(environment).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_good_and_every_variable_is_read() {
    let config = check(&[]).unwrap();
    assert_eq!(config.listen, "127.0.0.1:8080");
    assert_eq!(config.limit_event_bytes, 1 << 20);
    let source = include_str!("mod.rs");
    for variable in VARIABLES {
        let quoted = format!("\"{}\"", variable.name);
        assert!(
            source.contains(&quoted),
            "{quoted} is documented but never read"
        );
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file_and_that_over_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.toml");
    std::fs::write(
        &path,
        "# a comment\npool_size = 3\npartitions_ahead_days = 9\nlog = \"warn\"\n",
    )
    .unwrap();
    let mut sources = sources(
        &[
            ("BECKON_POOL_SIZE", "4"),
            ("BECKON_PARTITIONS_AHEAD_DAYS", "10"),
        ],
        &[("pool_size", "5")],
    );
    sources.file = Some(path.clone());
    let settings = sources.read().unwrap();
    let config = settings.check(Mode::Normal).unwrap();
    assert_eq!(config.pool_size, 5);
    assert_eq!(config.partitions_ahead_days, 10);
    assert_eq!(config.log, "warn");
    assert_eq!(config.dedupe_window_days, 7);
    let origin = |name| {
        let shown = settings.redacted();
        shown.into_iter().find(|s| s.name == name).unwrap().origin
    };
    assert_eq!(origin("pool_size"), "flag --pool-size");
    assert_eq!(origin("log"), format!("{}:4", path.display()));
    assert_eq!(origin("dedupe_window_days"), "default");
}

#[test]
fn every_error_is_reported_at_once_and_names_variable_and_place() {
    let text = errors(&[
        ("BECKON_LISTEN", "nowhere"),
        ("BECKON_POOL_SIZE", "0"),
        ("BECKON_LIMIT_EVENT_BYTES", "12 parsecs"),
        ("BECKON_ADMIN_KEY", "short"),
        ("BECKON_LOG", "a=b=c=d"),
        ("BECKON_RETENTION_SCHEDULE", "at noon"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
    ]);
    assert_eq!(text.lines().count(), 7, "{text}");
    for part in [
        "listen (environment variable BECKON_LISTEN): `nowhere` is not HOST:PORT",
        "pool_size (environment variable BECKON_POOL_SIZE): 0 is out of range: 1 to 200",
        "at least 16 characters",
        "`at noon` is no schedule",
        "DATABASE_URL",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(
        !text.contains("hunter2") && !text.contains("short\n"),
        "{text}"
    );
}

#[test]
fn a_key_of_the_file_that_is_no_setting_is_refused_with_its_line() {
    let refused = file::parse("log = \"info\"\n\npoolsize = 3\n[limits]\nx = 1\n").unwrap_err();
    let expected = vec![
        (
            3,
            "there is no setting named poolsize (did you mean pool_size?)".to_owned(),
        ),
        (4, "there is no setting named limits".to_owned()),
    ];
    assert_eq!(refused, expected);
    let broken = file::parse("log = \"info\"\nlisten 3\n").unwrap_err();
    assert_eq!(broken.first().unwrap().0, 2);
}

#[test]
fn a_variable_that_is_no_setting_is_a_warning_unless_kubernetes_set_it() {
    let settings = sources(
        &[
            ("BECKON_LISTN", "x"),
            ("BECKON_PORT", "tcp://10.0.0.1:8080"),
            ("BECKON_PORT_8080_TCP", "x"),
            ("BECKON_SERVICE_HOST", "x"),
            ("HOME", "x"),
        ],
        &[],
    )
    .read()
    .unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "the environment variable BECKON_LISTN is no setting of Beckon (did you mean \
          BECKON_LISTEN?)"
        ]
    );
}

#[test]
fn a_port_that_kubernetes_would_not_set_is_a_warning() {
    for name in ["BECKON_PORT", "BECKON_PORTS"] {
        let settings = sources(&[(name, "9000")], &[]).read().unwrap();
        let mut warnings = settings.warnings().iter();
        assert!(warnings.any(|text| text.contains(name)), "{name}");
    }
}

#[test]
fn a_setting_whose_value_is_no_text_is_an_error() {
    for name in ["DATABASE_URL", "BECKON_ADMIN_KEY", "BECKON_LISTN"] {
        let mut sources = sources(&[], &[]);
        sources.unreadable = vec!["LS_COLORS".to_owned(), name.to_owned()];
        let refused = sources.read().unwrap_err().to_string();
        let expected = format!("the value of the environment variable {name} is not UTF-8");
        assert_eq!(refused, expected);
    }
    let mut sources = sources(&[], &[]);
    sources.unreadable = vec!["LS_COLORS".to_owned()];
    assert!(sources.read().is_ok());
}

#[test]
fn numbers_of_the_file_are_read_as_toml_means_them() {
    for (text, expected) in [
        ("0x10", "16"),
        ("0o17", "15"),
        ("0b101", "5"),
        ("0xFF_FF", "65535"),
        ("1_000", "1000"),
        ("-3", "-3"),
    ] {
        let read = file::parse(&format!("pool_size = {text}\n")).unwrap();
        assert_eq!(read, [("pool_size", expected.to_owned(), 1)]);
    }
    assert!(file::parse("pool_size = 0xFFFF_FFFF_FFFF_FFFF_F\n").is_err());
}

#[test]
fn the_demo_takes_short_keys_and_all_origins() {
    let settings = sources(
        &[("BECKON_ADMIN_KEY", "a"), ("BECKON_CLIENT_KEY", "b")],
        &[],
    )
    .read()
    .unwrap();
    assert!(settings.check(Mode::Normal).is_err());
    let config = settings.check(Mode::Demo).unwrap();
    assert_eq!(config.admin_key.as_deref(), Some("a"));
    assert_eq!(config.cors_origins, CorsOrigins::All);
    assert!(
        errors(&[
            ("BECKON_ADMIN_KEY", "0123456789abcdef"),
            ("BECKON_CLIENT_KEY", "0123456789abcdef"),
        ])
        .contains("the same key")
    );
}

#[test]
fn what_is_shown_holds_no_key_and_no_password() {
    let settings = sources(
        &[
            ("BECKON_ADMIN_KEY", "hunter2hunter2hunter2"),
            (
                "DATABASE_URL",
                "postgres://me:hunter2@h:5432/d?sslmode=require&password=hunter2",
            ),
        ],
        &[],
    )
    .read()
    .unwrap();
    let shown = format!("{:?} {settings:?}", settings.redacted());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        shown.contains("postgres://me:[redacted]@h:5432/d?sslmode=require"),
        "{shown}"
    );
}

#[test]
fn passwords_are_found_wherever_a_connection_string_keeps_them() {
    for (url, redacted) in [
        ("postgres://u@h/d", "postgres://u@h/d"),
        ("postgres://u:a@b@h/d", "postgres://u:[redacted]@h/d"),
        (
            "host=h password=secret dbname=d",
            "host=h password=[redacted] dbname=d",
        ),
        (r"password = 'a \' b' user=u", "password=[redacted] user=u"),
        (
            "postgresql:///d?host=/x&password=s",
            "postgresql:///d?host=/x&password=[redacted]",
        ),
        (
            "host=h sslpassword=s x=y",
            "host=h sslpassword=[redacted] x=y",
        ),
        ("passwordless=yes", "passwordless=yes"),
        (
            "postgres://me:hunt/er2@h:5432/d",
            "postgres://me:[redacted]@h:5432/d",
        ),
        ("postgres://me:hunt?er2@h/d", "postgres://me:[redacted]@h/d"),
        (
            "postgres://me:hunt?password=er2@h/d",
            "postgres://me:[redacted]?password=[redacted]",
        ),
        (
            "postgres://h/d?host=x:1&password=a@b&x=y",
            "postgres://h/d?host=x:1&password=[redacted]&x=y",
        ),
        (
            "postgres://u@h/d?password=a b&x=y",
            "postgres://u@h/d?password=[redacted]&x=y",
        ),
        (
            "postgres://h:5432/d?options=-cx",
            "postgres://h:5432/d?options=-cx",
        ),
        (
            "host=h password=abc&hunter2 dbname=d",
            "host=h password=[redacted] dbname=d",
        ),
        (
            r"host=h password=abc\ hunter2 dbname=d",
            "host=h password=[redacted] dbname=d",
        ),
        (
            "host=h password=abc\thost=x",
            "host=h password=[redacted]\thost=x",
        ),
        (
            "host=h password=a://b dbname=d",
            "host=h password=[redacted] dbname=d",
        ),
        (
            r"application_name='it\'s password=x' password=y",
            r"application_name='it\'s password=x' password=[redacted]",
        ),
        // A space that was not escaped: who knows where the password ends.
        (
            "host=h password=abc hunter2 dbname=d",
            "host=h password=[redacted] [redacted]",
        ),
        ("host=h password='abc hunter2", "host=h [redacted]"),
        ("hunter2", "[redacted]"),
    ] {
        assert_eq!(redact_url(url), redacted);
    }
}

#[test]
fn a_connection_string_that_libpq_would_misread_is_refused_without_a_word_of_it() {
    for url in [
        "postgres://me:hunt/er2@h:5432/d",
        "postgres://me:hunt?er2@h/d",
        "postgres://me:hunt@er2@h/d",
        "host=h password=abc hunter2",
        "host=h password='hunter2",
    ] {
        let refused = errors(&[("DATABASE_URL", url)]);
        assert!(!refused.contains("hunt"), "{refused}");
        assert!(!refused.contains("er2"), "{refused}");
    }
    for url in [
        "postgres://",
        "postgres:///d?host=/run/x&user=a@b",
        "postgres://me:p%40%2Fw@h1:5432,h2:/d@e",
        "postgres://me@[::1]:5432,[::2]/d",
        "host=h password='a b' dbname = d",
    ] {
        assert!(check(&[("DATABASE_URL", url)]).is_ok(), "{url}");
    }
}

#[test]
fn the_example_file_is_a_good_file_once_its_comments_are_taken_away() {
    let text: String = example_file()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let parsed = file::parse(&text).unwrap();
    assert_eq!(parsed.len(), VARIABLES.len());
    for (name, value, _) in parsed {
        let variable = VARIABLES.iter().find(|v| v.name == name).unwrap();
        assert_eq!(value, variable.default);
    }
}

#[test]
fn sizes_and_schedules_read_as_people_write_them() {
    let config = check(&[
        ("BECKON_LIMIT_BODY_BYTES", "16MiB"),
        ("BECKON_INGEST_QUEUE_EVENTS", "100_000"),
        ("BECKON_RETENTION_SCHEDULE", "30 4 * * *"),
        ("BECKON_LISTEN", "[::1]:0"),
        (
            "BECKON_CORS_ORIGINS",
            "https://A.example, http://localhost:3000",
        ),
    ])
    .unwrap();
    assert_eq!(config.limit_body_bytes, 16 << 20);
    assert_eq!(config.ingest_queue_events, 100_000);
    assert_eq!(config.retention_schedule, "0 30 4 * * *");
    let origins = ["https://a.example", "http://localhost:3000"].map(str::to_owned);
    assert_eq!(config.cors_origins, CorsOrigins::Listed(origins.to_vec()));
    assert!(errors(&[("BECKON_LIMIT_BODY_BYTES", "1KiB")]).contains("smaller than"));
}

#[test]
fn a_schedule_that_never_comes_is_refused() {
    let refusal = |text: &str| errors(&[("BECKON_RETENTION_SCHEDULE", text)]);
    assert!(refusal("0 0 30 2 *").contains("never comes"));
    for year in ["1970", "2020", "2020-2030", "*/4"] {
        let text = format!("0 17 3 * * * {year}");
        assert!(refusal(&text).contains("comes every year"), "{year}");
    }
    // Read across the spaces the last field would be the day of the week, numbered otherwise.
    for spaced in [
        "0 1, 2, 3 4 * * 1",
        "0 1 ,2 ,3 4 * * 1",
        "0 1- 5 / 2 4 * * 1",
    ] {
        assert!(refusal(spaced).contains("no spaces inside"), "{spaced}");
    }
    assert!(check(&[("BECKON_RETENTION_SCHEDULE", "0 17 3 * * * *")]).is_ok());
    assert!(check(&[("BECKON_RETENTION_SCHEDULE", "0 0 29 2 *")]).is_ok());
}

/// A field of a schedule, with a liking for edges.
fn cron_field() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        6 => (0_u32..70).prop_map(|number| number.to_string()),
        2 => prop::sample::select(vec!["1969", "1970", "2026", "2100", "2101", "99999999999"])
            .prop_map(str::to_owned),
        1 => "[A-Za-z]{2,4}",
        1 => prop::sample::select(vec!["Feb", "mon", "SAT", "L", "W", "-1", ""])
            .prop_map(str::to_owned),
    ];
    let number = number.boxed();
    let range = prop_oneof![
        3 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        3 => number.clone(),
        2 => (number.clone(), number.clone()).prop_map(|(low, high)| format!("{low}-{high}")),
    ];
    let step = prop_oneof![
        2 => range.clone(),
        1 => (range, number).prop_map(|(range, step)| format!("{range}/{step}")),
    ];
    prop::collection::vec(step, 1..3).prop_map(|list| list.join(","))
}

fn cron_text() -> impl Strategy<Value = String> {
    let fields = prop::collection::vec(cron_field(), 4..9);
    let plain = (0_u32..62, 0_u32..26, 0_u32..33, 0_u32..14, 0_u32..9)
        .prop_map(|(m, h, d, month, w)| format!("{m} {h} {d} {month} {w}"));
    prop_oneof![
        4 => fields.prop_map(|fields| fields.join(" ")),
        2 => plain,
        2 => "[0-9*/,? -]{0,24}",
        1 => prop::sample::select(vec!["@daily", "@yearly", "@", "@never", "@hourly x"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    /// What is taken for a schedule is one, and can be asked when it is due as the scheduler does.
    #[test]
    fn any_text_is_a_schedule_or_refused(text in cron_text(), seconds in 0_i64..4_000_000_000) {
        if let Ok(full) = parse::cron(&text) {
            prop_assert_eq!(parse::cron(&full), Ok(full.clone()));
            let schedule: Schedule = full.parse().unwrap();
            prop_assert_eq!(schedule.to_string(), full);
            let now: DateTime<Utc> = DateTime::from_timestamp(seconds, 0).unwrap();
            let (next, last) = (schedule.after(&now).next(), schedule.after(&now).next_back());
            for due in next.into_iter().chain(last) {
                prop_assert!(schedule.includes(due), "{} at {}", schedule, due);
            }
            prop_assert!(next.is_none_or(|next| next > now));
            prop_assert!(last.is_none_or(|last| last < now));
        }
    }
}

#[test]
fn days_of_the_week_are_numbered_as_cron_does() {
    use chrono::{DateTime, Datelike};
    // A Sunday, at midnight.
    let sunday = DateTime::from_timestamp(1_775_347_200, 0).unwrap();
    for (field, expected) in [
        ("0", &[0][..]),
        ("7", &[0]),
        ("1", &[1]),
        ("6", &[6]),
        ("1-5", &[1, 2, 3, 4, 5]),
        ("5-7", &[0, 5, 6]),
        ("0-7", &[0, 1, 2, 3, 4, 5, 6]),
        ("1,3,Sat", &[1, 3, 6]),
        ("1-6/2", &[1, 3, 5]),
        ("1/3", &[1, 4]),
        ("*/2", &[0, 2, 4, 6]),
        ("Mon-Wed", &[1, 2, 3]),
        ("Sun", &[0]),
        ("?", &[0, 1, 2, 3, 4, 5, 6]),
    ] {
        for text in [format!("0 12 * * {field}"), format!("0 0 12 * * {field}")] {
            let read = check(&[("BECKON_RETENTION_SCHEDULE", &text)]).unwrap();
            let schedule: cron::Schedule = read.retention_schedule.parse().unwrap();
            let week = schedule.after(&sunday).take(expected.len());
            let mut days: Vec<u32> = week.map(|t| t.weekday().num_days_from_sunday()).collect();
            days.sort_unstable();
            assert_eq!(days, expected, "{text} became {}", read.retention_schedule);
        }
    }
    for field in ["8", "1-8", "5-1", "1-5/0", "1-Fri", "1,", "1, 3", "-1", "x"] {
        let text = format!("0 0 12 * * {field}");
        let refused = errors(&[("BECKON_RETENTION_SCHEDULE", &text)]);
        assert!(refused.contains("is no schedule"), "{field}: {refused}");
    }
}
