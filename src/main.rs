//! The beckon binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    beckon::cli::run()
}
