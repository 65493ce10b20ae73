//! The daemon's side of a shim.

mod exec;
mod launch;
mod stdio;

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::spec::{Exit, PID_FILE, Relay, SOCKET_FILE, SPEC_FILE, ShimSpec, State};
use super::{exit_file, protocol};
use crate::config::ResourceLimits;
use crate::runtime::cgroup::Cgroup;
use crate::runtime::mounts;

pub use exec::{Exec, ExecEvent, ExecOutput};
pub use stdio::{AttachInput, AttachOutput, AttachStream};

/// What can go wrong between daemon and shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim says why: the text is for the user as it is.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// Docker's exit code for it: 126 not executable, 127 not found, 128 anything else.
        exit_code: i32,
    },
    /// Reaching it failed.
    #[error("{operation} {subject}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It ended without leaving an exit status: it was killed.
    #[error("the shim of {bundle} is gone and has left no exit status")]
    Lost {
        /// Its bundle directory.
        bundle: PathBuf,
    },
}

impl ShimError {
    /// The exit code that a container gets whose start failed like this.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Refused { exit_code, .. } => *exit_code,
            Self::System { .. } | Self::Lost { .. } => 128,
        }
    }

    fn system(operation: &'static str, subject: &Path) -> impl FnOnce(io::Error) -> Self {
        let subject = subject.display().to_string();
        move |source| Self::System { operation, subject, source }
    }
}

type Frames = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;

/// A connection to a shim.
#[derive(Debug)]
struct Line {
    frames: Frames,
    write: OwnedWriteHalf,
    /// It has been asked to tell of the exit.
    waits: bool,
}

/// A shim, running or not: what it leaves behind answers for it.
#[derive(Debug)]
pub struct Shim {
    bundle: PathBuf,
    pid: u32,
    /// The connection it was launched by, for the start and the wait that follow.
    line: Mutex<Option<Line>>,
}

impl Shim {
    /// Writes the specification, starts a shim in the directory `bundle` (which must exist) and
    /// returns once the container is ready to be started.
    pub async fn launch(helper_exe: &Path, bundle: &Path, spec: &ShimSpec) -> Result<Self, ShimError> {
        Self::launch_with(helper_exe, bundle, spec, &[], false).await
    }

    /// As [`Shim::launch`] and [`Shim::start`] at once: the shim finds the second order waiting when it is
    /// done with the first, and nobody has to wake up in between.
    pub async fn run(helper_exe: &Path, bundle: &Path, spec: &ShimSpec) -> Result<Self, ShimError> {
        let shim = Self::launch_with(helper_exe, bundle, spec, &start_and_wait(), true).await?;
        let Some(mut line) = shim.kept() else { return Err(ShimError::Lost { bundle: shim.bundle }) };
        match next(&mut line.frames, bundle).await? {
            (protocol::OK, _) => shim.keep(line),
            other => return Err(unexpected(other, bundle)),
        }
        Ok(shim)
    }

    /// `orders` are frames for the shim to find once the container is made.
    async fn launch_with(
        helper_exe: &Path,
        bundle: &Path,
        spec: &ShimSpec,
        orders: &[u8],
        waits: bool,
    ) -> Result<Self, ShimError> {
        let json =
            serde_json::to_vec(spec).map_err(io::Error::from).map_err(ShimError::system("encode", bundle))?;
        let (exe, directory, orders) = (helper_exe.to_owned(), bundle.to_owned(), orders.to_owned());
        let spawned =
            tokio::task::spawn_blocking(move || launch::spawn(&exe, &directory, &json, &orders)).await;
        let stream =
            spawned.map_err(io::Error::other).map_err(ShimError::system("launch shim in", bundle))??;
        let (mut frames, write) = open(stream, bundle)?;
        match next(&mut frames, bundle).await? {
            (protocol::CREATED, mut pid) if pid.len() == 4 => {
                let line = Mutex::new(Some(Line { frames, write, waits }));
                Ok(Self { bundle: bundle.to_owned(), pid: pid.get_u32(), line })
            }
            other => Err(unexpected(other, bundle)),
        }
    }

