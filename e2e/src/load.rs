//! A steady load of HTTP requests from outside of all hosts, by connections of their own and by connections that stay,
//! each failure of which is remembered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Longest wait for an answer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between the requests of one thread.
const PAUSE: Duration = Duration::from_millis(8);
/// Threads of a load with a pace.
const PACED_THREADS: u32 = 16;
/// Failures kept of one thread.
const KEPT: usize = 5;

/// A load under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Asked>>>,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were answered.
    pub answered: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Some of what failed, in words.
    pub failures: Vec<String>,
    /// Microseconds of each answered request since it was due.
    pub micros: Vec<u32>,
}

/// What came of one thread.
#[derive(Default)]
struct Asked {
    failed: u64,
    failures: Vec<String>,
    micros: Vec<u32>,
}

/// When the requests of one thread are due.
struct Clock {
    due: Instant,
    every: Duration,
    /// Requests that were held up are made up for.
    catches_up: bool,
    micros: Vec<u32>,
}

impl Clock {
    /// Waits until the next request is due; since when it is.
    fn wait(&mut self) -> Instant {
        let now = Instant::now();
        match self.due.checked_duration_since(now) {
            Some(left) => std::thread::sleep(left),
            None if !self.catches_up => self.due = now,
            None => {}
        }
        let due = self.due;
        self.due += self.every;
        due
    }
}

/// How it asks.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// A connection for each request.
    Short,
    /// A connection for as long as this.
    Kept(Duration),
}

impl Load {
    /// Begins to ask these addresses in turn from the network namespace `netns`: two threads with short connections, two
    /// with connections that each stay for `kept`.
    pub fn start(netns: PathBuf, targets: Vec<SocketAddr>, kept: Duration) -> Self {
        Self::begin(netns, targets, kept, 4, PAUSE, false)
    }

    /// The same with so many requests a second, whatever becomes of them; half of them with connections that stay.
    pub fn paced(netns: PathBuf, targets: Vec<SocketAddr>, kept: Duration, per_second: u32) -> Self {
        let every = Duration::from_secs(1) * PACED_THREADS / per_second;
        Self::begin(netns, targets, kept, PACED_THREADS, every, true)
    }

    fn begin(
        netns: PathBuf,
        targets: Vec<SocketAddr>,
        kept: Duration,
        threads: u32,
        every: Duration,
        catches_up: bool,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let begin = Instant::now();
        let threads = (0..threads).map(|number| {
            let manner = if number % 2 == 0 { Manner::Short } else { Manner::Kept(kept) };
            let due = begin + every * number / threads;
            let mut clock = Clock { due, every, catches_up, micros: Vec::new() };
            let (netns, targets, stop, answered) =
                (netns.clone(), targets.clone(), stop.clone(), answered.clone());
            std::thread::spawn(move || -> Result<Asked> {
                let file =
                    std::fs::File::open(&netns).with_context(|| format!("open {}", netns.display()))?;
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
                let (mut failed, mut failures) = (0, Vec::new());
                for target in targets.iter().cycle().skip(number as usize) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(e) = converse(*target, manner, &stop, &answered, &mut clock) {
                        failed += 1;
                        if failures.len() < KEPT {
                            let at = begin.elapsed().as_secs_f32();
                            failures.push(format!("{at:.1} s, {target}, {manner:?}: {e:#}"));
                        }
                    }
                }
                Ok(Asked { failed, failures, micros: clock.micros })
            })
        });
        let threads = threads.collect();
        Self { stop, answered, threads }
    }

    /// Waits until `more` further requests have been answered.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        crate::eventually("the load goes on", Duration::from_secs(120), || {
            let now = self.answered.load(Ordering::Relaxed);
            ensure!(now >= wanted, "{now} requests answered of {wanted}");
            Ok(())
        })
    }

    /// Ends it: how many requests were answered, or an error with the failures.
    pub fn finish(self) -> Result<u64> {
        let Outcome { answered, failures, .. } = self.outcome()?;
        ensure!(failures.is_empty(), "failed requests beside {answered} answered: {failures:#?}");
        Ok(answered)
    }

    /// Ends it: what came of it.
    pub fn outcome(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for thread in self.threads {
            match thread.join() {
                Ok(more) => {
                    let more = more?;
                    outcome.failed += more.failed;
                    outcome.failures.extend(more.failures);
                    outcome.micros.extend(more.micros);
                }
                Err(_) => bail!("a thread of the load panicked"),
            }
        }
        outcome.answered = self.answered.load(Ordering::Relaxed);
        Ok(outcome)
    }
}

/// One connection.
fn converse(
    target: SocketAddr,
    manner: Manner,
    stop: &AtomicBool,
    answered: &AtomicU64,
    clock: &mut Clock,
) -> Result<()> {
    let mut due = clock.wait();
    let begin = Instant::now();
    let stream = TcpStream::connect_timeout(&target, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(&stream);
    for number in 1.. {
        let last = match manner {
            Manner::Short => true,
            Manner::Kept(time) => begin.elapsed() >= time || stop.load(Ordering::Relaxed),
        };
        let connection = if last { "close" } else { "keep-alive" };
        let request = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n");
        (&stream).write_all(request.as_bytes()).with_context(|| format!("request {number}"))?;
        read_answer(&mut reader).with_context(|| format!("answer {number}"))?;
        answered.fetch_add(1, Ordering::Relaxed);
        clock.micros.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        if last {
            break;
        }
        due = clock.wait();
    }
    Ok(())
}

fn read_answer(reader: &mut BufReader<&TcpStream>) -> Result<()> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the connection ended after {first:?}");
        if first.is_empty() {
            first.clone_from(&line);
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    ensure!(first.starts_with("HTTP/1.1 200 "), "{first:?}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).context("the body")
}
