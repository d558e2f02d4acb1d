//! Wall clocks that a test may set, of a PostgreSQL and of the server under test.
//!
//! A small library (`clock.c`) is loaded into the process and adds an offset to what the system
//! says. It is compiled with the C compiler that building needs anyway.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use beckon::embedded_pg::find_binaries;
use chrono::TimeDelta;

/// A clock of whoever was started with it. It shows the real time at first.
#[derive(Debug)]
pub struct TestClock {
    folder: PathBuf,
    offset: File,
}

impl TestClock {
    /// A clock whose files are in this folder.
    pub fn new(folder: &Path) -> Self {
        let source = folder.join("clock.c");
        fs::write(&source, include_str!("clock.c")).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library(folder), &source])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        let file = file(folder);
        fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        // PostgreSQL runs under another account when the tests are root's.
        for readable in [&file, &library(folder)] {
            fs::set_permissions(readable, Permissions::from_mode(0o755)).unwrap();
        }
        Self {
            folder: folder.to_owned(),
            offset: OpenOptions::new().write(true).open(&file).unwrap(),
        }
    }

    /// Sets it so far ahead of the real time (behind it, if negative), at once.
    pub fn shift(&self, ahead: TimeDelta) {
        let offset = ahead.num_milliseconds().to_ne_bytes();
        self.offset.write_all_at(&offset, 0).unwrap();
    }

    /// The variables that make a process read this clock.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", path(&library(&self.folder))),
            ("TEST_CLOCK", path(&file(&self.folder))),
        ]
    }

    /// A folder like that of PostgreSQL's binaries, whose server reads this clock.
    pub fn postgres_binaries(&self) -> PathBuf {
        let real = find_binaries().unwrap().bin_dir;
        let folder = self.folder.join("bin");
        fs::create_dir_all(&folder).unwrap();
        symlink(real.join("initdb"), folder.join("initdb")).unwrap();
        let [preload, clock] = self
            .variables()
            .map(|(name, value)| format!("{name}='{value}'"));
        let server = path(&real.join("postgres"));
        let script = format!("#!/bin/sh\n{preload} {clock} exec '{server}' \"$@\"\n");
        let program = folder.join("postgres");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        folder
    }
}

fn library(folder: &Path) -> PathBuf {
    folder.join("clock.so")
}

fn file(folder: &Path) -> PathBuf {
    folder.join("clock")
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
