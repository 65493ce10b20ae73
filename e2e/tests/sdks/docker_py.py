"""docker-py against a daemon: how many steps there are, and each of them told as `ok NAME` or `not ok NAME: why`.

Arguments: a tar of a root file system with busybox, and the host's address.
"""

import io
import socket
import sys
import tarfile
import time
import traceback

import docker
from docker import errors, types

client = docker.from_env(timeout=120)
api = client.api
archive, addr = sys.argv[1:]
begun = int(time.time())
steps = []


def step(act):
    steps.append(act)
    return act


def expect(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def refused(kind, status, words, act):
    try:
        act()
    except kind as e:
        expect(e.status_code, status)
        assert words in e.explanation, e.explanation
        return
    raise AssertionError(f"not refused with {status}")


def tar(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def eventually(what, true):
    end = time.time() + 120
    while not true():
        assert time.time() < end, what
        time.sleep(0.1)


def sleeper(name, **options):
    return client.containers.run("bb:1", ["sleep", "1000"], name=name, detach=True, stop_signal="KILL", **options)


@step
def system():
    assert client.ping()
    version = client.version()
    expect(version["ApiVersion"], "1.50")
    assert version["GitCommit"] and version["BuildTime"], version
    assert client.info()["OSType"] == "linux"
    assert "LayersSize" in client.df()
    oldest = docker.from_env(version="1.24")
    assert oldest.ping() and isinstance(oldest.containers.list(), list)


@step
def images_are_imported_tagged_saved_and_loaded():
    api.import_image(archive, repository="bb", tag="1", changes=['CMD ["sh"]', "LABEL made=import"])
    image = client.images.get("bb:1")
    expect(image.labels, {"made": "import"})
    assert image.tag("team/bb", "two") and "team/bb:two" in client.images.get("bb:1").tags
    image.reload()
    assert image.attrs["Metadata"]["LastTagTime"] > "2020"
    expect([i.id for i in client.images.list(filters={"label": "made=import"})], [image.id])
    expect(len(image.history()), 1)
    saved = b"".join(image.save(named="team/bb:two"))
    client.images.remove("team/bb:two")
    (loaded,) = client.images.load(saved)
    expect((loaded.id, "team/bb:two" in loaded.tags), (image.id, True))
    client.images.remove("team/bb:two", force=True)
    refused(errors.ImageNotFound, 404, "No such image: nosuch:latest", lambda: client.images.get("nosuch"))


@step
def images_are_built():
    text = "FROM bb:1\nARG WHO\nRUN echo $WHO >/who\nCMD cat /who\n"
    image, said = client.images.build(fileobj=io.BytesIO(text.encode()), tag="built:1", buildargs={"WHO": "me"}, rm=True)
    assert any("Step 1/4" in line.get("stream", "") for line in said)
    expect(client.containers.run("built:1", remove=True), b"me\n")
    context = io.BytesIO(tar(**{"D": "FROM bb:1\nCOPY x /x\n", "x": "here"}))
    image, _ = client.images.build(fileobj=context, custom_context=True, dockerfile="D", labels={"a": "b"}, tag="built:2")
    expect(image.labels["a"], "b")
    try:
        client.images.build(fileobj=io.BytesIO(b"FROM bb:1\nRUN exit 3\n"))
        raise AssertionError("built")
    except errors.BuildError as e:
        assert "returned a non-zero code: 3" in e.msg, e.msg


@step
def containers_run_to_their_end():
    expect(client.containers.run("bb:1", ["echo", "hello"], remove=True), b"hello\n")
    both = client.containers.run("bb:1", ["sh", "-c", "echo out; echo err >&2"], stdout=True, stderr=True, remove=True)
    expect(sorted(both.split()), [b"err", b"out"])
    lines = client.containers.run("bb:1", ["sh", "-c", "echo 1; echo 2"], stream=True, remove=True)
    expect(b"".join(lines), b"1\n2\n")
    try:
        client.containers.run("bb:1", ["sh", "-c", "echo bad >&2; exit 7"], remove=True)
        raise AssertionError("succeeded")
    except errors.ContainerError as e:
        expect((e.exit_status, e.stderr), (7, b"bad\n"))
    refused(errors.ImageNotFound, 404, "nosuch", lambda: api.create_container("nosuch", "x"))
    refused(errors.APIError, 400, "executable file not found",
            lambda: client.containers.run("bb:1", ["nosuch"], remove=True))


@step
def what_is_asked_of_a_container_is_done():
    host = api.create_host_config(
        mem_limit="64m", kernel_memory=0, cpu_shares=100, ulimits=[types.Ulimit(name="nofile", soft=99, hard=99)],
        port_bindings={80: ("127.0.0.1", None)}, binds={"data": {"bind": "/data", "mode": "rw"}},
        tmpfs={"/t": "size=1m"}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        log_config=types.LogConfig(type="json-file", config={"max-size": "1m"}), sysctls={"net.core.somaxconn": "99"},
        extra_hosts={"other": "10.1.2.3"}, dns=["10.1.2.4"], cap_add=["NET_ADMIN"], init=True, shm_size="1m",
        security_opt=["no-new-privileges"], read_only=True, group_add=["7"], auto_remove=False)
    made = api.create_container(
        "bb:1", ["sleep", "1000"], name="full", hostname="h", user="0", environment={"A": "1"}, labels={"l": "v"},
        ports=[80], volumes=["/data"], working_dir="/tmp", stop_signal="KILL", host_config=host,
        healthcheck=types.Healthcheck(test=["CMD", "true"], interval=10**9, timeout=10**10, retries=3))
    expect(made["Warnings"], [])
    full = client.containers.get("full")
    full.start()
    full.reload()
    host = full.attrs["HostConfig"]
    expect((host["Memory"], host["CpuShares"], host["RestartPolicy"]["Name"]), (64 << 20, 100, "on-failure"))
    assert int(full.ports["80/tcp"][0]["HostPort"]) > 0
    expect((full.status, full.labels, full.attrs["Config"]["Hostname"]), ("running", {"l": "v", "made": "import"}, "h"))
    shown = full.exec_run(["sh", "-c", "ulimit -n; cat /proc/sys/net/core/somaxconn; pwd; grep other /etc/hosts; echo $A"])
    expect(shown.output.split(), [b"99", b"99", b"/tmp", b"10.1.2.3", b"other", b"1"])
    eventually("healthy", lambda: client.containers.get("full").health == "healthy")
    full.update(mem_limit="96m", memswap_limit="192m")
    expect(client.containers.get("full").attrs["HostConfig"]["Memory"], 96 << 20)
    full.remove(force=True, v=True)


@step
def fields_that_docker_passes_over_are_told():
    host = api.create_host_config(kernel_memory="4m")
    made = api.create_container("bb:1", "true", name="old", host_config=host)
    assert len(made["Warnings"]) == 1 and "HostConfig.KernelMemory" in made["Warnings"][0], made
    client.containers.get("old").remove()


@step
def a_container_lives():
    c = sleeper("life")
    expect([x.name for x in client.containers.list(filters={"name": "life"})], ["life"])
    c.pause()
    c.reload()
    expect(c.status, "paused")
    c.unpause()
    c.rename("lived")
    c.restart(timeout=1)
    assert [p[-1] for p in c.top()["Processes"]] == ["sleep 1000"]
    expect(c.top(ps_args="-eo pid,comm")["Titles"], ["PID", "COMMAND"])
    stats = c.stats(stream=False)
    assert stats["memory_stats"]["usage"] > 0 and stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert next(c.stats(stream=True, decode=True))["name"] == "/lived"
    c.kill("KILL")
    expect(c.wait()["StatusCode"], 137)
    c.start()
    c.stop(timeout=5)
    expect(c.wait(condition="not-running")["StatusCode"], 137)
    refused(errors.APIError, 409, "is already in use", lambda: client.containers.create("bb:1", name="lived"))
    refused(errors.APIError, 409, "is not running", c.kill)
    c.remove()
    refused(errors.NotFound, 404, "No such container: lived", lambda: client.containers.get("lived"))


@step
def logs_are_read():
    # Which of two streams' lines came first, that were written at once, is nobody's promise.
    script = "for i in 1 2 3; do echo $i; done; until test -e /go; do sleep 0.1; done; echo e >&2; sleep 1000"
    c = client.containers.run("bb:1", ["sh", "-c", script], name="logs", detach=True, stop_signal="KILL")
    eventually("lines", lambda: len(c.logs().splitlines()) == 3)
    expect(c.exec_run(["sh", "-c", "echo >/go"]).exit_code, 0)
    eventually("all lines", lambda: len(c.logs().splitlines()) == 4)
    expect(c.logs(stderr=False), b"1\n2\n3\n")
    expect(c.logs(stdout=False), b"e\n")
    expect(c.logs(tail=1), b"e\n")
    assert c.logs(stderr=False, timestamps=True).split()[0].startswith(b"20")
    expect(c.logs(since=int(time.time()) + 100), b"")
    followed = c.logs(stream=True, follow=True, stderr=False)
    expect([next(followed) for _ in range(3)][0][:1], b"1")
    followed.close()
    c.remove(force=True)


@step
def commands_run_in_a_container():
    c = sleeper("exec", environment={"A": "1"})
    expect(c.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True), (3, (b"out\n", b"err\n")))
    expect(c.exec_run("pwd", workdir="/tmp").output, b"/tmp\n")
    expect(c.exec_run(["sh", "-c", "echo $A$B"], environment={"B": "2"}).output, b"12\n")
    expect(c.exec_run("id -u", user="9").output, b"9\n")
    expect(c.exec_run("echo x", tty=True).output, b"x\r\n")
    expect(b"".join(c.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True).output), b"1\n2\n")
    assert not c.exec_run("true", detach=True).output
    expect(c.exec_run("nosuch").exit_code, 127)
    run = api.exec_create(c.id, ["cat"], stdin=True)
    talk = api.exec_start(run["Id"], socket=True)
    talk = getattr(talk, "_sock", talk)
    talk.sendall(b"over\n")
    talk.shutdown(socket.SHUT_WR)
    got = b""
    while piece := talk.recv(4096):
        got += piece
    talk.close()
    expect(got, b"\x01\0\0\0\0\0\0\x05over\n")
    expect(api.exec_inspect(run["Id"])["ExitCode"], 0)
    c.remove(force=True)


