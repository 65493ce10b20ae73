//! What a build says. Stages run side by side, and each speaks in its turn: in the order they are written in, so that what
//! is read is what would be read if they ran one after the other.

use serde_json::Value;
use tokio::sync::mpsc;

use crate::image::Progress;

/// One thing that a build says.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildEvent {
    /// Text, with its line ends.
    Text(String),
    /// Where the pull of a base image has got to.
    Pull(Progress),
    /// A result for programs.
    Aux(Value),
}

/// Where it goes.
#[derive(Clone, Debug)]
pub(super) struct Output {
    to: mpsc::UnboundedSender<BuildEvent>,
}

impl Output {
    pub(super) fn new(to: mpsc::UnboundedSender<BuildEvent>) -> Self {
        Self { to }
    }

    pub(super) fn event(&self, event: BuildEvent) {
        // Whoever listened may have left; the build ends by being dropped then.
        let _ = self.to.send(event);
    }

    pub(super) fn text(&self, text: impl Into<String>) {
        self.event(BuildEvent::Text(text.into()));
    }

    pub(super) fn line(&self, text: impl std::fmt::Display) {
        self.text(format!("{text}\n"));
    }

    /// One output for each of `count` speakers, and what makes them speak in turn until the last has fallen silent.
    pub(super) fn in_turn(&self, count: usize) -> (Vec<Self>, impl Future<Output = ()> + use<>) {
        let (outputs, inputs): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let to = self.clone();
        let relay = async move {
            for mut input in inputs {
                while let Some(event) = input.recv().await {
                    to.event(event);
                }
            }
        };
        (outputs.into_iter().map(Self::new).collect(), relay)
    }
}