    fn kept(&self) -> Option<Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, line: Line) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }

    /// Finds the shim that an earlier daemon launched in `bundle`, whether it still runs or has
    /// left an exit status. None when there is neither; [`Shim::sweep`] then removes what is left.
    pub async fn connect(bundle: &Path) -> Result<Option<Self>, ShimError> {
        let at = |pid| Self { bundle: bundle.to_owned(), pid, line: Mutex::default() };
        if let Ok(state) = at(0).state().await {
            return Ok(Some(at(state.pid)));
        }
        let read = |b: &Path| -> io::Result<Option<u32>> {
            let Some(_) = exit_file::read(b)? else { return Ok(None) };
            let pids = std::fs::read_to_string(b.join(PID_FILE)).unwrap_or_default();
            Ok(Some(pids.split_whitespace().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0)))
        };
        let found = blocking(bundle, read).await?;
        Ok(found.map(at))
    }

    /// Kills what a lost shim left in its cgroup and removes the cgroup.
    pub async fn sweep(bundle: &Path) -> Result<(), ShimError> {
        blocking(bundle, |b| {
            let spec: ShimSpec = match std::fs::read(b.join(SPEC_FILE)) {
                Ok(json) => serde_json::from_slice(&json)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            let cgroup = Cgroup::at(&spec.cgroup).map_err(io::Error::other)?;
            cgroup.kill().map_err(io::Error::other)?;
            if let Some(runtime) = &spec.external {
                let program = crate::runtime::external::Program::new(runtime, &spec.id, &b.canonicalize()?);
                program.delete().map_err(io::Error::other)?;
            }
            mounts::unshare_memory(b)?;
            cgroup.remove().map_err(io::Error::other)
        })
        .await
    }

    /// Host PID of the container's first process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs the command. Returns its host PID once it has been executed.
    pub async fn start(&self) -> Result<u32, ShimError> {
        let mut line = match self.kept() {
            Some(line) => line,
            None => self.connection().await?,
        };
        let sent = line.write.write_all(&start_and_wait()).await;
        sent.map_err(ShimError::system("ask shim in", &self.bundle))?;
        match next(&mut line.frames, &self.bundle).await? {
            (protocol::OK, _) => self.keep(Line { waits: true, ..line }),
            other => return Err(unexpected(other, &self.bundle)),
        }
        Ok(self.pid)
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        self.send_signal(signal, false).await
    }

    /// Sends a signal to all processes of the container.
    pub async fn signal_all(&self, signal: i32) -> Result<(), ShimError> {
        self.send_signal(signal, true).await
    }

    /// Freezes all processes, or lets them go on.
    pub async fn freeze(&self, frozen: bool) -> Result<(), ShimError> {
        self.request(protocol::FREEZE, &[&[u8::from(frozen)]]).await.map(|_| ())
    }

    async fn send_signal(&self, signal: i32, all: bool) -> Result<(), ShimError> {
        let number = (signal as u32).to_be_bytes();
        self.request(protocol::SIGNAL, &[&number, &[u8::from(all)]]).await.map(|_| ())
    }

    /// Closes the container's stdin.
    pub async fn close_stdin(&self) -> Result<(), ShimError> {
        self.request(protocol::CLOSE_STDIN, &[]).await.map(|_| ())
    }

    /// Sets the size of the container's terminal.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), ShimError> {
        self.request(protocol::RESIZE, &[&rows.to_be_bytes(), &cols.to_be_bytes()]).await.map(|_| ())
    }

    /// Changes the limits of the running container.
    pub async fn update(&self, limits: &ResourceLimits) -> Result<(), ShimError> {
        let json = serde_json::to_vec(limits).map_err(io::Error::from);
        let json = json.map_err(ShimError::system("encode limits for", &self.bundle))?;
        self.request(protocol::UPDATE, &[&json]).await.map(|_| ())
    }

    /// Has the shim serve exactly these ports.
    pub async fn relay(&self, wanted: &[Relay]) -> Result<(), ShimError> {
        let json = serde_json::to_vec(wanted).map_err(io::Error::from);
        let json = json.map_err(ShimError::system("encode ports for", &self.bundle))?;
        self.request(protocol::RELAY, &[&json]).await.map(|_| ())
    }

    /// How it is. Fails once the container has ended.
    pub async fn state(&self) -> Result<State, ShimError> {
        let json = self.request(protocol::GET_STATE, &[]).await?;
        serde_json::from_slice(&json)
            .map_err(io::Error::from)
            .map_err(ShimError::system("decode", &self.bundle))
    }

    /// Waits until the container has ended. Works just as well afterwards.
    pub async fn wait(&self) -> Result<Exit, ShimError> {
        let line = match self.kept() {
            Some(line) => Ok(line),
            None => self.connection().await,
        };
        if let Ok(mut line) = line {
            let mut request = Vec::new();
            if !line.waits {
                protocol::put(&mut request, protocol::WAIT, &[]);
            }
            let sent = line.write.write_all(&request).await.is_ok();
            while sent && let Ok((kind, payload)) = next(&mut line.frames, &self.bundle).await {
                if kind == protocol::NOTE {
                    let text = String::from_utf8_lossy(&payload);
                    let container = self.bundle.file_name().unwrap_or_default().to_string_lossy();
                    tracing::warn!(%container, "the shim says: {}", text.trim_end());
                    continue;
                }
                if kind == protocol::EXITED
                    && let Ok(exit) = serde_json::from_slice(&payload)
                {
                    return Ok(exit);
                }
                break;
            }
        }
        let exit = blocking(&self.bundle, exit_file::read).await?;
        exit.ok_or_else(|| ShimError::Lost { bundle: self.bundle.clone() })
    }

    /// Becomes a client of the container's stdio. Output begins with what comes after this, or, with `begun`, with
    /// the lines that had begun by then, which are not in the log.
    pub async fn attach(
        &self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        begun: bool,
    ) -> Result<AttachStream, ShimError> {
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        let flags = flag(stdin, protocol::ATTACH_STDIN)
            | flag(stdout, protocol::ATTACH_STDOUT)
            | flag(stderr, protocol::ATTACH_STDERR)
            | flag(begun, protocol::ATTACH_BEGUN);
        let Line { mut frames, write, .. } = self.connection().await?;
        let (answer, write) = self.ask(&mut frames, write, protocol::ATTACH, &[&[flags]]).await?;
        // A shim of an older daemon does not say.
        let since_ns =
            answer.first_chunk().map_or_else(crate::events::now_ns, |bytes| i64::from_be_bytes(*bytes));
        Ok(AttachStream { output: AttachOutput(frames), input: AttachInput::new(write), since_ns })
    }

    async fn connection(&self) -> Result<Line, ShimError> {
        let stream = blocking(&self.bundle, dial).await?;
        let (frames, write) = open(stream, &self.bundle)?;
        Ok(Line { frames, write, waits: false })
    }

    async fn request(&self, kind: u8, payload: &[&[u8]]) -> Result<Bytes, ShimError> {
        let Line { mut frames, write, .. } = self.connection().await?;
        Ok(self.ask(&mut frames, write, kind, payload).await?.0)
    }

    async fn ask(
        &self,
        frames: &mut Frames,
        mut write: OwnedWriteHalf,
        kind: u8,
        payload: &[&[u8]],
    ) -> Result<(Bytes, OwnedWriteHalf), ShimError> {
        let mut request = Vec::new();
        protocol::put(&mut request, kind, payload);
        write.write_all(&request).await.map_err(ShimError::system("ask shim in", &self.bundle))?;
        match next(frames, &self.bundle).await? {
            (protocol::OK | protocol::STATE, answer) => Ok((answer, write)),
            other => Err(unexpected(other, &self.bundle)),
        }
    }
}

