//! The log: three formats, and no line of it ever delays the election.

use crate::clock;
use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};
use tracing::{Event, Level, Subscriber, field::Field, field::Visit};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer, layer,
        writer::MakeWriterExt,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// The message alone; warnings and errors on stderr, with their level
    Plain,
    /// Time, level, message and fields
    Text,
    /// One JSON object a line
    Json,
}

impl Format {
    /// The line that stands for lines that were lost.
    fn lost(self, lines: usize) -> String {
        let message = format!("{lines} lines of this log were lost: its reader is too slow.");
        match self {
            Self::Plain | Self::Text => format!("WARN {message}"),
            Self::Json => serde_json::json!({ "level": "WARN", "message": message }).to_string(),
        }
    }
}

/// How many lines wait for a slow reader before lines are lost.
const QUEUE: usize = 2048;

/// The running log.
pub(super) struct Log {
    ended: Vec<Receiver<()>>,
    lines: Vec<Lines>,
}

/// Starts the log. All of it goes to standard error where standard output is another's.
pub(super) fn start(format: Format, filter: Targets, stdout_is_ours: bool) -> Log {
    let (err, err_ended) = Lines::start(io::stderr(), format);
    let (out, out_ended) = if stdout_is_ours {
        Lines::start(io::stdout(), format)
    } else {
        (err.clone(), channel().1)
    };
    let lines = vec![out.clone(), err.clone()];
    let registry = tracing_subscriber::registry();
    match format {
        Format::Plain => {
            let writer = err.with_max_level(Level::WARN).or_else(out);
            let layer = layer().event_format(Plain).with_writer(writer);
            registry.with(layer.with_filter(filter)).init();
        }
        Format::Text => {
            let layer = layer().with_ansi(false).with_target(false).with_writer(out);
            registry.with(layer.with_filter(filter)).init();
        }
        Format::Json => {
            let layer = layer()
                .json()
                .flatten_event(true)
                .with_target(false)
                .with_writer(out);
            registry.with(layer.with_filter(filter)).init();
        }
    }
    Log {
        ended: vec![out_ended, err_ended],
        lines,
    }
}

impl Log {
    /// Lets the last lines be written, but waits no longer than that for a slow reader.
    pub fn finish(self, patience: Duration) {
        for lines in &self.lines {
            // A full queue is not waited for: its thread is stuck, and the program ends without.
            let _ = lines.queue.try_send(None);
        }
        let until = clock::now() + patience;
        for ended in &self.ended {
            // Both outcomes, the end and the time-out, are what was waited for.
            let _ = ended.recv_timeout(until.since(clock::now()));
        }
    }
}

/// A queue of lines with a thread that writes them.
///
/// A full queue loses lines, and says how many once it has room again.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Option<Vec<u8>>>,
    lost: Arc<AtomicUsize>,
}

impl Lines {
    fn start(mut output: impl Write + Send + 'static, format: Format) -> (Self, Receiver<()>) {
        let (queue, queued) = sync_channel::<Option<Vec<u8>>>(QUEUE);
        let lost = Arc::new(AtomicUsize::new(0));
        let lost_before = Arc::clone(&lost);
        let (end, ended) = channel();
        thread::spawn(move || {
            // Dropped at the end, which is what `ended` waits for.
            let _end = end;
            while let Ok(Some(line)) = queued.recv() {
                // A reader that is gone is no reason to stop anything.
                let _ = output.write_all(&line).and_then(|()| output.flush());
                let lost = lost_before.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(output, "{}", format.lost(lost));
                }
            }
        });
        (Self { queue, lost }, ended)
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Some(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

/// The message alone, after its level where that is a warning or an error.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if level <= Level::WARN {
            write!(writer, "{level} ")?;
        }
        let mut message = Message {
            writer,
            result: Ok(()),
        };
        event.record(&mut message);
        message.result?;
        writeln!(message.writer)
    }
}

struct Message<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.result = write!(self.writer, "{value:?}");
        }
    }
}
