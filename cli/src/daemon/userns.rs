//! `--userns-remap`: whose subordinate IDs containers have (subuid(5), subgid(5)).

use std::path::Path;

use anyhow::{Context, Result, bail};
use skep_engine::{IdMaps, IdRange};

/// Whose ranges `default` means, as with dockerd.
const DEFAULT: &str = "dockremap";

/// `default`, `USER[:GROUP]` or `UID[:GID]` as IDs; none where it is not asked for, or asked for root, which cannot be
/// remapped with itself.
pub fn decide(asked: Option<String>) -> Result<Option<IdMaps>> {
    let Some(asked) = asked.filter(|a| !a.is_empty()) else { return Ok(None) };
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).with_context(|| format!("read {path}"));
    let found = if asked == "default" {
        Account { name: DEFAULT.into(), id: String::new() }
    } else {
        account(&asked, &read("/etc/passwd")?, &read("/etc/group")?)
            .with_context(|| format!("--userns-remap {asked:?}"))?
    };
    if found.name == "root" {
        tracing::warn!("--userns-remap: root cannot be remapped with itself; user namespaces are off");
        return Ok(None);
    }
    let ranges = |path: &str| -> Result<Vec<IdRange>> {
        let found = ranges(&found, &read(path)?).with_context(|| path.to_owned())?;
        if found.is_empty() {
            bail!(
                "--userns-remap {asked}: {path} has no range for {name:?}: add one, like {name}:100000:65536",
                name = found_name(&asked)
            );
        }
        Ok(found)
    };
    Ok(Some(IdMaps { uids: ranges("/etc/subuid")?, gids: ranges("/etc/subgid")? }))
}

fn found_name(asked: &str) -> &str {
    if asked == "default" { DEFAULT } else { asked.split(':').next().unwrap_or(asked) }
}

/// A user whose ranges are looked up.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    /// Decimal; empty = not known.
    id: String,
}

/// The user; the group only has to be there.
fn account(asked: &str, passwd: &str, group: &str) -> Result<Account> {
    let (user, wanted_group) = asked.split_once(':').map_or((asked, None), |(u, g)| (u, Some(g)));
    let find = |database: &str, word: &str| {
        let entries = database.lines().map(|l| l.split(':').collect::<Vec<_>>());
        let mut entries = entries.filter(|f| f.len() > 2);
        entries.find(|f| f[0] == word || f[2] == word).map(|f| Account { name: f[0].into(), id: f[2].into() })
    };
    let found = find(passwd, user).with_context(|| format!("there is no user {user:?}"))?;
    if let Some(wanted) = wanted_group
        && find(group, wanted).is_none()
    {
        bail!("there is no group {wanted:?}");
    }
    Ok(found)
}

/// The ranges of one user, one after the other from the container's 0.
fn ranges(of: &Account, text: &str) -> Result<Vec<IdRange>> {
    let mut found: Vec<IdRange> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, first, count] = fields.as_slice() else { bail!("line {line:?} is not NAME:FIRST:COUNT") };
        if *name != of.name && (of.id.is_empty() || *name != of.id) {
            continue;
        }
        let number = |text: &str| text.parse::<u32>().ok();
        let range = number(first)
            .zip(number(count))
            .filter(|(first, count)| *first > 0 && *count > 0 && first.checked_add(*count).is_some());
        let Some((host, count)) = range else {
            bail!("line {line:?}: not a range of IDs of the host without root")
        };
        let container = found.last().map_or(Some(0), |l| l.container.checked_add(l.count));
        let container = container.filter(|c| c.checked_add(count).is_some());
        found.push(IdRange { container: container.context("more IDs than there are")?, host, count });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_their_ranges_are_found_or_refused() {
        let (passwd, group) = ("root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n", "root:x:0:\nweb:x:34:\n");
        let web = Account { name: "web".into(), id: "33".into() };
        for asked in ["web", "33", "web:web", "33:34"] {
            assert_eq!(account(asked, passwd, group).expect(asked), web, "{asked}");
        }
        for bad in ["nobody", "web:none", "7"] {
            assert!(account(bad, passwd, group).is_err(), "{bad}");
        }
        let found = ranges(&web, "# a comment\nother:1:2\nweb:100000:10\n33:300000:5\n").expect("ranges");
        let range = |container, host, count| IdRange { container, host, count };
        assert_eq!(found, [range(0, 100_000, 10), range(10, 300_000, 5)]);
        for bad in ["web:0:5", "web:1", "web:5:0", "web:4294967295:2"] {
            assert!(ranges(&web, bad).is_err(), "{bad}");
        }
    }
}
