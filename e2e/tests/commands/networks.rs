//! `docker network ...`.

use anyhow::Result;

use skep_e2e::tally::{Tally, docker, prints, refuses, says};

pub fn drive(tally: &mut Tally<'_>) -> Result<()> {
    tally.drive("network create", |h| {
        let line = "network create --subnet 10.92.0.0/24 --gateway 10.92.0.9 --ip-range 10.92.0.128/25 --aux-address r=10.92.0.200 \
                    --internal --attachable --label a=b --opt com.docker.network.driver.mtu=1400 inner";
        docker(h, line)?;
        docker(h, "network create open")?;
        prints(h, "run --rm --network inner bb cat /sys/class/net/eth0/mtu", "1400")?;
        refuses(h, "network create inner", "already exists")?;
        refuses(h, "network create -d nosuch x", "nosuch")
    });
    tally.drive("network ls", |h| {
        prints(
            h,
            "network ls --filter label=a=b --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}}'",
            "inner bridge local true",
        )?;
        says(h, "network ls", "NETWORK ID     NAME")
    });
    tally.drive("network inspect", |h| {
        let format = "{{.Attachable}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{.IPRange}}{{end}}";
        prints(
            h,
            &format!("network inspect -f '{format}' inner"),
            "true 10.92.0.0/24 10.92.0.9 10.92.0.128/25",
        )?;
        refuses(h, "network inspect nosuch", "network nosuch not found")
    });
    tally.drive("network connect", |h| {
        docker(h, "run -d --name server bb sleep 100000")?;
        docker(h, "run -d --name client --network inner bb sleep 100000")?;
        docker(h, "network connect --ip 10.92.0.130 --alias db inner server")?;
        says(h, "exec client nslookup db 127.0.0.11", "10.92.0.130")?;
        says(h, "exec client ping -c 1 -W 5 10.92.0.130", "1 packets received")?;
        refuses(h, "network connect inner server", "already exists in network")
    });
    tally.drive("network disconnect", |h| {
        docker(h, "network disconnect inner server")?;
        refuses(h, "exec client ping -c 1 -W 1 10.92.0.130", "100% packet loss")?;
        refuses(h, "network disconnect inner server", "is not connected")
    });
    tally.drive("network rm", |h| {
        refuses(h, "network rm inner", "has active endpoints")?;
        docker(h, "rm -f client server")?;
        prints(h, "network rm inner", "inner")?;
        refuses(h, "network rm inner", "not found")?;
        refuses(h, "network rm bridge", "pre-defined")
    });
    tally.drive("network prune", |h| {
        says(h, "network prune -f", "Deleted Networks:\nopen")?;
        prints(h, "network ls -q --filter type=custom", "")
    });
    Ok(())
}
