//! `up` in the foreground: the containers' output as it comes, until they have ended or the user has had enough.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use anyhow::Result;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::signal::unix::{SignalKind, signal};

use super::super::api::Query;
use super::super::attach;
use super::super::create_body::Streams;
use super::super::output::{say, text};
use super::found::{self, Found};
use super::menu::{Key, Menu};
use super::output::Printer;
use super::project::Project;
use super::watch::{Rebuild, Watched};
use super::{Session, graph, lifecycle, logs, start};

/// When all of it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// With the last container.
    Last,
    /// With the first that ends.
    First,
    /// With the first that fails.
    FirstFailure,
}

/// What is asked for.
pub struct Attach {
    /// Services that are started.
    pub services: Vec<String>,
    /// Those of them whose output is shown.
    pub shown: Vec<String>,
    pub no_colour: bool,
    pub prefix: bool,
    pub timestamps: bool,
    pub timeout: Option<i64>,
    pub ends: Ends,
    /// The service whose exit code is ours.
    pub code_from: Option<String>,
    /// Files that are watched meanwhile: containers that end come back with the next change.
    pub watched: Option<Watched>,
    /// Keys do something.
    pub menu: bool,
    /// What builds say is not shown where `w` begins to watch.
    pub quiet_build: bool,
}

/// As of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// A container whose output is shown.
struct Seen {
    container: Found,
    name: String,
    streaming: bool,
    /// It has ended with this code, of which nothing was said yet.
    ended: Option<i64>,
    /// It runs again since then, in the API's time.
    again: Option<String>,
    /// When it had ended last, as its state says; nothing where it was made since.
    finished: String,
}

/// What `up` ends with: the code of the service that was named, else of the first that ended.
#[derive(Default)]
struct Code {
    code: u8,
    counted: bool,
}

impl Code {
    fn count(&mut self, asked: &Attach, service: &str, ended: i64) {
        let counts = match &asked.code_from {
            Some(named) => named == service,
            None => !self.counted,
        };
        if counts {
            *self = Self { code: u8::try_from(ended).unwrap_or(1), counted: true };
        }
    }
}

struct View<'a> {
    s: &'a Session<'a>,
    printer: &'a Printer,
    query: Query,
    seen: BTreeMap<String, Seen>,
    streams: FuturesUnordered<LocalBoxFuture<'a, Result<String>>>,
    /// Those that have not ended for good.
    alive: BTreeSet<String>,
}

impl View<'_> {
    /// Shows what a container says from a time on.
    fn follow(&mut self, id: &str, since: &str) {
        let index = self.seen.keys().position(|k| k == id).unwrap_or(0);
        let Some(seen) = self.seen.get_mut(id) else { return };
        seen.streaming = true;
        let query = self.query.clone().flag("follow", true).with("since", since);
        let (container, name) = (seen.container.clone(), seen.name.clone());
        self.streams.push(Box::pin(logs::one(self.s, container, name, index, self.printer, query)));
    }

    /// Says that a container has ended, once all that it said is shown.
    fn say_ended(&mut self, id: &str) -> Result<()> {
        let Some(seen) = self.seen.get_mut(id).filter(|s| !s.streaming) else { return Ok(()) };
        let again = seen.again.take();
        if let Some(code) = seen.ended.take() {
            self.s.report.write(|| say!("{} exited with code {code}", seen.name))?;
        }
        if let Some(since) = again {
            self.follow(id, &since);
        }
        Ok(())
    }
}

