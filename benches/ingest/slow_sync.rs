//! A Postgres whose every `fdatasync` takes a millisecond longer.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use beckon::embedded_pg::find_binaries;

use crate::report::{self, Outcome};

/// Makes a folder of Postgres's binaries in which `postgres` starts the real one with the shim
/// preloaded. It lies where every account can read it.
pub fn binaries() -> Outcome<PathBuf> {
    let target = report::folder()?;
    let target = target.parent().ok_or("no target folder")?;
    let shim = target.join("release/examples/libslow_sync.so");
    if !shim.is_file() {
        return Err("first: cargo build --release --example slow_sync".into());
    }
    let folder = std::env::temp_dir().join("beckon-bench-slow-sync");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    let open_to_all = |path: &PathBuf| {
        let rights = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, rights)
    };
    open_to_all(&folder)?;
    let copy = folder.join("libslow_sync.so");
    std::fs::copy(shim, &copy)?;
    open_to_all(&copy)?;
    let real = find_binaries()?.bin_dir;
    symlink(real.join("initdb"), folder.join("initdb"))?;
    let wrapper = folder.join("postgres");
    let text = format!(
        "#!/bin/sh\nLD_PRELOAD={} exec {} \"$@\"\n",
        copy.display(),
        real.join("postgres").display()
    );
    std::fs::write(&wrapper, text)?;
    open_to_all(&wrapper)?;
    Ok(folder)
}
