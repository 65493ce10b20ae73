//! What waits for the metadata's writer, and who of those that wait for it is told what where the disk refuses.

use std::collections::{HashMap, HashSet};

use super::{Change, Done};

/// One caller's changes: all of them are written, or none.
pub(super) struct Write {
    pub(super) changes: Vec<Change>,
    /// Who waits for them; none = nobody does.
    pub(super) done: Option<Done>,
}

impl Write {
    fn puts(&self) -> bool {
        self.changes.iter().any(|c| c.value.is_some())
    }
}

/// What waits to be written, in the order it came in.
#[derive(Default)]
pub(super) struct Pending(Vec<Write>);

impl Pending {
    pub(super) fn add(&mut self, write: Write) {
        self.0.push(write);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to become of each key: a later change replaces an earlier one.
    pub(super) fn changes(&self) -> HashMap<&str, Option<&[u8]>> {
        let all = self.0.iter().flat_map(|w| &w.changes);
        all.map(|c| (c.key.as_str(), c.value.as_deref())).collect()
    }

    /// Whether somebody waits for a removal of something, and of nothing else.
    pub(super) fn removes(&self) -> bool {
        self.0.iter().any(|w| w.done.is_some() && !w.changes.is_empty() && !w.puts())
    }

    /// Tells those who wait for something to be put that it is not: it shall not be later either.
    pub(super) fn refuse_puts(&mut self, why: &str) {
        for refused in self.0.extract_if(.., |w| w.done.is_some() && w.puts()) {
            tell(refused.done, Err(why.to_owned()));
        }
    }

    /// The same for all who wait. What nobody waits for is kept, the last of each key.
    pub(super) fn refuse(&mut self, why: &str) {
        for refused in self.0.extract_if(.., |w| w.done.is_some()) {
            tell(refused.done, Err(why.to_owned()));
        }
        let mut seen = HashSet::new();
        let newest_first = self.0.drain(..).rev().flat_map(|w| w.changes.into_iter().rev());
        let kept: Vec<Change> = newest_first.filter(|c| seen.insert(c.key.clone())).collect();
        if !kept.is_empty() {
            self.0.push(Write { changes: kept, done: None });
        }
    }

    /// All of it is on disk.
    pub(super) fn written(&mut self) {
        self.0.drain(..).for_each(|w| tell(w.done, Ok(())));
    }
}

pub(super) fn tell(waiter: Option<Done>, outcome: Result<(), String>) {
    // Who left wants to know nothing.
    let _ = waiter.map(|w| w.send(outcome));
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    type Waiting = oneshot::Receiver<Result<(), String>>;

    /// `a=1 -b` = a put and a removal by one caller, who waits if that begins with `!`.
    fn pending(text: &str) -> (Pending, Vec<Waiting>) {
        let (mut pending, mut waits) = (Pending::default(), Vec::new());
        for write in text.split(';').map(str::trim).filter(|w| !w.is_empty()) {
            let (done, wait) = oneshot::channel();
            let awaited = write.starts_with('!');
            let one = |change: &str| {
                let (key, value) = match change.split_once('=') {
                    Some((key, value)) => (key, Some(value.as_bytes().to_vec())),
                    None => (change.trim_start_matches('-'), None),
                };
                Change { key: key.to_owned(), value }
            };
            let changes = write.trim_start_matches('!').split_whitespace().map(one).collect();
            pending.add(Write { changes, done: awaited.then_some(done) });
            waits.extend(awaited.then_some(wait));
        }
        (pending, waits)
    }

    fn shown(pending: &Pending) -> String {
        let mut all: Vec<String> = pending
            .changes()
            .into_iter()
            .map(|(key, value)| match value {
                Some(value) => format!("{key}={}", String::from_utf8_lossy(value)),
                None => format!("-{key}"),
            })
            .collect();
        all.sort();
        all.join(" ")
    }

    /// Of each who waits: told of success (`+`) or failure (`-`), or nothing yet (`.`).
    fn told(waits: &mut [Waiting]) -> String {
        waits
            .iter_mut()
            .map(|w| w.try_recv().map_or('.', |told| if told.is_ok() { '+' } else { '-' }))
            .collect()
    }

    #[test]
    fn what_is_refused_is_not_written_later_and_the_rest_is() {
        // What came; what is to be written of it, and whether a removal waits; the same once puts were refused, and who was told;
        // the same once all who wait were (`.` = told before).
        for (came, all, removes, without_puts, told_first, kept, told_last) in [
            ("", "", false, "", "", "", ""),
            ("a=1; a=2; -b", "-b a=2", false, "-b a=2", "", "-b a=2", ""),
            ("!a=1", "a=1", false, "", "-", "", "."),
            ("!-a", "-a", true, "-a", ".", "", "-"),
            ("!", "", false, "", ".", "", "-"),
            ("a=1; !", "a=1", false, "a=1", ".", "a=1", "-"),
            ("!a=1; !-b", "-b a=1", true, "-b", "-.", "", ".-"),
            ("!a=1 -b; !-c", "-b -c a=1", true, "-c", "-.", "", ".-"),
            ("!a=1 -b", "-b a=1", false, "", "-", "", "."),
            ("a=1; !a=2", "a=2", false, "a=1", "-", "a=1", "."),
            ("a=1; !-a; a=3", "a=3", true, "a=3", ".", "a=3", "-"),
            ("a=1; !a=2; a=3; !-b; c=1", "-b a=3 c=1", true, "-b a=3 c=1", "-.", "a=3 c=1", ".-"),
        ] {
            let (mut waiting, mut waits) = pending(came);
            assert_eq!((shown(&waiting).as_str(), waiting.removes()), (all, removes), "{came}");
            waiting.refuse_puts("full");
            assert_eq!(
                (shown(&waiting).as_str(), told(&mut waits).as_str()),
                (without_puts, told_first),
                "{came}"
            );
            waiting.refuse("full");
            assert_eq!((shown(&waiting).as_str(), told(&mut waits).as_str()), (kept, told_last), "{came}");
            assert_eq!(waiting.is_empty(), kept.is_empty(), "{came}");
            let (mut waiting, mut waits) = pending(came);
            waiting.written();
            assert!(waiting.is_empty() && told(&mut waits).chars().all(|c| c == '+'), "{came}");
        }
    }
}
