//! What the system answers, in the words of Docker's own programs.
//!
//! Rust writes `No such file or directory (os error 2)`, Go `no such file or directory`; clients look for the latter, and
//! take their exit codes from it.

/// The text of an error with each answer of the system in it as Go writes it.
pub fn in_gos_words(text: &str) -> String {
    let mut out = text.to_owned();
    // Those of the standard library end with their number.
    while let Some((number, said)) = numbered(&out) {
        out = out.replace(&said, &gos_words(number));
    }
    out
}

/// The first answer of the system in a text that Rust wrote: its number, and all of it.
fn numbered(text: &str) -> Option<(i32, String)> {
    const MARK: &str = " (os error ";
    text.match_indices(MARK).find_map(|(at, _)| {
        let rest = &text[at + MARK.len()..];
        let number: i32 = rest[..rest.find(')')?].parse().ok()?;
        let said = std::io::Error::from_raw_os_error(number).to_string();
        text.contains(&said).then_some((number, said))
    })
}

/// What Go says of an error of the system, by its number.
pub fn gos_words(number: i32) -> String {
    let said = std::io::Error::from_raw_os_error(number).to_string();
    let words = said.split(" (os error").next().unwrap_or(&said);
    let mut letters = words.chars();
    let (first, second) = (letters.next(), letters.next());
    match first {
        // An abbreviation stays one.
        Some(first) if !second.is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(words.chars().skip(1)).collect()
        }
        _ => words.to_owned(),
    }
}

/// As [`in_gos_words`], of an error of the standard library.
pub fn of_io(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| in_gos_words(&e.to_string()), gos_words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_of_the_system_are_as_go_writes_them() {
        let of = |number| std::io::Error::from_raw_os_error(number);
        assert_eq!(
            in_gos_words(&format!("open /a: {}; then {}", of(2), of(13))),
            "open /a: no such file or directory; then permission denied"
        );
        assert_eq!(
            in_gos_words(&format!("x: {}; Y: {}.", of(13), of(21))),
            "x: permission denied; Y: is a directory."
        );
        assert_eq!(of_io(&of(18)), "invalid cross-device link");
        assert_eq!(in_gos_words("mine (os error 2), x (os error y)"), "mine (os error 2), x (os error y)");
        assert_eq!(of_io(&std::io::Error::other("Mine")), "Mine");
    }

    proptest! {
        #[test]
        fn any_text_is_passed_on(text in "(x|\\(os error |[0-9]|\\)| |No such file or directory){0,20}") {
            let said = in_gos_words(&text);
            prop_assert_eq!(in_gos_words(&said), said);
        }
    }
}
