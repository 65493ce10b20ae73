//! What is told, on standard error, of the things that are made: a line for each event, as text or JSON, or on a terminal
//! a block of lines that is drawn over itself.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::super::terminal;

/// How often a block whose things are not done is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// What turns before a thing that is not done.
const SPINNER: &[&str] = &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// What lines of a rehearsal begin with, in Docker's words.
const DRY_RUN: &str = "DRY-RUN MODE - ";

/// Tells of what happens. Cheap to clone.
#[derive(Clone)]
pub struct Report(Arc<Inner>);

struct Inner {
    dry: bool,
    state: Mutex<State>,
}

struct State {
    mode: Mode,
    block: Block,
    /// The block is drawn from time to time, whichever it is.
    ticking: bool,
    /// The last line of the terminal, below all that is written.
    footer: String,
    /// So many others write now, as they like: nothing is drawn meanwhile.
    asides: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Plain,
    Json,
    Terminal,
}

/// How far a thing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Working,
    Done,
    Warning,
    Error,
}

struct Line {
    id: String,
    what: String,
    stage: Stage,
    begun: Instant,
    ended: Option<Instant>,
}

/// Lines that are drawn over themselves.
#[derive(Default)]
struct Block {
    lines: Vec<Line>,
    /// So many lines of the terminal are ours.
    drawn: usize,
}

impl Stage {
    /// What Docker's words for it say.
    fn of(what: &str) -> Self {
        match what {
            "Running" => Self::Done,
            _ if what.starts_with("Error") => Self::Error,
            "Resource is still in use" => Self::Warning,
            _ if what.starts_with("Warning") || what.starts_with("Skipped") => Self::Warning,
            "Recreate" => Self::Working,
            _ if what.ends_with("ing") => Self::Working,
            _ => Self::Done,
        }
    }
}

impl Report {
    /// As `--progress` and `--ansi` say; `dry` = nothing is done.
    pub fn new(progress: &str, ansi: &str, dry: bool) -> Result<Self> {
        let mode = match (progress, ansi) {
            ("auto", "never") => Mode::Plain,
            ("auto", _) if std::io::stderr().is_terminal() => Mode::Terminal,
            ("auto", _) => Mode::Plain,
            ("tty", "never") => bail!("can't use --progress tty while ANSI support is disabled"),
            ("tty", _) => Mode::Terminal,
            ("plain", "always") => bail!("can't use --progress plain while ANSI support is forced"),
            ("plain", _) => Mode::Plain,
            ("json", _) => Mode::Json,
            ("quiet" | "none", _) => Mode::Quiet,
            (other, _) => {
                bail!("unsupported --progress value {other:?}: want auto, tty, plain, json or quiet")
            }
        };
        Ok(Self(Arc::new(Inner {
            dry,
            state: Mutex::new(State {
                mode,
                block: Block::default(),
                ticking: false,
                footer: String::new(),
                asides: 0,
            }),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is told.
    pub fn is_quiet(&self) -> bool {
        self.state().mode == Mode::Quiet
    }

    /// ` Container demo-web-1  Started`
    pub fn tell(&self, kind: &str, name: &str, what: &str) {
        let id = if name.is_empty() { kind.to_owned() } else { format!("{kind} {name}") };
        let mut state = self.state();
        match state.mode {
            Mode::Quiet => {}
            Mode::Terminal if state.asides == 0 => {
                state.block.take(id, what);
                state.block.draw(self.0.dry);
                if !state.ticking && state.block.is_working() {
                    state.ticking = true;
                    tokio::spawn(tick(Arc::downgrade(&self.0)));
                }
            }
            Mode::Plain | Mode::Terminal => {
                let prefix = if self.0.dry { format!(" {DRY_RUN}") } else { String::new() };
                state.above(|| print(format_args!("{prefix} {id}  {what}\n")));
            }
            Mode::Json => {
                let mut event = json!({ "id": id, "status": what });
                if self.0.dry {
                    event["dry-run"] = true.into();
                }
                print(format_args!("{event}\n"));
            }
        }
    }

    /// The same of a container.
    pub fn container(&self, name: &str, what: &str) {
        self.tell("Container", name, what);
    }

    /// Others write now: what was drawn stays as it is, and what comes next is drawn below.
    pub fn close(&self) {
        self.state().block = Block::default();
    }

    /// The same, and from now on what happens is told line by line: others write all the time.
    pub fn settle(&self) {
        let mut state = self.state();
        state.block = Block::default();
        if state.mode == Mode::Terminal {
            state.mode = Mode::Plain;
        }
    }

    /// A line that is told in any case.
    pub fn note(&self, text: &str) {
        let mut state = self.state();
        state.block = Block::default();
        state.above(|| print(format_args!("{text}\n")));
    }

    /// Has something written, above the footer.
    pub fn write<T>(&self, write: impl FnOnce() -> T) -> T {
        self.state().above(write)
    }

    /// What stands below all that is written from now on; empty = nothing.
    pub fn footer(&self, text: &str) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.footer, text.to_owned());
        if state.asides == 0 && before != text {
            draw(&before, text);
        }
    }

    /// Others write until the result goes: what was drawn stays as it is, what happens is told line by line, and the
    /// footer is away.
    pub fn aside(&self) -> Aside {
        let mut state = self.state();
        state.block = Block::default();
        if state.asides == 0 {
            draw(&state.footer, "");
        }
        state.asides += 1;
        drop(state);
        Aside(self.clone())
    }
}

/// With the last of them the footer comes back.
pub struct Aside(Report);

impl Drop for Aside {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.asides -= 1;
        if state.asides == 0 {
            draw("", &state.footer);
        }
    }
}

impl State {
    fn above<T>(&mut self, write: impl FnOnce() -> T) -> T {
        if self.asides > 0 {
            return write();
        }
        draw(&self.footer, "");
        let done = write();
        draw("", &self.footer);
        done
    }
}

/// Replaces a footer, on standard output, which containers' lines go to.
fn draw(before: &str, now: &str) {
    if before.is_empty() && now.is_empty() {
        return;
    }
    let mut out = std::io::stdout();
    let wiped = if before.is_empty() { "" } else { "\r\x1b[2K" };
    let _ = write!(out, "{wiped}{now}").and_then(|()| out.flush());
}

/// Nobody may be reading, which stops nothing.
fn print(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(text.to_string().as_bytes());
}

/// Draws a block until all in it is done.
async fn tick(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(FRAME).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.block.is_working() {
            state.ticking = false;
            return;
        }
        state.block.draw(inner.dry);
    }
}

impl Block {
    fn is_working(&self) -> bool {
        self.lines.iter().any(|l| l.stage == Stage::Working)
    }