/// Starts services and shows what they say; the exit code.
pub async fn run(s: &Session<'_>, project: &Project, mut asked: Attach) -> Result<u8> {
    let mut watched = asked.watched.take();
    let mut watching: Option<Pin<Box<dyn Future<Output = Result<()>> + '_>>> = None;
    let asked = &asked;
    let (mut interrupts, mut terms) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut events = found::events(s.api, &project.name).await?.lines();
    let list = found::of(s.api, &project.name, &asked.shown).await?;
    let names: Vec<String> = list.iter().map(|c| c.shown(&project.name)).collect();
    let printer = Printer::new(names.iter().map(String::as_str), s, asked.no_colour, asked.prefix);
    let query = Query::new().flag("stdout", true).flag("stderr", true).flag("timestamps", asked.timestamps);
    let mut view = View {
        s,
        printer: &printer,
        query,
        seen: BTreeMap::new(),
        streams: FuturesUnordered::new(),
        alive: list.iter().map(|c| c.id.clone()).collect(),
    };
    s.report.settle();
    say!("Attaching to {}", names.join(", "))?;
    for (index, (container, name)) in list.into_iter().zip(names).enumerate() {
        let found = s.api.get(&format!("{}/json", container.path()), &Query::new()).await?;
        let tty = found["Config"]["Tty"] == Value::Bool(true);
        let (id, printer) = (container.id.clone(), &printer);
        let seen = Seen {
            container: container.clone(),
            name: name.clone(),
            streaming: true,
            ended: None,
            again: None,
            finished: text(&found["State"], "FinishedAt"),
        };
        view.seen.insert(id.clone(), seen);
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        // Before it is started, so that nothing of it is missed.
        let attached = attach::attach(s.api, &container.path(), streams, tty, None).await?;
        view.streams.push(Box::pin(async move {
            logs::show(attached.into_stream(), tty, printer, &name, index).await?;
            Ok(id)
        }));
    }
    let mut menu = if asked.menu { Menu::open(&s.report)? } else { None };
    let mut starting = Box::pin(start::all(s, project, &asked.services));
    let mut started = false;
    let mut stopping: Option<Pin<Box<dyn Future<Output = Result<()>> + '_>>> = None;
    let (mut code, mut interrupted, mut detaching) = (Code::default(), false, false);
    loop {
        let watches = watched.is_some() || watching.is_some();
        if started && stopping.is_none() && view.alive.is_empty() && !watches {
            break;
        }
        // What runs goes on, once all that was asked for does.
        if detaching && started && stopping.is_none() {
            return Ok(0);
        }
        if let Some(menu) = &menu {
            menu.show(watches);
        }
        tokio::select! {
            done = &mut starting, if !started && stopping.is_none() => {
                done?;
                started = true;
                watching = watched.take().map(|w| Box::pin(w.follow(s, project)) as Pin<Box<_>>);
            }
            Some(ended) = view.streams.next(), if !view.streams.is_empty() => {
                let id = ended?;
                if let Some(seen) = view.seen.get_mut(&id) {
                    seen.streaming = false;
                }
                view.say_ended(&id)?;
            }
            line = events.next_line() => {
                let Some(line) = line? else { anyhow::bail!("the daemon has closed its stream of events") };
                let event: Value = serde_json::from_str(&line)?;
                let Some((ended, service)) = event_of(&mut view, project, asked, &event).await? else { continue };
                code.count(asked, &service, ended);
                let ends = match asked.ends {
                    _ if detaching => false,
                    Ends::Last => false,
                    Ends::First => true,
                    Ends::FirstFailure => ended != 0,
                };
                if ends && stopping.is_none() {
                    menu = None;
                    eprintln!("Aborting on container exit...");
                    stopping = Some(Box::pin(stop(s, project, asked)));
                }
            }
            done = async { match &mut watching { Some(f) => f.await, None => std::future::pending().await } }, if stopping.is_none() => {
                done?;
                watching = None;
            }
            key = async { match &mut menu { Some(m) => m.key().await, None => std::future::pending().await } }, if stopping.is_none() => {
                match key {
                    Key::Detach => (menu, detaching) = (None, true),
                    Key::Watch if watches => {
                        (watched, watching) = (None, None);
                        s.report.note("Watch disabled");
                    }
                    Key::Watch => match Watched::begin(
                        project,
                        &asked.services,
                        Rebuild { quiet: asked.quiet_build, prune: false },
                    ) {
                        Ok(begun) if started => watching = Some(Box::pin(begun.follow(s, project))),
                        Ok(begun) => watched = Some(begun),
                        Err(e) => s.report.note(&format!("Watch → {e:#}")),
                    },
                    Key::Line => s.report.note(""),
                }
            }
            _ = interrupts.recv() => {
                menu = None;
                stopping = Some(on_signal(s, project, asked, interrupted));
                interrupted = true;
            }
            _ = terms.recv() => {
                menu = None;
                stopping = Some(on_signal(s, project, asked, interrupted));
                interrupted = true;
            }
            done = async { match &mut stopping { Some(f) => f.await, None => std::future::pending().await } } => {
                done?;
                break;
            }
        }
    }
    drop(menu);
    // What they said last.
    while let Some(ended) = view.streams.next().await {
        let id = ended?;
        if let Some(seen) = view.seen.get_mut(&id) {
            (seen.streaming, seen.again) = (false, None);
        }
        view.say_ended(&id)?;
    }
    // A stop may be over before the event of the last end has come.
    for id in view.alive.clone() {
        let Some(seen) = view.seen.get_mut(&id) else { continue };
        let Ok(found) = s.api.get(&format!("{}/json", seen.container.path()), &Query::new()).await else {
            continue;
        };
        let state = &found["State"];
        if text(state, "Status") == "exited" && text(state, "FinishedAt") != seen.finished {
            let ended = state["ExitCode"].as_i64().unwrap_or(0);
            seen.ended = Some(ended);
            code.count(asked, &seen.container.service, ended);
        }
    }
    let left: Vec<String> = view.seen.keys().cloned().collect();
    left.iter().try_for_each(|id| view.say_ended(id))?;
    Ok(match (interrupted, asked.ends, &asked.code_from) {
        (true, ..) => INTERRUPTED,
        (_, Ends::Last, None) => 0,
        _ => code.code,
    })
}

