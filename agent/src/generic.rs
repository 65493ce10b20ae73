//! What a container is told of the generic resources its task holds.

use std::collections::BTreeMap;

use skep_proto::v1::GenericResource;

/// `DOCKER_RESOURCE_GPU=one,two`, and `DOCKER_RESOURCE_APPLE=4` of an amount, as Docker sets them.
pub(crate) fn variables(held: &[GenericResource]) -> impl Iterator<Item = String> {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for r in held {
        let value = if r.name.is_empty() { r.amount.to_string() } else { r.name.clone() };
        kinds.entry(r.kind.to_uppercase()).or_default().push(value);
    }
    kinds.into_iter().map(|(kind, values)| format!("DOCKER_RESOURCE_{kind}={}", values.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_and_amounts_are_told() {
        let of =
            |kind: &str, name: &str, amount| GenericResource { kind: kind.into(), name: name.into(), amount };
        let held = [of("gpu", "one", 0), of("apple", "", 4), of("gpu", "two", 0)];
        let told: Vec<_> = variables(&held).collect();
        assert_eq!(told, ["DOCKER_RESOURCE_APPLE=4", "DOCKER_RESOURCE_GPU=one,two"]);
    }
}