    fn take(&mut self, id: String, what: &str) {
        let (now, stage) = (Instant::now(), Stage::of(what));
        let ended = (stage != Stage::Working).then_some(now);
        match self.lines.iter_mut().find(|l| l.id == id) {
            Some(line) => {
                line.ended = ended;
                line.stage = stage;
                what.clone_into(&mut line.what);
            }
            None => self.lines.push(Line { id, what: what.to_owned(), stage, begun: now, ended }),
        }
    }

    fn draw(&mut self, dry: bool) {
        let (rows, columns) = terminal::size_of_errors().unwrap_or((24, 80));
        let text = self.frame(usize::from(rows), usize::from(columns), dry, Instant::now());
        // Of a block that is higher than the terminal, its end is shown.
        print(format_args!("{text}"));
    }

    /// What is written to draw it, over what was drawn before.
    fn frame(&mut self, rows: usize, columns: usize, dry: bool, now: Instant) -> String {
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let prefix = if dry { DRY_RUN } else { "" };
        let all = self.lines.len();
        let done = self.lines.iter().filter(|l| l.stage != Stage::Working).count();
        out.push_str(&format!("\r\x1b[2K[+] {prefix}Running {done}/{all}\n"));
        let width = self.lines.iter().map(|l| l.id.chars().count()).max().unwrap_or(0);
        let shown = all.min(rows.saturating_sub(2).max(1));
        for line in &self.lines[all - shown..] {
            let seconds = line.ended.unwrap_or(now).saturating_duration_since(line.begun).as_secs_f64();
            let (colour, mark) = match line.stage {
                Stage::Working => {
                    let turn = (seconds * 10.0) as usize % SPINNER.len();
                    ("36", SPINNER[turn])
                }
                Stage::Done => ("32", "✔"),
                Stage::Warning => ("33", "!"),
                Stage::Error => ("31", "✘"),
            };
            let time = format!("{seconds:.1}s");
            let text = format!("{:width$}  {}", line.id, line.what);
            // A line that is too long would be two, and drawn over only in part.
            let room = columns.saturating_sub(4 + prefix.len() + time.len() + 1);
            let text: String = text.chars().take(room).collect();
            out.push_str(&format!("\x1b[2K {prefix}\x1b[{colour}m{mark}\x1b[0m {text:room$} {time}\n"));
        }
        self.drawn = shown + 1;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_drawn_while_others_write_and_one_task_draws_whatever_block_there_is() {
        let report = Report::new("tty", "auto", false).expect("a mode");
        report.tell("Container", "a", "Creating");
        assert_eq!(report.state().block.drawn, 2);
        let (one, two) = (report.aside(), report.aside());
        report.footer("keys");
        drop(one);
        report.tell("Image", "b", "Pulling");
        assert_eq!(report.state().block.drawn, 0);
        assert_eq!(report.state().footer, "keys");
        drop(two);
        // The task of the first block has not woken since.
        report.tell("Image", "b", "Pulling");
        assert!(report.state().ticking);
        assert_eq!(Arc::weak_count(&report.0), 1, "one task");
        report.tell("Image", "b", "Pulled");
        tokio::time::sleep(2 * FRAME).await;
        assert!(!report.state().ticking);
    }

    #[test]
    fn a_block_is_drawn_over_itself_and_never_wider_or_higher_than_the_terminal() {
        let mut block = Block::default();
        block.take("Container one".into(), "Creating");
        block.take("Network a".into(), "Created");
        let now = block.lines[0].begun + Duration::from_millis(1500);
        let first = block.frame(24, 60, false, now);
        assert!(first.starts_with("\r\x1b[2K[+] Running 1/2\n"), "{first:?}");
        assert!(first.contains("Container one  Creating") && first.contains(" 1.5s\n"), "{first:?}");
        block.take("Container one".into(), "Created");
        let second = block.frame(24, 60, true, now);
        assert!(second.starts_with("\x1b[3A\r\x1b[2K[+] DRY-RUN MODE - Running 2/2\n"), "{second:?}");
        for n in 0..40 {
            block.take(format!("Container with a long name {n}"), "Started");
        }
        for (rows, columns) in [(10, 30), (3, 10), (1, 1)] {
            let frame = block.frame(rows, columns, false, now);
            assert!(frame.lines().count() <= rows.max(2), "{rows}: {frame:?}");
        }
        assert_eq!(block.drawn, 2);
    }

    #[test]
    fn words_say_how_far_a_thing_has_come() {
        for (what, stage) in [
            ("Creating", Stage::Working),
            ("Running", Stage::Done),
            ("Healthy", Stage::Done),
            ("Error while pulling", Stage::Error),
            ("Skipped No image to be pulled", Stage::Warning),
        ] {
            assert_eq!(Stage::of(what), stage, "{what}");
        }
    }
}
