//! `docker volume ...`.

use anyhow::{Result, ensure};

use skep_e2e::tally::{Tally, docker, prints, refuses, says};

pub fn drive(tally: &mut Tally<'_>) -> Result<()> {
    tally.drive("volume create", |h| {
        prints(h, "volume create --label a=b data", "data")?;
        prints(h, "volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=1m small", "small")?;
        prints(h, "run --rm -v data:/d -v small:/s bb sh -c 'echo kept > /d/f; df -k /s | tail -n 1 | tr -s \" \" | cut -d \" \" -f 2'", "1024")?;
        prints(h, "run --rm -v data:/d:ro bb cat /d/f", "kept")?;
        refuses(h, "volume create -d nosuch x", "nosuch")
    });
    tally.drive("volume ls", |h| {
        prints(h, "volume ls -q --filter label=a=b", "data")?;
        says(h, "volume ls", "DRIVER    VOLUME NAME")?;
        prints(
            h,
            "volume ls --filter dangling=true --filter name=sma --format '{{.Name}} {{.Driver}}'",
            "small local",
        )
    });
    tally.drive("volume inspect", |h| {
        let at = docker(h, "volume inspect -f '{{.Mountpoint}}' data")?;
        ensure!(std::fs::read_to_string(std::path::Path::new(at.trim()).join("f"))? == "kept\n", "{at}");
        refuses(h, "volume inspect nosuch", "no such volume")
    });
    tally.drive("volume rm", |h| {
        docker(h, "create --name holder -v data:/d bb true")?;
        refuses(h, "volume rm data", "volume is in use")?;
        docker(h, "rm holder")?;
        prints(h, "volume rm data", "data")?;
        refuses(h, "volume rm data", "no such volume")
    });
    tally.drive("volume prune", |h| {
        docker(h, "run --name anonymous -v /d bb true")?;
        docker(h, "rm anonymous")?;
        says(h, "volume prune -f", "Deleted Volumes")?;
        prints(h, "volume ls -q", "small")?;
        docker(h, "volume prune -af")?;
        prints(h, "volume ls -q", "")
    });
    Ok(())
}