@step
def a_container_is_attached_to():
    c = client.containers.create("bb:1", ["cat"], name="attach", stdin_open=True)
    talk = c.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    c.start()
    talk = getattr(talk, "_sock", talk)
    talk.sendall(b"hello\n")
    expect(talk.recv(100), b"\x01\0\0\0\0\0\0\x06hello\n")
    # docker-py has made it with an input that ends with its first client's.
    talk.shutdown(socket.SHUT_WR)
    expect(c.wait()["StatusCode"], 0)
    talk.close()
    expect(c.logs(), b"hello\n")
    c.remove()
    t = client.containers.run("bb:1", ["sh"], name="tty", tty=True, stdin_open=True, detach=True)
    t.resize(30, 100)
    expect(t.exec_run(["sh", "-c", "stty size </proc/1/fd/0"]).output, b"30 100\n")
    t.remove(force=True)


@step
def files_go_in_and_out():
    c = sleeper("files")
    assert c.put_archive("/tmp", tar(a="text of a"))
    pieces, stat = c.get_archive("/tmp/a")
    expect((stat["name"], stat["size"]), ("a", 9))
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as got:
        expect(got.extractfile("a").read(), b"text of a")
    expect([d["Path"] for d in c.diff() if d["Kind"] == 1], ["/tmp/a"])
    refused(errors.NotFound, 404, "Could not find the file /nosuch", lambda: c.get_archive("/nosuch"))
    refused(errors.NotFound, 404, "Could not find the file /nosuch", lambda: c.put_archive("/nosuch", tar(a="")))
    image = c.commit("committed", "1", message="m", author="me", changes='CMD ["cat", "/tmp/a"]')
    expect(client.containers.run("committed:1", remove=True), b"text of a")
    refused(errors.APIError, 400, "BOGUS is not a valid change command", lambda: c.commit(changes="BOGUS x"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(c.export()))) as got:
        assert "tmp/a" in got.getnames()
    c.remove(force=True)
    client.images.remove(image.id, force=True)


