//! The settings, as the command line shows and checks them.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs `beckon` without settings of this process's environment, in a folder without a file.
fn beckon(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_beckon"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("BECKON_") || text == "DATABASE_URL" {
            command.env_remove(&name);
        }
    }
    let output = command
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn bad_settings_are_all_named_and_the_exit_code_is_two() {
    let environment = [("BECKON_LISTEN", "nowhere"), ("BECKON_ADMIN_KEY", "short")];
    for arguments in [&["config", "check"][..], &["serve"][..]] {
        let (code, out, err) = beckon(arguments, &environment);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(
            err.contains("BECKON_LISTEN") && err.contains("BECKON_ADMIN_KEY"),
            "{err}"
        );
    }
    let (code, out, _) = beckon(&["config", "check"], &[]);
    assert_eq!((code, out.as_str()), (Some(0), "the settings are good\n"));
}

#[test]
fn a_file_that_is_named_must_be_there_and_hold_only_settings() {
    let (code, _, err) = beckon(&["config", "check", "--config", "absent.toml"], &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("absent.toml"), "{err}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("beckon.toml");
    std::fs::write(&path, "pool_size = 3\nlisten_on = \"x\"\n").unwrap();
    let path = path.to_str().unwrap();
    let (code, _, err) = beckon(&["config", "check"], &[("BECKON_CONFIG", path)]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("beckon.toml:2: there is no setting named listen_on"),
        "{err}"
    );
}

#[test]
fn show_tells_where_values_come_from_and_keeps_secrets() {
    let environment = [
        ("BECKON_ADMIN_KEY", "hunter2hunter2hunter2"),
        ("DATABASE_URL", "postgres://me:hunter2@h/d"),
        ("BECKON_POOL_SIZE", "3"),
    ];
    let arguments = ["config", "show", "--json", "--pool-size", "4"];
    let (code, out, err) = beckon(&arguments, &environment);
    assert_eq!(code, Some(0), "{err}");
    assert!(!out.contains("hunter2") && !err.contains("hunter2"));
    let shown: Vec<Value> = serde_json::from_str(&out).unwrap();
    let pool = shown
        .iter()
        .find(|setting| setting["name"] == "pool_size")
        .unwrap();
    assert_eq!(
        (&pool["value"], &pool["origin"]),
        (&"4".into(), &"flag --pool-size".into())
    );
}

/// Otherwise the server would start with an empty Postgres of its own.
#[test]
fn a_database_url_that_is_no_text_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_beckon"))
        .args(["config", "check"])
        .env_clear()
        .env(
            "DATABASE_URL",
            std::ffi::OsStr::from_bytes(b"postgres://me:caf\xe9@h/d"),
        )
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("DATABASE_URL is not UTF-8"), "{said}");
}

#[test]
fn a_log_that_cannot_be_written_changes_nothing() {
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let run = |errors: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_beckon"))
            .args(["ledger", "--data-dir", "/nonexistent/x"])
            .env_clear()
            .env("BECKON_LISTN", "a warning")
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(errors)
            .output()
            .unwrap()
    };
    let usual = run(Stdio::piped());
    let said = String::from_utf8_lossy(&usual.stderr);
    assert!(said.contains("did you mean BECKON_LISTEN"), "{said}");
    assert_eq!(usual.status.code(), Some(1), "{said}");
    assert_eq!(run(full().into()).status, usual.status);
}

#[test]
fn the_example_file_is_accepted_as_it_is() {
    let (_, example, _) = beckon(&["config", "example"], &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("beckon.toml");
    std::fs::write(&path, &example).unwrap();
    let (code, _, err) = beckon(
        &["config", "check", "--config", path.to_str().unwrap()],
        &[],
    );
    assert_eq!(code, Some(0), "{err}");
    // Every setting is in the server's help, too.
    let (_, help, _) = beckon(&["serve", "--help"], &[]);
    for variable in beckon::config::VARIABLES {
        assert!(
            help.contains(&format!("--{}", variable.flag())),
            "{}",
            variable.name
        );
        assert!(help.contains(&variable.env()), "{}", variable.name);
        assert!(example.contains(&variable.env()), "{}", variable.name);
    }
}
