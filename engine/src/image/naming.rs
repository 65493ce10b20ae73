//! References that an image is given, with the time at which it last got a tag.

use tokio::sync::OwnedMutexGuard;

use super::catalogue::State;
use super::store::Images;
use crate::error::Error;
use crate::events::now_ns;
use crate::metadata::{Change, Kind};

/// An image gets references, now.
pub(super) struct Naming {
    id: String,
    references: Vec<String>,
    at_ns: i64,
}

impl Naming {
    pub(super) fn new(id: &str, references: impl IntoIterator<Item = String>) -> Self {
        Self { id: id.to_owned(), references: references.into_iter().collect(), at_ns: now_ns() }
    }

    /// Digests are no tags.
    fn tags(&self) -> bool {
        self.references.iter().any(|r| !r.contains('@'))
    }

    /// As the metadata has it.
    pub(super) fn changes(&self) -> Result<Vec<Change>, Error> {
        let references = self.references.iter().map(|r| Change::put(Kind::Reference, r, &self.id));
        let tagged = self.tags().then(|| Change::put(Kind::Tagged, &self.id, &self.at_ns));
        references.chain(tagged).collect()
    }

    /// As the store has it, once that is written.
    pub(super) fn apply(self, state: &mut State) {
        if self.tags() {
            state.tagged.insert(self.id.clone(), self.at_ns);
        }
        let Self { id, references, .. } = self;
        state.references.extend(references.into_iter().map(|r| (r, id.clone())));
    }
}

impl Images {
    /// Gives an image names, on the disk first; in a task of its own, so that what is on the disk is known here also where
    /// whoever asked has left.
    pub(super) async fn give(&self, naming: Naming, changing: OwnedMutexGuard<()>) -> Result<(), Error> {
        let images = self.clone();
        let given = tokio::spawn(async move {
            let _changing = changing;
            images.metadata().commit(naming.changes()?).await?;
            naming.apply(&mut images.state());
            Ok(())
        });
        given.await.map_err(|_| Error::ShuttingDown)?
    }
}
