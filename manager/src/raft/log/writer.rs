//! Who writes the log: a thread of its own, so that a sync never stops the raft loop; or, in simulations,
//! the caller itself, so that every run is the same.
//!
//! Whatever has queued up during one sync goes into the next write: that is the group commit.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use skep_proto::v1;
use tokio::sync::mpsc::UnboundedSender;

use super::{Log, LogError, Record};

/// How much one write takes in at most, so that the first in line is not kept waiting by the last.
const WRITE_LIMIT: usize = 4 << 20;
/// How long to wait before trying a full disk again.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// One step of the raft loop's persistence, done in order.
#[derive(Default)]
pub(crate) struct Job {
    /// Reported back when this job and all before it are done.
    pub number: u64,
    /// A snapshot from the leader, made durable before the records.
    pub install: Option<v1::RaftSnapshot>,
    /// What to append.
    pub records: Vec<Record>,
    /// Whether the records must be durable before the report.
    pub sync: bool,
    /// A durable snapshot's index: older segments and snapshots go.
    pub compact: Option<u64>,
    /// How many of those snapshots stay.
    pub keep: u64,
}

impl Job {
    fn bytes(&self) -> usize {
        self.records
            .iter()
            .map(|record| match record {
                Record::Entry(entry) => entry.data.len() + 64,
                _ => 64,
            })
            .sum()
    }

    fn merges(&self) -> bool {
        self.install.is_none() && self.compact.is_none()
    }
}

/// What the writer has to say.
#[derive(Debug)]
pub(crate) enum Report {
    /// All jobs up to this number are done.
    Persisted(u64),
    /// The disk is full; the jobs wait and are tried again.
    Full,
    /// The disk took writes again.
    Resumed,
    /// The log cannot be written any more.
    Failed(String),
}

struct Worker {
    log: Log,
    queue: VecDeque<Job>,
    reports: UnboundedSender<Report>,
    full: bool,
    failed: bool,
}

impl Worker {
    fn report(&self, report: Report) {
        // Nobody listens once the node has stopped.
        let _ = self.reports.send(report);
    }

    /// Does what is queued, until it is done or the disk refuses.
    fn run(&mut self) {
        while !self.failed && !self.queue.is_empty() {
            let mut count = 1;
            let result = if self.queue[0].merges() {
                let mut bytes = 0;
                count = 0;
                while let Some(job) = self.queue.get(count).filter(|job| job.merges() && bytes < WRITE_LIMIT)
                {
                    bytes += job.bytes();
                    count += 1;
                }
                self.append(count)
            } else {
                self.exceptional()
            };
            match result {
                Ok(()) => {
                    let done = self.queue.drain(..count).next_back().map_or(0, |job| job.number);
                    if std::mem::take(&mut self.full) {
                        self.report(Report::Resumed);
                    }
                    self.report(Report::Persisted(done));
                }
                Err(LogError::DiskFull { .. }) => {
                    if !std::mem::replace(&mut self.full, true) {
                        self.report(Report::Full);
                    }
                    return;
                }
                Err(error) => {
                    self.failed = true;
                    self.report(Report::Failed(error.to_string()));
                }
            }
        }
    }

    /// One write, and one sync, for the first `count` jobs.
    fn append(&mut self, count: usize) -> Result<(), LogError> {
        let sync = self.queue.iter().take(count).any(|job| job.sync);
        if count == 1 {
            return self.log.append(&self.queue[0].records, sync);
        }
        let records: Vec<Record> =
            self.queue.iter().take(count).flat_map(|job| job.records.clone()).collect();
        self.log.append(&records, sync)
    }

    fn exceptional(&mut self) -> Result<(), LogError> {
        let job = &self.queue[0];
        let snapshots = self.log.snapshots();
        if let Some(snapshot) = &job.install {
            snapshots.write(snapshot)?;
        }
        if !job.records.is_empty() {
            self.log.append(&job.records, job.sync)?;
        }
        if let Some(index) = job.compact {
            snapshots.remove_before(index, job.keep)?;
            self.log.compact(index)?;
        }
        Ok(())
    }
}

/// Hands jobs to whoever writes.
pub(crate) enum Writer {
    /// A thread; dropping the sender ends it once its queue is done.
    Thread(Sender<Job>, thread::JoinHandle<()>),
    /// The caller.
    Inline(Box<InlineWriter>),
}

/// A writer that works in the caller.
pub(crate) struct InlineWriter(Worker);

impl Writer {
    /// Starts writing `log`, in a thread or inline.
    pub(crate) fn start(log: Log, inline: bool, reports: UnboundedSender<Report>) -> std::io::Result<Self> {
        let worker = Worker { log, queue: VecDeque::new(), reports, full: false, failed: false };
        if inline {
            return Ok(Self::Inline(Box::new(InlineWriter(worker))));
        }
        let (sender, receiver) = channel();
        let handle =
            thread::Builder::new().name("raft-log".into()).spawn(move || serve(worker, &receiver))?;
        Ok(Self::Thread(sender, handle))
    }

    /// Queues a job. Reports come in order.
    pub(crate) fn submit(&mut self, job: Job) {
        match self {
            // The thread only ends before its sender when the log has failed, which it has reported.
            Self::Thread(sender, _) => drop(sender.send(job)),
            Self::Inline(writer) => {
                writer.0.queue.push_back(job);
                writer.0.run();
            }
        }
    }

    /// Ends the writing; the thread, if there is one, is done with the files when it is joined.
    pub(crate) fn close(self) -> Option<thread::JoinHandle<()>> {
        match self {
            Self::Thread(_, handle) => Some(handle),
            Self::Inline(_) => None,
        }
    }

    /// Lets an inline writer try a full disk again; a thread does so by itself.
    pub(crate) fn tick(&mut self) {
        if let Self::Inline(writer) = self {
            writer.0.run();
        }
    }
}

fn serve(mut worker: Worker, jobs: &Receiver<Job>) {
    loop {
        let first = if worker.full {
            match jobs.recv_timeout(FULL_RETRY) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match jobs.recv() {
                Ok(job) => Some(job),
                Err(_) => return,
            }
        };
        worker.queue.extend(first);
        while let Ok(job) = jobs.try_recv() {
            worker.queue.push_back(job);
        }
        worker.run();
        if worker.failed {
            return;
        }
    }
}