/// Takes an event in; exit code and service of a container that has ended for good.
async fn event_of(
    view: &mut View<'_>,
    project: &Project,
    asked: &Attach,
    event: &Value,
) -> Result<Option<(i64, String)>> {
    let id = text(&event["Actor"], "ID");
    let attributes = &event["Actor"]["Attributes"];
    let service = text(attributes, found::SERVICE);
    match event["Action"].as_str() {
        Some("start") => {
            let since = logs::since(event);
            match view.seen.get_mut(&id) {
                Some(seen) if seen.ended.is_some() || !seen.streaming => {
                    seen.again = Some(since);
                    view.alive.insert(id.clone());
                    view.say_ended(&id)?;
                }
                Some(_) => {}
                // One that was made meanwhile: all that it says is new.
                None if asked.shown.contains(&service) => {
                    let all = found::of(view.s.api, &project.name, &[service]).await?;
                    if let Some(container) = all.into_iter().find(|c| c.id == id) {
                        let name = container.shown(&project.name);
                        let (ended, again, finished) = (None, None, String::new());
                        let seen = Seen { container, name, streaming: false, ended, again, finished };
                        view.seen.insert(id.clone(), seen);
                        view.alive.insert(id.clone());
                        view.follow(&id, "0");
                    }
                }
                None => {}
            }
            Ok(None)
        }
        Some("die") if view.seen.contains_key(&id) => {
            let code = text(attributes, "exitCode").parse().unwrap_or(0);
            if let Some(seen) = view.seen.get_mut(&id) {
                seen.ended = Some(code);
            }
            view.say_ended(&id)?;
            let path = view.seen[&id].container.path();
            let found = view.s.api.get(&format!("{path}/json"), &Query::new()).await;
            let again = found.is_ok_and(|f| {
                f["State"]["Restarting"] == Value::Bool(true) || f["State"]["Running"] == Value::Bool(true)
            });
            if again {
                return Ok(None);
            }
            view.alive.remove(&id);
            Ok(Some((code, service)))
        }
        Some("destroy") => {
            view.alive.remove(&id);
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn on_signal<'a>(
    s: &'a Session<'_>,
    project: &'a Project,
    asked: &'a Attach,
    again: bool,
) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>> {
    if again {
        return Box::pin(kill(s, project, asked));
    }
    eprintln!("Gracefully Stopping... press Ctrl+C again to force");
    Box::pin(stop(s, project, asked))
}

async fn stop(s: &Session<'_>, project: &Project, asked: &Attach) -> Result<()> {
    let all = found::of(s.api, &project.name, &asked.services).await?;
    let edges = graph::of_files(project.services());
    lifecycle::stop_found(s, Some(project), &edges, &all, asked.timeout).await
}

async fn kill(s: &Session<'_>, project: &Project, asked: &Attach) -> Result<()> {
    let all = found::of(s.api, &project.name, &asked.services).await?;
    let running = all.iter().filter(|c| c.running());
    let killed = running.map(|c| lifecycle::kill_container(s, c, "SIGKILL"));
    super::output::gathered(futures::future::join_all(killed).await)
}
