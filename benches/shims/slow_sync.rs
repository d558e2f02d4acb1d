//! A disk that takes a millisecond longer to be sure: preloaded into a Postgres of the benches, it
//! takes the place of the C library's `fdatasync` and `fsync`, which wait and then do what they did.
//!
//! The real calls are made without the C library, so they do not come back here.

#![expect(
    unsafe_code,
    reason = "symbols of the C library are replaced, and its error number is set"
)]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::time::Duration;

const EXTRA: Duration = Duration::from_millis(1);

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// `fdatasync(2)`, a millisecond later.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    slowly(fd, |fd| rustix::fs::fdatasync(fd))
}

/// `fsync(2)`, a millisecond later.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    slowly(fd, |fd| rustix::fs::fsync(fd))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process that waits for its disk"
)]
fn slowly(fd: c_int, call: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>) -> c_int {
    std::thread::sleep(EXTRA);
    if fd < 0 {
        return failed(rustix::io::Errno::BADF);
    }
    // SAFETY: the caller's descriptor is not closed by it while it waits for this call.
    match call(unsafe { BorrowedFd::borrow_raw(fd) }) {
        Ok(()) => 0,
        Err(error) => failed(error),
    }
}

fn failed(error: rustix::io::Errno) -> c_int {
    // SAFETY: the C library gives each thread a place for its error number.
    unsafe { *__errno_location() = error.raw_os_error() };
    -1
}
