//! A service that is scaled by what its tasks use, as its user sees it.

use std::sync::Arc;

use skep_manager::control::ControlHandle;
use skep_manager::store::StoreView;
use skep_proto::v1;
use skep_proto::v1::service_spec::Mode;

use crate::client::{Record, Want, want_of};

/// The name of the one there is.
pub const NAME: &str = "scaled";
/// The replicas it may have.
pub const BOUNDS: (u64, u64) = (2, 6);

/// Makes the service.
pub struct ScaledCommand {
    pub record: Arc<Record>,
}

impl ScaledCommand {
    pub async fn run(self, control: ControlHandle) {
        for replicas in BOUNDS.0..=BOUNDS.1 {
            self.record.stranger(NAME, Want { replicas, image: 1 });
        }
        let container = v1::ContainerSpec { image: "image:1".into(), ..Default::default() };
        let spec = v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: NAME.into(), ..Default::default() }),
            task: Some(v1::TaskSpec { container: Some(container), ..Default::default() }),
            mode: Some(Mode::Replicated(v1::Replicated { replicas: 1 })),
            autoscale: Some(v1::Autoscale {
                min: BOUNDS.0,
                max: BOUNDS.1,
                cpu_percent: 50.0,
                cooldown_ns: Some(1_000_000_000),
                window_ns: Some(10_000_000_000),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.record.make(&control, "the scaled service", spec).await;
    }
}

/// The replicas it is to have, by a state of the swarm.
pub fn replicas(view: &StoreView) -> Result<u64, String> {
    view.service_by_name(NAME).map(|s| want_of(s).replicas).ok_or_else(|| "it is not there".to_owned())
}
