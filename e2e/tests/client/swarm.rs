//! Services, nodes and tasks.

use anyhow::{Result, ensure};

use crate::compare::Compare;
use crate::lab;

#[test]
fn the_swarm_is_listed_and_told_of_as_docker_does() -> Result<()> {
    let lab = lab("cs")?;
    let host = lab.host(1);
    let init = host.skep(&["swarm", "init", "--advertise-addr", &host.addr])?;
    ensure!(
        init.contains("is now a manager") && init.contains("skep swarm join --token SWMTKN-1-"),
        "{init}"
    );
    host.docker(&["network", "create", "-d", "overlay", "back"])?;
    let created = host.skep(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "2",
        "--network",
        "back",
        "-p",
        "8080:80",
        "-l",
        "tier=front",
        "--update-monitor",
        "500ms",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    ensure!(created.contains("overall progress: 2 out of 2 tasks"), "{created}");
    ensure!(created.contains("verify: Service") && created.contains("converged"), "{created}");
    host.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        "wide",
        "--mode",
        "global",
        "--constraint",
        "node.labels.x==y",
        "whoami:1",
        "/skep",
        "whoami",
    ])?;
    let job =
        ["--replicas", "3", "--max-concurrent", "2", "--no-resolve-image", "whoami:1", "/skep", "--version"];
    host.docker(&[&["service", "create", "--name", "once", "--mode", "replicated-job"][..], &job].concat())?;
    host.docker(&["secret", "create", "-l", "tier=db", "pass-word", "/etc/hostname"])?;
    host.docker(&["config", "create", "--template-driver", "golang", "conf", "/etc/hostname"])?;
    let mut compare = Compare::new(host);
    for line in [
        "secret ls",
        "secret ls -q",
        "secret ls --format '{{.Name}} {{.Driver}} {{.Labels}}'",
        "secret ls --format json",
        "secret ls --filter name=p --filter label=tier=db",
        "secret ls --filter nonsense=1",
        "secret inspect nope",
        "secret inspect -f '{{.Spec.Name}} {{json .Spec.Labels}}' pass-word",
        "secret create pass-word /etc/hostname",
        "secret create pw2 /nope",
        "secret create -d vault pw2 /etc/hostname",
        "secret create -d vault pw2",
        "secret create --template-driver jinja pw2 /etc/hostname",
        "secret create 'a b' /etc/hostname",
        "secret create pw2 /dev/null",
        "secret rm nope",
        "config ls",
        "config ls -q",
        "config ls --format json",
        "config list --filter name=x",
        "config inspect -f '{{.Spec.Name}} {{.Spec.Templating.Name}}' conf",
        "config inspect nope",
        "config create conf /etc/hostname",
        "config create conf2 /nope",
        "config create conf2",
        "config rm nope",
        "service create --secret nope whoami:1",
        "service create --config source=conf,target=a --config source=conf,target=a whoami:1",
        "inspect -f '{{.Spec.Name}}' pass-word",
        "node ls",
        "node ls -q",
        "node ls --format json",
        "node ls --format '{{.ID}} {{.Self}} {{.TLSStatus}} {{.Hostname}}'",
        "node ls --filter role=manager",
        "node ls --filter nonsense=1",
        "node ps",
        "node ps self -q",
        "node inspect nope",
        "node rm nope",
        "node update --availability nope self",
        "node update --label-rm nope self",
        "node promote nope",
        "node update nope",
        "node inspect -f '{{.Spec.Role}} {{.Status.State}}' self",
        "service ls",
        "service ls -q",
        "service ls --format json",
        "service ls --format '{{.Name}} {{.Replicas}} {{.Ports}}'",
        "service ls --filter name=web",
        "service ls --filter mode=global",
        "service list",
        "service ps web",
        "service ps web wide",
        "service ps -q web",
        "service ps --no-trunc web",
        "service ps --format json web",
        "service ps --no-resolve web",
        "service ps nope",
        "service ps once",
        "service ls --filter mode=replicated-job --format '{{.Mode}} {{.Replicas}}'",
        "service inspect -f '{{json .Spec.Mode}} {{json .JobStatus}}' once",
        "service update --replicas 2 wide",
        "service create --mode global-job --replicas-max-per-node 2 whoami:1",
        "service create --mode replicated-job --rollback-order start-first whoami:1",
        "service rollback once",
        "service create --generic-resource gpu whoami:1",
        "service create --generic-resource gpu=one whoami:1",
        "service create --generic-resource gpu=1 --generic-resource gpu=2 whoami:1",
        "service update --generic-resource-rm gpu web",
        "service ps web --filter desired-state=running --format '{{.Name}} {{.Node}} {{.DesiredState}} {{.Image}} {{.Error}}'",
        "service inspect nope",
        "service inspect -f '{{.Spec.Name}} {{json .Spec.Labels}}' web",
        "service rm nope",
        "service scale nope=1",
        "service scale wide=2",
        "service update nope",
        "service rollback nope",
        "service logs nope",
        "service create --name web whoami:1",
        "service create --name 'a b' whoami:1",
        "service create --mode nope whoami:1",
        "service create",
        "service inspect",
        "network ls",
        "network ls --filter scope=swarm",
        "swarm join-token -q worker",
        "swarm join-token nope",
        "swarm join-token worker",
        "swarm leave",
        "swarm init",
        "swarm ca",
        "swarm ca --cert-expiry 5h",
        "swarm ca --rotate --ca-cert /nope",
        "swarm ca --rotate --ca-cert /etc/hostname",
        "swarm ca --rotate --external-ca nope",
        "swarm ca --rotate --external-ca protocol=acme,url=https://a",
        "swarm ca --rotate --external-ca url=https://a",
        "swarm ca --rotate --external-ca protocol=cfssl",
        "swarm ca --rotate --external-ca protocol=cfssl,url=https://a",
        "swarm update --external-ca protocol=cfssl,url=http://a",
        "swarm update --max-snapshots 2",
        "swarm unlock",
        "swarm unlock-key",
        "swarm unlock-key --rotate",
        "service logs web --raw -n 1",
        "service logs web -n 1 --no-trunc",
        "swarm update --task-history-limit 3",
        "service ls --filter nonsense=1",
        "info --format '{{.Swarm.NodeID}} {{.Swarm.Managers}}'",
    ] {
        compare.same(line)?;
    }
    for line in [
        "network rm back",
        "secret create",
        "service scale web=x",
        "service scale web",
        "service scale web=-1",
    ] {
        compare.same_code(line)?;
    }
    for line in [
        "node inspect self",
        "service inspect web wide once",
        "network inspect back",
        "service inspect -f json web",
    ] {
        compare.same_json(line)?;
    }
    for line in [
        "secret create x-@ /etc/hostname",
        "secret rm x-@",
        "config create -l a=b x-@ /etc/hostname",
        "service create -d --no-resolve-image --name x-@s --secret source=pass-word,target=/a,uid=1,gid=2,mode=0400 --config x-@ whoami:1 /skep whoami",
        "service inspect -f '{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.SecretName}} {{.File.Name}} {{.File.UID}} {{.File.GID}}{{end}}' x-@s",
        "service update -d --secret-rm pass-word --config-add source=conf,target=/b x-@s",
        "service inspect -f '{{range .Spec.TaskTemplate.ContainerSpec.Configs}}{{.ConfigName}} {{.File.Name}} {{end}}' x-@s",
        "config rm x-@",
        "service rm x-@s",
        "service create -d --no-resolve-image --name x-@ --replicas 1 -e A=1 whoami:1 /skep whoami",
        "service update -d --env-add B=2 x-@",
        "service scale -d x-@=2",
        "service create -d --no-resolve-image --mode replicated-job --name x-@j --replicas 4 whoami:1 /skep --version",
        "service update -d --force x-@j",
        "service scale -d x-@j=1",
        "service inspect -f '{{json .Spec.Mode}} {{json .JobStatus.JobIteration}}' x-@j",
        "service rm x-@j",
        "service create -d --no-resolve-image --generic-resource gpu=1 --name x-@g --replicas 0 whoami:1",
        "service update -d --generic-resource-add apple=3 --generic-resource-rm gpu x-@g",
        "service inspect -f '{{json .Spec.TaskTemplate.Resources}}' x-@g",
        "service rm x-@g",
        "service update -d --label-add c=d --publish-add 81:80 nope",
        "service update -d --limit-memory 64m --args '/skep whoami' x-@",
        "service rollback -d x-@",
        "service rm x-@",
        "node update --label-add x-@=1 nope",
        "network create -d overlay --attachable x-@",
        "network rm x-@",
    ] {
        compare.alike(line)?;
    }
    let before = host.skep(&["swarm", "join-token", "-q", "worker"])?;
    let rotated = host.skep(&["swarm", "join-token", "--rotate", "-q", "worker"])?;
    ensure!(
        before != rotated && host.docker(&["swarm", "join-token", "-q", "worker"])? == rotated,
        "{before} {rotated}"
    );
    host.docker(&["swarm", "update", "--task-history-limit", "0"])?;
    let limit = host.request("GET", "/v1.50/swarm", "")?.body.contains("\"TaskHistoryRetentionLimit\":0");
    ensure!(limit, "a history of 0 is a limit");
    let locked = host.skep(&["swarm", "update", "--autolock"])?;
    ensure!(locked.contains("Swarm updated.") && locked.contains("    SWMKEY-1-"), "{locked}");
    compare.same("swarm unlock-key -q")?;
    let (ours, theirs) = (host.skep(&["swarm", "unlock-key"])?, host.docker(&["swarm", "unlock-key"])?);
    ensure!(ours.replace("skep swarm", "docker swarm") == theirs, "{ours} {theirs}");
    let key =
        |text: &str| text.split_whitespace().find(|w| w.starts_with("SWMKEY")).unwrap_or_default().to_owned();
    let (ours, theirs) = (
        host.skep(&["swarm", "unlock-key", "--rotate"])?,
        host.docker(&["swarm", "unlock-key", "--rotate"])?,
    );
    let alike = ours.replace("skep swarm", "docker swarm").replace(&key(&ours), &key(&theirs));
    ensure!(alike == theirs && key(&ours) != key(&theirs), "{ours} {theirs}");
    compare.end()?;
    lab.down()
}
