//! The log: its three formats, and the queues that keep writing a line from delaying the election.

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

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// The message alone; warnings and errors go to stderr, with their level
    Plain,
    /// Time, level, message and fields
    Text,
    /// One JSON object per line
    Json,
}

impl Format {
    /// Returns the line that says how many lines were lost.
    fn lost(self, lines: usize) -> String {
        let message = format!("{lines} lines of this log were lost: its reader is too slow.");
        match self {
            Self::Plain | Self::Text => format!("WARN {message}\n"),
            Self::Json => {
                serde_json::json!({ "level": "WARN", "message": message }).to_string() + "\n"
            }
        }
    }
}

/// How long the log may take to write its last lines.
pub(super) const LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the log may take after a second signal to stop.
pub(super) const SHORT_LOG_TIMEOUT: Duration = Duration::from_millis(50);

/// How many lines wait for a slow reader before lines are lost.
const QUEUE_LENGTH: usize = 2048;

/// The running log.
pub(super) struct Log {
    writers: Vec<(LineQueue, Receiver<()>)>,
}

/// Starts the log. All of it goes to standard error if standard output is not ours.
pub(super) fn start(format: Format, filter: Targets, stdout_is_ours: bool) -> Log {
    let (err, err_ended) = LineQueue::start(io::stderr(), format);
    let mut writers = vec![(err.clone(), err_ended)];
    let out = if stdout_is_ours {
        let (out, out_ended) = LineQueue::start(io::stdout(), format);
        writers.push((out.clone(), out_ended));
        out
    } else {
        err.clone()
    };
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
    Log { writers }
}

/// Starts a log on standard error for lines that are already formatted.
pub(super) fn start_lines() -> (LineQueue, Log) {
    let (lines, ended) = LineQueue::start(io::stderr(), Format::Plain);
    let writers = vec![(lines.clone(), ended)];
    (lines, Log { writers })
}

impl Log {
    /// Waits until all lines are written, but no longer than `timeout` for a slow reader.
    pub fn finish(self, timeout: Duration) {
        for (lines, _) in &self.writers {
            // If the queue is full, its thread cannot be asked to end; the timeout covers that.
            let _ = lines.queue.try_send(Message::End);
        }
        let deadline = clock::now() + timeout;
        for (_, ended) in &self.writers {
            // Either the thread has ended, or the time is over.
            let _ = ended.recv_timeout(deadline.since(clock::now()));
        }
    }
}

/// A queue of lines, with a thread that writes them.
///
/// If it is full, lines are lost; how many is logged as soon as there is room again.
// Not tracing-appender: it never logs how many lines it lost, and its guard prints to standard
// output if the queue is full at the end, which hangs the exit if nobody reads there.
#[derive(Clone)]
pub(super) struct LineQueue {
    queue: SyncSender<Message>,
    lost: Arc<AtomicUsize>,
}

enum Message {
    Line(Vec<u8>),
    End,
}

impl LineQueue {
    /// Starts the thread. The receiver is disconnected when it has written all lines.
    fn start(mut output: impl Write + Send + 'static, format: Format) -> (Self, Receiver<()>) {
        let (queue, messages) = sync_channel(QUEUE_LENGTH);
        let lost = Arc::new(AtomicUsize::new(0));
        let lost_before = Arc::clone(&lost);
        let (end, ended) = channel();
        thread::spawn(move || {
            let _disconnects_at_the_end = end;
            while let Ok(Message::Line(line)) = messages.recv() {
                // An output that is closed or full must not stop the program.
                let _ = output.write_all(&line).and_then(|()| output.flush());
                let lost = lost_before.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = output.write_all(format.lost(lost).as_bytes());
                }
            }
        });
        (Self { queue, lost }, ended)
    }

    /// Queues a line, unless the queue is full.
    pub fn send(&self, line: &str) {
        self.push(format!("{line}\n").into_bytes());
    }

    fn push(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Write for &LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = &'a LineQueue;

    fn make_writer(&'a self) -> &'a LineQueue {
        self
    }
}

/// Formats an event as its message alone; a warning or an error has its level before it.
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
        let mut message = MessageVisitor {
            writer,
            result: Ok(()),
        };
        event.record(&mut message);
        message.result?;
        writeln!(message.writer)
    }
}

/// Writes the field `message` and no other.
struct MessageVisitor<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl Visit for MessageVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.result = write!(self.writer, "{value:?}");
        }
    }
}
