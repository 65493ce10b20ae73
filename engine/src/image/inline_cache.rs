//! What an image says of the steps that made it, for builds elsewhere that name it (`--cache-from`): the inline cache, as
//! BuildKit has it in `moby.buildkit.cache.v0`. It is one more field of the configuration, which other engines pass over.
//! <https://docs.docker.com/build/cache/backends/inline/>

use serde::{Deserialize, Serialize};

use super::config::Image;
use super::reference::is_hex;
use super::store::Images;
use crate::error::Error;

/// The field of the configuration. Keys of another meaning would want another name.
pub(super) const FIELD: &str = "skep.buildcache.v1";

/// Steps that are read of one image.
const MOST: usize = 4096;

/// A step that made a layer of an image, or might have made one. By content alone: the same input gives the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InlineStep {
    /// What the step is known by: a digest of all that it depends on.
    pub(crate) key: String,
    /// How many of the image's layers there were after it.
    pub(crate) layers: usize,
    /// Its line in the image's history, the first being 0.
    pub(crate) history: usize,
}

#[derive(Deserialize)]
struct Carrier {
    /// Named as [`FIELD`] is.
    #[serde(rename = "skep.buildcache.v1", default)]
    steps: Option<Vec<InlineStep>>,
}

impl Images {
    /// The steps that an image carries, checked against what else it says of itself; none = it carries none.
    ///
    /// # Errors
    /// They cannot be read, or do not fit the image.
    pub(crate) fn inline_cache_blocking(&self, image: &Image) -> Result<Vec<InlineStep>, Error> {
        let path = self.blob_path(&image.id);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        read(&bytes, image.chain_ids.len(), image.history.len()).map_err(Error::Invalid)
    }
}

fn read(config: &[u8], layers: usize, history: usize) -> Result<Vec<InlineStep>, String> {
    let carrier: Carrier = serde_json::from_slice(config)
        .map_err(|e| format!("{FIELD} of its configuration cannot be read: {e}"))?;
    let steps = carrier.steps.unwrap_or_default();
    if steps.len() > MOST {
        return Err(format!(
            "{FIELD} of its configuration tells of {} steps; the limit is {MOST}",
            steps.len()
        ));
    }
    for (n, step) in steps.iter().enumerate() {
        let wrong = if step.key.len() != 64 || !is_hex(&step.key) {
            "a key that is none".to_owned()
        } else if step.layers > layers {
            format!("{} layers, and there are {layers}", step.layers)
        } else if step.history >= history {
            format!("line {} of a history of {history}", step.history)
        } else {
            continue;
        };
        return Err(format!("{FIELD} of its configuration is not valid: step {n} names {wrong}"));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::config::ConfigBlob;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn field(value: &str) -> String {
        format!(r#"{{"os":"linux","{FIELD}":{value},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#)
    }

    #[test]
    fn what_is_carried_is_read_or_said_to_be_wrong() {
        let step = |key: &str, layers: i64, history: i64| {
            format!(r#"{{"key":"{key}","layers":{layers},"history":{history},"later":[1]}}"#)
        };
        let many = |n: usize| format!("[{}]", vec![step(KEY, 1, 1); n].join(","));
        for (value, wanted) in [
            (many(2), Ok(2)),
            (many(0), Ok(0)),
            ("null".into(), Ok(0)),
            (many(MOST), Ok(MOST)),
            (many(MOST + 1), Err("the limit is 4096")),
            (format!("[{}]", step(KEY, 0, 0)), Ok(1)),
            (format!("[{}]", step(KEY, 3, 0)), Err("step 0 names 3 layers, and there are 2")),
            (
                format!("[{},{}]", step(KEY, 1, 1), step(KEY, 1, 4)),
                Err("step 1 names line 4 of a history of 4"),
            ),
            (format!("[{}]", step(KEY, -1, 0)), Err("cannot be read")),
            (format!("[{}]", step(&KEY[1..], 1, 0)), Err("a key that is none")),
            (format!("[{}]", step(&KEY.to_uppercase(), 1, 0)), Err("a key that is none")),
            (format!("[{}]", step("../../etc/passwd", 1, 0)), Err("a key that is none")),
            (r#""AAAA""#.into(), Err("cannot be read")),
            ("{}".into(), Err("cannot be read")),
            (r#"[{"key":3}]"#.into(), Err("cannot be read")),
            (format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), Err("cannot be read")),
        ] {
            let config = field(&value);
            let found = read(config.as_bytes(), 2, 4);
            match (&found, &wanted) {
                (Ok(steps), Ok(count)) => assert_eq!(steps.len(), *count),
                (Err(said), Err(part)) => assert!(said.contains(part), "{said}"),
                _ => panic!("{found:?}, not {wanted:?}"),
            }
            // Whatever it is, it keeps no image out.
            let blob = ConfigBlob::parse(config.as_bytes(), "x").expect("the configuration is read");
            // Who makes another image of this one has said nothing of its steps.
            assert!(!serde_json::to_string(&blob).expect("encodes").contains(FIELD));
        }
        assert_eq!(read(b"{}", 2, 4), Ok(Vec::new()));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let steps = vec![InlineStep { key: KEY.into(), layers: 1, history: 2 }];
        let blob = ConfigBlob { inline_cache: steps.clone(), ..ConfigBlob::default() };
        let bytes = serde_json::to_vec(&blob).expect("encodes");
        assert_eq!(read(&bytes, 2, 4), Ok(steps));
    }

    proptest! {
        #[test]
        fn whatever_is_there_is_read_or_refused(
            value in r#".{0,80}|\[\{"key":"[0-9a-f]{63,65}","layers":-?[0-9]{1,21},"history":[0-9](\.[0-9])?\}\]"#,
            layers in 0usize..3,
            history in 0usize..3,
        ) {
            if let Ok(steps) = read(field(&value).as_bytes(), layers, history) {
                prop_assert!(steps.iter().all(|s| s.layers <= layers && s.history < history));
            }
        }
    }
}
