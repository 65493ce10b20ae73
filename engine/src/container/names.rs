//! Container names: what they may be, and making one up.

use crate::error::Error;

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "bold", "brave", "bright", "brisk", "calm", "clever", "cosy", "crisp",
    "daring", "deft", "eager", "fair", "fleet", "fond", "frank", "gentle", "glad", "golden", "grand",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry",
    "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick",
    "quiet", "ready", "serene", "sharp", "sincere", "sly", "smart", "snug", "sober", "solid", "spry",
    "steady", "stoic", "sunny", "swift", "tidy", "upbeat", "vivid", "warm", "wise", "witty",
];

const SURNAMES: &[&str] = &[
    "aalto",
    "babbage",
    "bell",
    "bohr",
    "boole",
    "born",
    "cantor",
    "carson",
    "cerf",
    "clarke",
    "curie",
    "darwin",
    "dijkstra",
    "dirac",
    "ekert",
    "elion",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "gauss",
    "germain",
    "goodall",
    "hamilton",
    "heisenberg",
    "hertz",
    "hilbert",
    "hodgkin",
    "hopper",
    "huygens",
    "hypatia",
    "joliot",
    "kepler",
    "khorana",
    "knuth",
    "kovalevskaya",
    "lamarr",
    "leavitt",
    "liskov",
    "lovelace",
    "mahavira",
    "maxwell",
    "mayer",
    "meitner",
    "mendel",
    "mirzakhani",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "perlman",
    "planck",
    "raman",
    "ritchie",
    "sammet",
    "shannon",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "wiles",
    "wozniak",
    "yalow",
];

/// A made-up `adjective_surname`, for what the user gave no name.
pub fn made_up_name() -> String {
    made_up(0)
}

/// A made-up `adjective_surname`; with a digit when the plain ones keep being taken.
pub(super) fn made_up(retry: usize) -> String {
    let pick = |list: &[&'static str]| list[rand::random_range(0..list.len())];
    let name = format!("{}_{}", pick(ADJECTIVES), pick(SURNAMES));
    if retry > 5 { format!("{name}{}", rand::random_range(0..1_000_000)) } else { name }
}

/// A name as given (a leading slash is dropped), when it may be one.
pub(super) fn checked(name: &str) -> Result<String, Error> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let good = name.len() >= 2
        && name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good {
        return Ok(name.to_owned());
    }
    Err(Error::Invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two characters or more"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "/ab", "a.b-c_d", "0x", "web.1.abc"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "a", "/", "-a", "a b", "a/b", "ä1", "a\n", long.as_str()] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        for retry in [0, 9] {
            let name = made_up(retry);
            assert_eq!(checked(&name).expect("is a name"), name);
        }
    }
}
