//! The beckon binary; everything is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Much of what an event allocates is given back by another thread, which this allocator is made for.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    beckon::cli::run()
}
