//! Qualified names of devices: `vendor.com/class=device` (CDI SPEC.md, "Kind" and "CDI Devices").

/// `vendor/class` and the device; the error is in the words of CDI's own library.
pub fn parse(text: &str) -> Result<(&str, &str), String> {
    let bad = |why: String| format!("unqualified device {text:?}, {why}");
    let (kind, device) = text.split_once('=').ok_or_else(|| bad("missing device name".into()))?;
    check_kind(kind).map_err(bad)?;
    check_device(device).map_err(bad)?;
    Ok((kind, device))
}

/// `vendor.com/class`.
pub fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind.split_once('/').ok_or("missing vendor")?;
    let of = |what: &str, text: &str, inner: &str| {
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric());
        match begins && ends && text.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c)) {
            true => Ok(()),
            false => Err(format!("invalid {what} {text:?}")),
        }
    };
    of("vendor", vendor, "_-.")?;
    of("class", class, "_-.")
}

/// The name of a device within its kind.
pub fn check_device(name: &str) -> Result<(), String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    match edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(inner) {
        true => Ok(()),
        false => Err(format!("invalid device name {name:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_qualified_or_refused() {
        assert_eq!(parse("nvidia.com/gpu=0"), Ok(("nvidia.com/gpu", "0")));
        assert_eq!(parse("a/b_c.d-e=GPU-1:2"), Ok(("a/b_c.d-e", "GPU-1:2")));
        for bad in [
            "", "x", "a/b", "a=b", "a/b=", "/b=c", "a/=c", "1a/b=c", "a/b/c=d", "a/b=-c", "a/b=c/d", "a/b-=c",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
