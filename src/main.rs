//! The beckon binary; everything is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// An event costs some fifty small allocations that end on another thread than they began on.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    beckon::cli::run()
}