@step
def networks_join_containers():
    pool = types.IPAMPool(subnet="10.77.0.0/24", gateway="10.77.0.1")
    net = client.networks.create("net", driver="bridge", ipam=types.IPAMConfig(pool_configs=[pool]), labels={"n": "1"},
                                 check_duplicate=True, attachable=True)
    c, d = sleeper("one", network="net"), sleeper("two")
    net.connect(d, aliases=["other"], ipv4_address="10.77.0.9")
    expect(c.exec_run(["sh", "-c", "nslookup other 2>/dev/null | grep -c 10.77.0.9"]).output.strip(), b"1")
    net.reload()
    expect(sorted(x.name for x in net.containers), ["one", "two"])
    refused(errors.APIError, 403, "already exists in network", lambda: net.connect(d))
    net.disconnect(d)
    refused(errors.APIError, 403, "has active endpoints", net.remove)
    expect([n.name for n in client.networks.list(names=["net"])], ["net"])
    c.remove(force=True)
    d.remove(force=True)
    expect(client.networks.prune()["NetworksDeleted"], ["net"])
    refused(errors.NotFound, 404, "network net not found", lambda: client.networks.get("net"))


@step
def volumes_keep_data():
    volume = client.volumes.create("vol", labels={"v": "1"})
    mount = types.Mount("/data", "vol")
    client.containers.run("bb:1", ["sh", "-c", "echo kept >/data/x"], mounts=[mount], remove=True)
    expect(client.containers.run("bb:1", ["cat", "/data/x"], volumes={"vol": {"bind": "/data", "mode": "ro"}}, remove=True),
           b"kept\n")
    expect([v.name for v in client.volumes.list(filters={"label": "v=1"})], ["vol"])
    user = client.containers.create("bb:1", name="user", mounts=[mount])
    refused(errors.APIError, 409, "volume is in use", volume.remove)
    user.remove()
    volume.remove()
    client.volumes.create("vol2")
    assert "vol2" in client.volumes.prune(filters={"all": "true"})["VolumesDeleted"]
    refused(errors.NotFound, 404, "no such volume", lambda: client.volumes.get("vol"))


