//! GPUs that a service asks for by their number: they are units of a generic resource.

use crate::v1::DeviceRequest;

/// The generic resource by which GPUs are counted.
pub const GPU: &str = "gpu";

/// What a request has to name one of for the engine to take it for one of GPUs.
const CAPABILITIES: [&str; 2] = [GPU, "nvidia"];

/// Whether GPUs are asked for by their number: a task gets those that no other task on its node has.
pub fn are_counted(r: &DeviceRequest) -> bool {
    let mut words = r.capabilities.iter().flat_map(|c| &c.words);
    r.driver != "cdi" && r.device_ids.is_empty() && words.any(|w| CAPABILITIES.contains(&w.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Words;

    #[test]
    fn whatever_the_engine_takes_for_gpus_is_counted_unless_it_is_named() {
        let of = |word: &str| DeviceRequest {
            count: 1,
            capabilities: vec![Words { words: vec!["compute".into(), word.into()] }],
            ..Default::default()
        };
        assert!(are_counted(&of("gpu")) && are_counted(&of("nvidia")) && !are_counted(&of("tpu")));
        assert!(!are_counted(&DeviceRequest { device_ids: vec!["0".into()], ..of("gpu") }));
        assert!(!are_counted(&DeviceRequest { driver: "cdi".into(), ..of("gpu") }));
    }
}
