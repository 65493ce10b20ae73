//! `--cache-from` as clients send it: a list of images, or BuildKit's `type=registry,ref=IMAGE`. Docker's classic client takes
//! what it is given apart at commas, so the fields of one source may come as several entries.
//! <https://docs.docker.com/reference/cli/docker/buildx/build/#cache-from>

use std::collections::BTreeMap;

use skep_engine::Reference;

use crate::error::{ApiError, ApiResult};

/// The images that are named, each once.
pub fn read(given: &[String]) -> ApiResult<Vec<String>> {
    let mut images = Images::default();
    for entry in given {
        // One with commas is whole by itself.
        let whole = entry.contains(',');
        if whole {
            images.close()?;
        }
        for field in entry.split(',').map(str::trim).filter(|f| !f.is_empty()) {
            match field.split_once('=') {
                None => {
                    images.close()?;
                    images.add(field)?;
                }
                Some((key, value)) => images.field(&key.to_ascii_lowercase(), value)?,
            }
        }
        if whole {
            images.close()?;
        }
    }
    images.close()?;
    Ok(images.named)
}

#[derive(Default)]
struct Images {
    named: Vec<String>,
    /// Fields of the source that is being read.
    open: BTreeMap<String, String>,
}

impl Images {
    /// A field that the source has already is the next one's.
    fn field(&mut self, key: &str, value: &str) -> ApiResult<()> {
        if self.open.contains_key(key) {
            self.close()?;
        }
        self.open.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// The source is read to its end.
    fn close(&mut self) -> ApiResult<()> {
        let mut fields = std::mem::take(&mut self.open);
        if fields.is_empty() {
            return Ok(());
        }
        let all = fields.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        let (kind, reference) = (fields.remove("type"), fields.remove("ref"));
        match kind.as_deref() {
            Some("registry") => {}
            Some(kind) => {
                return Err(ApiError::bad_request(format!(
                    "cache-from {all}: type={kind} is not supported: steps of other builds are taken from images; push the image \
                     that was built, and name it, IMAGE or type=registry,ref=IMAGE"
                )));
            }
            None => {
                return Err(ApiError::bad_request(format!(
                    "cache-from {all} is not valid: want IMAGE or type=registry,ref=IMAGE"
                )));
            }
        }
        if let Some(key) = fields.keys().next() {
            return Err(ApiError::bad_request(format!(
                "cache-from {all}: {key} of type=registry is not supported: leave it out"
            )));
        }
        let reference = reference.filter(|r| !r.is_empty());
        self.add(&reference.ok_or_else(|| {
            ApiError::bad_request(format!("cache-from {all} names no image: want type=registry,ref=IMAGE"))
        })?)
    }

    fn add(&mut self, name: &str) -> ApiResult<()> {
        let is_id = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id {
            Reference::parse(name)
                .map_err(|e| ApiError::bad_request(format!("cache-from {name:?} is no image: {e}")))?;
        }
        if !self.named.iter().any(|n| n == name) {
            self.named.push(name.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn images_are_named_in_the_forms_of_either_client() {
        let id = "0".repeat(64);
        for (given, wanted) in [
            (&[][..], &[][..]),
            (&[""], &[]),
            (&["app"], &["app"]),
            (
                &[
                    "app:1",
                    "h:5000/app@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                ],
                &[
                    "app:1",
                    "h:5000/app@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                ],
            ),
            (&["a,b", "c", "a"], &["a", "b", "c"]),
            (&[&id], &[&id]),
            (&["type=registry,ref=a:1"], &["a:1"]),
            (&["ref=a,type=registry", "ref=b,type=registry"], &["a", "b"]),
            // As Docker's classic client sends them.
            (&["type=registry", "ref=a", "type=registry", "ref=b"], &["a", "b"]),
            (&["ref=a", "type=registry", "ref=b", "type=registry", "c"], &["a", "b", "c"]),
            (&["a", "Type=registry", "REF=b"], &["a", "b"]),
        ] {
            let given: Vec<String> = given.iter().map(|g| (*g).to_owned()).collect();
            assert_eq!(read(&given).expect("it is read"), wanted, "{given:?}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_its_name() {
        for (given, wanted) in [
            ("type=local,src=/tmp/x", "type=local is not supported"),
            ("type=gha,scope=x", "type=gha is not supported"),
            ("type=s3,region=r,bucket=b", "type=s3 is not supported"),
            ("type=inline", "type=inline is not supported"),
            ("type=registry", "names no image"),
            ("type=registry,ref=", "names no image"),
            ("ref=a", "want IMAGE or type=registry,ref=IMAGE"),
            ("ref=a,b,type=registry", "want IMAGE or type=registry,ref=IMAGE"),
            ("type=registry,ref=a,insecure=true", "insecure of type=registry"),
            ("UPPER", "is no image"),
            ("a b", "is no image"),
            ("type=registry,ref=a=b", "is no image"),
        ] {
            let said = read(&[given.to_owned()]).expect_err(given).message;
            assert!(said.contains(wanted), "{given}: {said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_given_is_read_or_refused(given in proptest::collection::vec("[a=,: ]{0,12}|(type|ref)=[a-z,]{0,9}", 0..4)) {
            if let Ok(images) = read(&given) {
                prop_assert!(images.iter().all(|i| Reference::parse(i).is_ok()));
            }
        }
    }
}
