//! A volume that is full: nothing is acknowledged that is not stored, and all goes on once there
//! is room again.
//!
//! The volume is a tmpfs that the test mounts for its Postgres, which only root may. Where it may
//! not, the test says so; it fails where `CI` is set, so that nobody takes it for passed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::support::app::{Launch, Server};
use crate::support::journal::Load;
use crate::support::postgres::{guarded_folder, postgres_server_in};
use crate::support::{Client, eventually, is_soak, pause, switch};

/// Room for a small cluster, its write-ahead log and some thousands of events.
const VOLUME_BYTES: u64 = 256 << 20;
/// How much is left free when the volume is filled up.
const LEFT_BYTES: u64 = 2 << 20;
const LONG: Duration = Duration::from_secs(120);

/// A mounted tmpfs. The folder's watchdog unmounts it.
struct Volume(PathBuf);

impl Volume {
    fn mount(folder: &Path) -> Result<Self, String> {
        fs::create_dir(folder).unwrap();
        let options = format!("size={VOLUME_BYTES},mode=0711");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "beckon-test"])
            .arg(folder)
            .output();
        match mount {
            Ok(output) if output.status.success() => Ok(Self(folder.to_owned())),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn free_bytes(&self) -> u64 {
        let figures = statvfs(&self.0).unwrap();
        figures.f_bavail * figures.f_frsize
    }

    /// Takes nearly all that is left. Postgres writes meanwhile and may be faster.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let file = File::create(&ballast).unwrap();
        loop {
            let size = self.free_bytes().saturating_sub(LEFT_BYTES);
            match fallocate(&file, FallocateFlags::empty(), 0, size.max(1)) {
                Err(Errno::NOSPC) => {}
                taken => break taken.unwrap(),
            }
        }
        ballast
    }
}

#[test]
fn a_full_volume_costs_no_acknowledged_event() {
    let (folder, watchdog) = guarded_folder();
    fs::set_permissions(&folder, Permissions::from_mode(0o711)).unwrap();
    let volume = match Volume::mount(&folder.join("volume")) {
        Ok(volume) => volume,
        Err(reason) => {
            let said = format!("NOT TESTED: no volume could be mounted (root may): {reason}");
            assert!(switch("CI").is_none(), "{said}");
            eprintln!("{said}");
            return;
        }
    };
    let wal = [("max_wal_size", "64MB"), ("min_wal_size", "32MB")];
    let mut postgres = postgres_server_in(&volume.0, watchdog, &wal);
    let server = Server::start(&Launch::new(&postgres.url()));
    server.wait_until_ready();
    let load = Load::mixed(server.base(), 32, "full");
    for round in 0..if is_soak() { 5 } else { 1 } {
        load.wait_for(300, LONG);
        let ballast = volume.fill();
        eventually("the volume is full", LONG, || {
            let before = load.acknowledged();
            pause(Duration::from_millis(500));
            (load.acknowledged() == before).then_some(())
        });
        println!("round {round}: full after {} calls", load.acknowledged());
        // It is told as what it is: the server lives, and cannot store.
        let nobody = Client::new(server.base());
        assert_eq!(nobody.get("/livez").status, 200);
        pause(Duration::from_secs(2));
        fs::remove_file(&ballast).unwrap();
        // A Postgres that found no room for its log has stopped itself.
        if !postgres.is_running() {
            println!("round {round}: Postgres had stopped");
            postgres.start_again();
        }
        load.wait_for(300, LONG);
    }
    let journal = load.end();
    journal.check_refusals();
    assert!(journal.refused.contains_key(&503), "{:?}", journal.refused);
    journal.check_with_metrics(&mut postgres.connect(), "full", server.base());
}
