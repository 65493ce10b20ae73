//! Generic resources: `GenericResources` of nodes, services and tasks, as Docker writes them.

use serde_json::{Value, json};
use skep_proto::v1::GenericResource;

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Reads a list; each is an amount or a named unit.
pub fn read(list: Vec<Fields>) -> ApiResult<Vec<GenericResource>> {
    list.into_iter().map(one).collect()
}

fn one(mut f: Fields) -> ApiResult<GenericResource> {
    let path = f.path("DiscreteResourceSpec");
    let (discrete, named) = (f.opt_object("DiscreteResourceSpec")?, f.opt_object("NamedResourceSpec")?);
    f.refuse_rest(&[])?;
    let resource = match (discrete, named) {
        (Some(mut f), None) => {
            let resource =
                GenericResource { kind: f.string("Kind")?, name: String::new(), amount: f.i64("Value")? };
            f.refuse_rest(&[])?;
            resource
        }
        (None, Some(mut f)) => {
            let resource = GenericResource { kind: f.string("Kind")?, name: f.string("Value")?, amount: 0 };
            f.refuse_rest(&[])?;
            resource
        }
        _ => return Err(ApiError::bad_request(format!("{path}: give either this or NamedResourceSpec"))),
    };
    Ok(resource)
}

/// Writes a list.
pub fn write(list: &[GenericResource]) -> Value {
    let one = |r: &GenericResource| match r.name.as_str() {
        "" => json!({ "DiscreteResourceSpec": { "Kind": r.kind, "Value": r.amount } }),
        name => json!({ "NamedResourceSpec": { "Kind": r.kind, "Value": name } }),
    };
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let of =
            |kind: &str, name: &str, amount| GenericResource { kind: kind.into(), name: name.into(), amount };
        let all = vec![of("apple", "", 4), of("gpu", "one", 0)];
        let written = json!({ "G": write(&all) });
        assert_eq!(written["G"][1], json!({"NamedResourceSpec": {"Kind": "gpu", "Value": "one"}}));
        let mut f = Fields::of(written, "").expect("an object");
        assert_eq!(f.objects("G").and_then(read), Ok(all));
        let mut f = Fields::of(json!({ "G": [{}] }), "").expect("an object");
        assert!(f.objects("G").and_then(read).is_err());
    }
}
