//! A leader without raft: commands change the store as control and the agents would, then the leader's passes
//! run until nothing is left to do, and what holds always is checked.

mod check;
mod parse;
mod show;

use rand::SeedableRng;
use rand::rngs::StdRng;
use skep_manager::leader::{Dirty, pass};
use skep_manager::orchestrator::slot::{self, SlotKey};
use skep_manager::orchestrator::task;
use skep_manager::store::change::put;
use skep_manager::store::{Store, StoreView, Update, Watch};
use skep_proto::v1;
use v1::TaskState;

use parse::Words;

pub type Result<T> = std::result::Result<T, String>;

/// The service with a rebalance asked for.
fn asked(view: &StoreView, words: &Words) -> Result<v1::Service> {
    let mut service = v1::Service::clone(view.find_service(words.name()?).map_err(|e| e.to_string())?);
    skep_manager::rebalancer::ask(&mut service, 1);
    Ok(service)
}

/// One scenario's cluster.
pub struct Driver {
    store: Store,
    watch: Watch,
    dirty: Dirty,
    rng: StdRng,
    now_ms: i64,
}

impl Driver {
    pub fn new() -> Self {
        let store = Store::new();
        let (_, watch) = store.subscribe();
        Self { store, watch, dirty: Dirty::default(), rng: StdRng::seed_from_u64(7), now_ms: 1_000_000 }
    }

