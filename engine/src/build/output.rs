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

/// Events that wait to be heard before who speaks has to wait.
const PENDING: usize = 256;

/// Where it goes.
#[derive(Clone, Debug)]
pub(super) struct Output {
    to: mpsc::Sender<BuildEvent>,
}

impl Output {
    pub(super) fn new(to: mpsc::Sender<BuildEvent>) -> Self {
        Self { to }
    }

    /// Says something; waits for a listener that is slow, and so does the command that speaks.
    pub(super) async fn event(&self, event: BuildEvent) {
        // Whoever listened may have left; the build ends by being dropped then.
        let _ = self.to.send(event).await;
    }

    /// Says how far a pull has got, unless nobody can hear it now.
    pub(super) fn progress(&self, progress: Progress) {
        let _ = self.to.try_send(BuildEvent::Pull(progress));
    }

    pub(super) async fn text(&self, text: String) {
        self.event(BuildEvent::Text(text)).await;
    }

    pub(super) async fn line(&self, mut text: String) {
        text.push('\n');
        self.text(text).await;
    }

    /// One output for each of `count` speakers, and what makes them speak in turn until the last has fallen silent.
    /// One that waits for its turn waits for those before it only.
    pub(super) fn in_turn(&self, count: usize) -> (Vec<Self>, impl Future<Output = ()> + use<>) {
        let (outputs, inputs): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(PENDING)).unzip();
        let to = self.clone();
        let relay = async move {
            for mut input in inputs {
                while let Some(event) = input.recv().await {
                    to.event(event).await;
                }
            }
        };
        (outputs.into_iter().map(Self::new).collect(), relay)
    }
}
