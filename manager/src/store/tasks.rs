//! The tasks of a view, and the orders they are asked for in. There are far more tasks than other objects, and
//! most changes are of tasks. So each is held once, in a row that is its own for life, and the indexes hold
//! row numbers: a change of status writes one row and no index, and an assignment copies a few bytes.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use skep_proto::v1;

use super::event::Diff;
use super::key::Key;
use crate::orchestrator::task;

/// Rows by slot, then row.
type Slots = OrdSet<(u64, u32)>;

/// All tasks.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    rows: Vector<Option<Arc<v1::Task>>>,
    /// Rows without a task, used again before new ones are added.
    vacant: Vector<u32>,
    pub ids: OrdMap<Key, u32>,
    services: OrdMap<Key, Slots>,
    /// Those that wait for a node.
    waiting: OrdMap<Key, Slots>,
    /// In no order. A node holds a few hundred: one short copy for each batch that touches it.
    nodes: OrdMap<Key, Arc<Vec<u32>>>,
}

impl Tasks {
    pub fn get(&self, id: &str) -> Option<&Arc<v1::Task>> {
        self.ids.get(id.as_bytes()).map(|row| self.at(*row))
    }

    /// The task in a row that an index names.
    pub fn at(&self, row: u32) -> &Arc<v1::Task> {
        let task = self.rows.get(row as usize).and_then(Option::as_ref);
        task.expect("an index only names rows that hold a task")
    }

    pub fn by_id(&self) -> impl ExactSizeIterator<Item = &Arc<v1::Task>> {
        self.ids.values().map(|row| self.at(*row))
    }

    /// In the order of the rows, the quickest to walk.
    pub fn in_any_order(&self) -> impl Iterator<Item = &Arc<v1::Task>> {
        self.rows.iter().flatten()
    }

    pub fn of_service(&self, id: &str) -> impl Iterator<Item = &Arc<v1::Task>> {
        self.services.get(id.as_bytes()).into_iter().flatten().map(|(_, row)| self.at(*row))
    }

    pub fn of_slot(&self, service_id: &str, slot: u64) -> impl Iterator<Item = &Arc<v1::Task>> {
        let range = (Bound::Included((slot, 0)), Bound::Included((slot, u32::MAX)));
        self.services
            .get(service_id.as_bytes())
            .into_iter()
            .flat_map(move |slots| slots.range(range))
            .map(|(_, row)| self.at(*row))
    }

    pub fn of_node(&self, id: &str) -> impl ExactSizeIterator<Item = &Arc<v1::Task>> {
        self.nodes.get(id.as_bytes()).map_or(&[][..], |rows| rows).iter().map(|row| self.at(*row))
    }

    pub fn waiting(&self) -> impl Iterator<Item = (&Key, impl ExactSizeIterator<Item = &Arc<v1::Task>>)> {
        self.waiting.iter().map(|(service, slots)| (service, slots.iter().map(|(_, row)| self.at(*row))))
    }

    /// Creates the task or replaces it; `meta` is told the task as it was.
    pub fn put(
        &mut self,
        mut task: v1::Task,
        meta: impl FnOnce(Option<&v1::Task>) -> Option<v1::Meta>,
    ) -> Diff<v1::Task> {
        let (row, before, after) = match self.ids.get(task.id.as_bytes()) {
            Some(row) => {
                let cell = self.rows.get_mut(*row as usize).expect("an index only names rows there are");
                task.meta = meta(cell.as_deref());
                let after = Arc::new(task);
                (*row, cell.replace(after.clone()), after)
            }
            None => {
                task.meta = meta(None);
                let after = Arc::new(task);
                let row = self.add(after.clone());
                self.ids.insert(Key::from(after.id.as_str()), row);
                (row, None, after)
            }
        };
        self.index(row, before.as_deref(), Some(&after));
        Diff { before, after: Some(after) }
    }

    pub fn remove(&mut self, id: &str) -> Option<Arc<v1::Task>> {
        let row = self.ids.remove(id.as_bytes())?;
        let before = self.rows.get_mut(row as usize).and_then(Option::take)?;
        self.vacant.push_back(row);
        self.index(row, Some(&before), None);
        Some(before)
    }

    fn add(&mut self, task: Arc<v1::Task>) -> u32 {
        if let Some(row) = self.vacant.pop_back()
            && let Some(cell) = self.rows.get_mut(row as usize)
        {
            *cell = Some(task);
            return row;
        }
        self.rows.push_back(Some(task));
        u32::try_from(self.rows.len() - 1)
            .expect("more than four thousand million tasks do not fit in memory")
    }

    fn index(&mut self, row: u32, before: Option<&v1::Task>, after: Option<&v1::Task>) {
        fn place(t: &v1::Task) -> (&str, u64) {
            (&t.service_id, t.slot)
        }
        fn node(t: &v1::Task) -> Option<&str> {
            Some(t.node_id.as_str()).filter(|n| !n.is_empty())
        }
        let waits = |t: &&v1::Task| task::waiting(t);
        move_slot(&mut self.services, row, before.map(place), after.map(place));
        move_slot(&mut self.waiting, row, before.filter(waits).map(place), after.filter(waits).map(place));
        move_node(&mut self.nodes, row, before.and_then(node), after.and_then(node));
    }
}

fn move_slot(
    index: &mut OrdMap<Key, Slots>,
    row: u32,
    before: Option<(&str, u64)>,
    after: Option<(&str, u64)>,
) {
    if before == after {
        return;
    }
    if let Some((service, slot)) = before
        && let Some(slots) = index.get_mut(service.as_bytes())
    {
        slots.remove(&(slot, row));
        if slots.is_empty() {
            index.remove(service.as_bytes());
        }
    }
    if let Some((service, slot)) = after {
        match index.get_mut(service.as_bytes()) {
            Some(slots) => drop(slots.insert((slot, row))),
            None => drop(index.insert(Key::from(service), OrdSet::unit((slot, row)))),
        }
    }
}

fn move_node(index: &mut OrdMap<Key, Arc<Vec<u32>>>, row: u32, before: Option<&str>, after: Option<&str>) {
    if before == after {
        return;
    }
    if let Some(node) = before
        && let Some(rows) = index.get_mut(node.as_bytes())
    {
        let rows = Arc::make_mut(rows);
        if let Some(i) = rows.iter().position(|r| *r == row) {
            rows.swap_remove(i);
        }
        if rows.is_empty() {
            index.remove(node.as_bytes());
        }
    }
    if let Some(node) = after {
        match index.get_mut(node.as_bytes()) {
            Some(rows) => Arc::make_mut(rows).push(row),
            None => drop(index.insert(Key::from(node), Arc::new(vec![row]))),
        }
    }
}
