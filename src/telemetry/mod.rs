//! Logs and metrics.
//!
//! Logs are one line an event, to standard error, as JSON or as text.
//!
//! Whatever a caller sent ends on its own line only in the middle of one: line ends and other
//! control characters are escaped, so nobody can forge a log line. Lines that any caller can cause are
//! bounded in number ([`Sparse`]).
//!
//! A line that cannot be written (a full disk, a terminal that is gone) is lost, and nothing else is.

pub mod metrics;
mod sparse;

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;
pub use sparse::Sparse;

/// Sends this process's logs to standard error from now on. A second call changes nothing.
pub fn start(filter: &str, format: LogFormat) {
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let filter = EnvFilter::builder().parse_lossy(with_quiet_framework(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would tell of a line that cannot be written by a line there, and panic.
        .log_internal_errors(false);
    // Starting twice happens in tests only, where the first one is as good.
    let _started = if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(OneLine(io::stderr))
            .try_init()
    } else {
        builder
            .with_ansi(false)
            .with_target(false)
            .with_writer(OneLine(io::stderr))
            .try_init()
    };
}

/// The web framework logs an error for each request that it cannot parse and each client that is
/// hung up on, so that anybody could fill the log. What the filter itself says of it stands.
fn with_quiet_framework(filter: &str) -> String {
    if filter.contains("actix_http") {
        filter.to_owned()
    } else {
        format!("{filter},actix_http::h1=off")
    }
}

/// Makes writers that keep each event on one line.
#[derive(Debug, Clone)]
struct OneLine<M>(M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = OneLineWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }
}

/// Writes a whole event, which ends with the one line end that stays.
struct OneLineWriter<W>(W);

impl<W: Write> Write for OneLineWriter<W> {
    /// The subscriber hands over each event in one call. Whoever logs is never told of a failure:
    /// what it does is worth more than the line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let body = event.strip_suffix(b"\n").unwrap_or(event);
        if !body.iter().any(u8::is_ascii_control) {
            let _line_lost = self.0.write_all(event);
            return Ok(event.len());
        }
        let mut line = Vec::with_capacity(event.len() + 16);
        for byte in body {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                b'\t' => line.push(b'\t'),
                other if other.is_ascii_control() => {
                    write!(line, "\\x{other:02x}")?;
                }
                other => line.push(*other),
            }
        }
        line.push(b'\n');
        let _line_lost = self.0.write_all(&line);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _line_lost = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_start_a_line_of_its_own() -> io::Result<()> {
        let mut out = Vec::new();
        let event = b"INFO name=x\r\nINFO forged\x1b[31m \xc3\xa4\n";
        let written = OneLineWriter(&mut out).write(event)?;
        assert_eq!(written, event.len());
        assert_eq!(out, b"INFO name=x\\r\\nINFO forged\\x1b[31m \xc3\xa4\n");
        Ok(())
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn whoever_logs_is_not_told_that_a_line_was_lost() -> io::Result<()> {
        for event in [&b"INFO plain\n"[..], b"INFO with\x1bescape\n"] {
            assert_eq!(OneLineWriter(Full).write(event)?, event.len());
        }
        OneLineWriter(Full).flush()
    }
}
