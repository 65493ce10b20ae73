//! `RUN --mount=type=cache`: what caches begin with, who shares them, and that they are shown and pruned.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{builder, docker_build, run};

#[test]
fn caches_of_mounts_are_seeded_shared_shown_and_pruned() -> Result<()> {
    let (lab, context) = builder("bz")?;
    let host = lab.host(1);
    let build = |flags: &[&str], text: &str| {
        fs::write(context.join("Dockerfile"), text)?;
        run(docker_build(host, flags, &context))
    };
    // It begins with what a stage has, once.
    let seeded = "FROM bb AS seed\nRUN mkdir /d && echo first > /d/f\n\
                  FROM bb\nRUN --mount=type=cache,target=/c,from=seed,source=/d cat /c/f && echo more >> /c/f\n";
    let (ok, said) = build(&["--no-cache"], seeded)?;
    ensure!(ok && said.contains("\nfirst\n") && !said.contains("\nmore\n"), "{said}");
    let (ok, said) = build(&["--no-cache"], seeded)?;
    ensure!(ok && said.contains("\nfirst\nmore\n"), "{said}");
    // Two at once have one each: with one they would wait for each other for ever.
    let meets = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/s --mount=type=cache,target=/p,sharing=private \
             touch /p/{own} /s/{own}; while ! test -e /s/{other}; do sleep 0.1; done; ls /p > /{own}; ! test -e /p/{other}\n"
        )
    };
    let text = format!(
        "FROM bb AS one\n{}FROM bb AS two\n{}FROM bb\nCOPY --from=one /a /\nCOPY --from=two /b /\n",
        meets("a", "b"),
        meets("b", "a")
    );
    let (ok, said) = build(&["--no-cache"], &text)?;
    ensure!(ok, "{said}");
    // They are known, and go when they are named.
    let shown = || -> Result<Vec<String>> {
        let df: Value = serde_json::from_str(&host.docker(&["system", "df", "-v", "--format", "json"])?)?;
        let all = df["BuildCache"].as_array().context("the cache")?;
        let kind = |c: &&Value| c["CacheType"] == "exec.cachemount";
        Ok(all.iter().filter(kind).map(|c| c["ID"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let all = shown()?;
    ensure!(all.len() == 4, "{all:?}");
    let steps = host.docker(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])?;
    host.docker(&["builder", "prune", "-af", "--filter", &format!("id={}", all[0])])?;
    ensure!(shown()?.len() == 3, "one goes");
    host.docker(&["builder", "prune", "-af", "--filter", "until=1h"])?;
    ensure!(shown()?.len() == 3, "none is so old");
    host.docker(&["builder", "prune", "-af", "--filter", "type=exec.cachemount"])?;
    ensure!(shown()?.is_empty(), "all of the kind go");
    let left = host.docker(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])?;
    let count = |text: &str| -> Result<i32> {
        let line = text.lines().find(|l| l.starts_with("Build Cache")).context("a line")?;
        Ok(line.rsplit(' ').next().context("a number")?.parse()?)
    };
    ensure!(count(&steps)? == count(&left)? + 4, "{steps} {left}");
    lab.down()
}