async fn blocking<T: Send + 'static>(
    bundle: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, ShimError> {
    let owned = bundle.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await;
    done.map_err(io::Error::other).and_then(|r| r).map_err(ShimError::system("reach shim in", bundle))
}

/// Connects by way of the directory's descriptor: the path itself may be too long for a socket.
fn dial(bundle: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let directory = std::fs::File::open(bundle)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", directory.as_raw_fd());
    std::os::unix::net::UnixStream::connect(path)
}

fn open(
    stream: std::os::unix::net::UnixStream,
    bundle: &Path,
) -> Result<(Frames, OwnedWriteHalf), ShimError> {
    let ready = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    let (read, write) = ready.map_err(ShimError::system("talk to shim in", bundle))?.into_split();
    let codec = LengthDelimitedCodec::builder().max_frame_length(protocol::MAX_FRAME).new_codec();
    Ok((FramedRead::new(read, codec), write))
}

async fn next(frames: &mut Frames, bundle: &Path) -> Result<(u8, Bytes), ShimError> {
    match frames.next().await {
        Some(Ok(mut frame)) if !frame.is_empty() => Ok((frame.get_u8(), frame.freeze())),
        Some(Err(e)) => Err(ShimError::system("hear from shim in", bundle)(e)),
        _ => Err(ShimError::Lost { bundle: bundle.to_owned() }),
    }
}

fn unexpected((kind, mut payload): (u8, Bytes), bundle: &Path) -> ShimError {
    if kind == protocol::FAILED && payload.len() >= 4 {
        let exit_code = payload.get_i32();
        return ShimError::Refused { message: String::from_utf8_lossy(&payload).into_owned(), exit_code };
    }
    ShimError::system("understand shim in", bundle)(io::Error::other(format!("unexpected frame {kind}")))
}

/// The order to run the command, and the question how it ends.
fn start_and_wait() -> Vec<u8> {
    let mut orders = Vec::new();
    protocol::put(&mut orders, protocol::START, &[]);
    protocol::put(&mut orders, protocol::WAIT, &[]);
    orders
}