@step
def the_swarm_runs_services():
    refused(errors.APIError, 503, "This node is not a swarm manager", client.services.list)
    assert client.swarm.init(advertise_addr=addr, listen_addr="0.0.0.0:2377")
    client.swarm.reload()
    assert client.swarm.attrs["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
    (node,) = client.nodes.list()
    renewed("a label for the node", node, lambda: node.update({**node.attrs["Spec"], "Labels": {"disk": "fast"}}))
    secret = client.secrets.create(name="key", data=b"hidden")
    config = client.configs.create(name="conf", data=b"shown")
    net = client.networks.create("over", driver="overlay", attachable=True)
    service = client.services.create(
        "bb:1", ["sh", "-c", "echo begun; cat /run/secrets/key /conf; echo; sleep 1000"], name="web", env=["A=1"],
        labels={"s": "1"}, container_labels={"c": "1"}, networks=["over"], constraints=["node.labels.disk == fast"],
        mode=types.ServiceMode("replicated", replicas=2), stop_grace_period=10**9,
        endpoint_spec=types.EndpointSpec(ports={8080: 80}), resources=types.Resources(mem_limit=64 << 20),
        restart_policy=types.RestartPolicy(condition="any", delay=10**9),
        update_config=types.UpdateConfig(parallelism=1, order="start-first"),
        secrets=[types.SecretReference(secret.id, "key")], configs=[types.ConfigReference(config.id, "conf", "/conf")])
    running = lambda n: len(service.tasks({"desired-state": "running"})) == n and all(
        t["Status"]["State"] == "running" for t in service.tasks({"desired-state": "running"}))
    eventually("two tasks", lambda: running(2))
    eventually("their logs", lambda: b"".join(service.logs(stdout=True)).count(b"hiddenshown") == 2)
    renewed("one replica", service, lambda: service.scale(1))
    eventually("one task", lambda: running(1))
    service.reload()
    version = service.version
    renewed("labels", service, lambda: service.update(labels={"s": "2"}, env=["A=2"], fetch_current_spec=True))
    service.reload()
    assert service.version > version and service.attrs["Spec"]["Labels"] == {"s": "2"}
    refused(errors.APIError, 409, "update out of sequence",
            lambda: api.update_service(service.id, version, name="web", task_template=service.attrs["Spec"]["TaskTemplate"]))
    refused(errors.APIError, 409, "name conflicts with an existing object", lambda: client.services.create("bb:1", name="web"))
    refused(errors.APIError, 400, "is in use by the following service", secret.remove)
    expect([s.name for s in client.services.list(filters={"label": "s=2"})], ["web"])
    service.remove()
    refused(errors.NotFound, 404, "service web not found", lambda: client.services.get("web"))
    eventually("its tasks are gone", lambda: not client.containers.list())
    secret.remove()
    config.remove()
    eventually("its network goes", lambda: gone(net))
    assert client.swarm.leave(force=True)


def renewed(what, thing, update):
    """An update of what the swarm itself writes down too: made again where that was between."""

    def done():
        thing.reload()
        try:
            return update()
        except errors.APIError as e:
            assert "update out of sequence" in e.explanation, e
            return False

    eventually(what, done)


def gone(net):
    try:
        net.remove()
        return True
    except errors.APIError:
        return False


@step
def what_happened_was_told():
    # Of the last 256 events, as with Docker.
    told = list(client.events(since=begun, until=int(time.time()) + 1, decode=True))
    seen = {(e["Type"], e["Action"].split(":")[0]) for e in told}
    for kind, action in [
        ("image", "tag"), ("container", "create"), ("container", "start"), ("container", "die"),
        ("container", "pause"), ("container", "exec_create"), ("container", "commit"),
        ("container", "health_status"), ("network", "create"), ("network", "connect"), ("volume", "create"),
        ("volume", "destroy"),
    ]:
        assert (kind, action) in seen, (kind, action, sorted(seen))
    later = client.events(since=int(time.time()), filters={"type": "container", "event": "create"}, decode=True)
    c = client.containers.create("bb:1", name="told")
    event = next(later)
    expect((event["Action"], event["Actor"]["Attributes"]["name"]), ("create", "told"))
    later.close()
    c.remove()


@step
def what_is_left_is_pruned():
    left = client.containers.create("bb:1", name="left")
    # So is the container of the step that failed.
    assert left.id in client.containers.prune()["ContainersDeleted"]
    client.images.prune({"dangling": False})
    expect(client.images.list(all=True), [])
    expect(client.containers.list(all=True), [])


print(f"1..{len(steps)}", flush=True)
for act in steps:
    try:
        act()
        print("ok", act.__name__, flush=True)
    except Exception as e:
        traceback.print_exc()
        print(f"not ok {act.__name__}: {type(e).__name__}: {e}", flush=True)