    /// Runs one command and returns what it prints.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let words = Words::new(command);
        let view = self.store.view();
        match words.verb() {
            "reset" => self.apply(vec![put(parse::cluster(&Words::new("cluster c"))?)]),
            "cluster" => self.apply(vec![put(parse::cluster(&words)?)]),
            "node" => self.apply(vec![put(parse::node(&view, &words)?)]),
            "node-rm" => self.apply(vec![skep_manager::store::change::remove_node(words.name()?)]),
            "network" => self.apply(vec![put(parse::network(&words)?)]),
            "service" => self.apply(parse::service(&view, &words, self.now_ms)?),
            "remove" => {
                let mut service =
                    v1::Service::clone(view.find_service(words.name()?).map_err(|e| e.to_string())?);
                service.removing = true;
                self.apply(vec![put(service)]);
            }
            "rebalance" => self.apply(vec![put(asked(&view, &words)?)]),
            "agent" => return self.agents(&words).map(|()| String::new()),
            "report" => self.report(&words)?,
            "advance" => {
                self.advance(parse::duration_ms(words.name()?)?);
                return Ok(String::new());
            }
            "new-leader" => self.dirty = Dirty::all(&view),
            "tasks" => return Ok(show::tasks(&view)),
            "status" => return show::status(&view, words.name()?),
            "networks" => return Ok(show::networks(&view)),
            "blocks" => return Ok(show::blocks(&view, words.name()?)),
            "unfinished" => return Ok(show::unfinished(&view)),
            "explain" => return self.explain(&words),
            "plan" => return self.plan(&words),
            "runs" => return show::runs(&view, words.name()?),
            "underway" => return show::under_way(&view, words.name()?),
            "sleep" => {
                // Nobody leads meanwhile.
                self.now_ms += parse::duration_ms(words.name()?)?;
                return Ok(String::new());
            }
            "balance" => return show::balance(&view, words.name()?),
            "homes" => return Ok(show::homes(&view)),
            "spread" => return Ok(show::spread(&view)),
            other => return Err(format!("no such command: {other}")),
        }
        self.settle();
        Ok(String::new())
    }

    /// `explain web.1`: what the scheduler makes of the nodes for the slot's newest task.
    fn explain(&self, words: &Words) -> Result<String> {
        let view = self.store.view();
        let (service, number) = words.name()?.rsplit_once('.').ok_or("explain SERVICE.SLOT")?;
        let service = view.find_service(service).map_err(|e| e.to_string())?;
        let slots = slot::slots(&view, service);
        let one = slots.iter().find(|(key, _)| match key {
            SlotKey::Replica(n) => n.to_string() == number,
            SlotKey::Node(id) => id == number,
        });
        let (_, slot) = one.ok_or("no such slot")?;
        let t = slot.newest().ok_or("the slot is empty")?;
        let standing = skep_manager::explain::standing(&view, slot, t, self.now_ms);
        let live = task::live(t);
        let placement = live.then(|| skep_manager::scheduler::explain(&view, t, self.now_ms));
        Ok(show::explanation(&standing, placement.as_ref()))
    }

    /// `plan service web image=v2`, `plan node n1 availability=drain`, `plan remove web`: what would come of it.
    fn plan(&self, words: &Words) -> Result<String> {
        let view = self.store.view();
        let words = Words::new(words.after_verb());
        let changes = match words.verb() {
            "node" => vec![put(parse::node(&view, &words)?)],
            "service" => parse::service(&view, &words, self.now_ms)?,
            "rebalance" => vec![put(asked(&view, &words)?)],
            other => return Err(format!("no plan for {other}")),
        };
        // Not the driver's: its tasks would have the identifiers of those there are.
        let mut rng = StdRng::seed_from_u64(8);
        let found = skep_manager::forecast::forecast(&view, changes, self.now_ms, &mut rng);
        Ok(show::plan(&found))
    }

    fn apply(&mut self, changes: Vec<v1::Change>) {
        let view = self.store.view();
        let batch = v1::Batch { changes, at_ms: self.now_ms, based_on: view.index, ..Default::default() };
        self.store.apply(view.index + 1, batch).expect("based on the latest state");
        while let Some(update) = self.watch.try_next() {
            match update {
                Update::Commit(c) => c.events.iter().for_each(|e| self.dirty.event(&c.view, e)),
                Update::Resync(view) => self.dirty.merge(Dirty::all(&view)),
            }
        }
    }

    /// Runs passes until there is nothing to do now.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.dirty.due(self.now_ms);
            if !self.dirty.any() {
                return;
            }
            let mut work = self.dirty.take();
            let before = self.store.view();
            let changes = pass(&before, &mut work, self.now_ms, &mut self.rng);
            self.dirty.merge(work);
            if !changes.is_empty() {
                self.apply(changes);
                check::invariants(&before, &self.store.view());
            }
        }
        panic!("the leader does not come to rest");
    }

    fn advance(&mut self, by_ms: i64) {
        let end = self.now_ms + by_ms;
        while let Some(at) = self.dirty.next_wake().filter(|at| *at <= end) {
            self.now_ms = self.now_ms.max(at);
            self.settle();
        }
        self.now_ms = end;
        self.settle();
    }

    /// Every agent whose node is up brings its tasks to where they are wanted; `once`: one report each; `ends`: the
    /// tasks of jobs come to their end.
    fn agents(&mut self, words: &Words) -> Result<()> {
        for _ in 0..100 {
            let view = self.store.view();
            let next: Vec<_> =
                view.tasks().filter_map(|t| self.step(&view, t, words.has("ends"))).map(put).collect();
            if next.is_empty() {
                return Ok(());
            }
            self.apply(next);
            self.settle();
            if words.has("once") {
                return Ok(());
            }
        }
        Err("the agents never come to rest".to_owned())
    }

    fn step(&self, view: &StoreView, t: &v1::Task, ends: bool) -> Option<v1::Task> {
        let state = task::state(t);
        if state < TaskState::Assigned || task::finished(t) || task::node_lost(view, &t.node_id) {
            return None;
        }
        let next = match t.desired_state() {
            d if d > TaskState::Complete => TaskState::Shutdown,
            TaskState::Complete if state < TaskState::Running => TaskState::Running,
            TaskState::Complete if !ends => return None,
            d if state < d => d,
            _ => return None,
        };
        Some(self.reported(t, next, ""))
    }

    fn reported(&self, t: &v1::Task, state: TaskState, err: &str) -> v1::Task {
        let mut t = t.clone();
        let status = v1::TaskStatus { timestamp_ms: self.now_ms, err: err.to_owned(), ..Default::default() };
        t.status.replace(status).unwrap_or_default();
        t.status.get_or_insert_default().set_state(state);
        t
    }

    /// `report web.1 failed`: what the agent of the slot's live task says; `older`: of the oldest that has not ended.
    fn report(&mut self, words: &Words) -> Result<()> {
        let view = self.store.view();
        let (service, slot) = words.name()?.rsplit_once('.').ok_or("report SERVICE.SLOT STATE")?;
        let service = view.find_service(service).map_err(|e| e.to_string())?;
        let state = words.rest().first().ok_or("report SERVICE.SLOT STATE")?.to_uppercase();
        let state = TaskState::from_str_name(&format!("TASK_STATE_{state}")).ok_or("no such state")?;
        let older = words.has("older");
        let mut live: Vec<_> = view
            .tasks_of_service(&service.id)
            .filter(|t| t.slot.to_string() == slot || t.node_id == slot)
            .filter(|t| if older { !task::finished(t) } else { task::live(t) })
            .collect();
        live.sort_by(|a, b| task::age_key(a).cmp(&task::age_key(b)));
        let live = if older { live.first() } else { live.last() };
        let live = live.ok_or("the slot has no live task")?;
        let err = if state > TaskState::Complete { "exit code 1" } else { "" };
        self.apply(vec![put(self.reported(live, state, err))]);
        Ok(())
    }
}
