// dockerode against a daemon: how many steps there are, and each of them told as `ok NAME` or `not ok NAME: why`.
//
// Arguments: a tar of a root file system with busybox, and the host's address.
'use strict';

const assert = require('assert');
const fs = require('fs');
const { PassThrough } = require('stream');
const Docker = require('dockerode');
const tarStream = require('tar-stream');

const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace('unix://', '') });
const [archive, addr] = process.argv.slice(2);
const begun = Math.floor(Date.now() / 1000);
const steps = {};

const read = (stream) =>
  new Promise((done, failed) => {
    const pieces = [];
    stream.on('data', (piece) => pieces.push(piece));
    stream.on('end', () => done(Buffer.concat(pieces)));
    stream.on('error', failed);
  });

// All lines of a stream of JSON, as dockerode itself reads them.
const followed = (stream) =>
  new Promise((done, failed) =>
    docker.modem.followProgress(stream, (error, lines) => (error ? failed(error) : done(lines))));

// Standard output and standard error of a stream that has both.
const demuxed = async (stream) => {
  const [out, err] = [new PassThrough(), new PassThrough()];
  docker.modem.demuxStream(stream, out, err);
  stream.on('end', () => [out, err].forEach((s) => s.end()));
  return (await Promise.all([read(out), read(err)])).map(String);
};

const refused = (status, words, act) =>
  assert.rejects(act, (e) => {
    assert.strictEqual(e.statusCode, status, e.message);
    assert.ok(e.message.includes(words), e.message);
    return true;
  });

const eventually = async (what, holds) => {
  const end = Date.now() + 120000;
  while (!(await holds())) {
    assert.ok(Date.now() < end, what);
    await new Promise((done) => setTimeout(done, 100));
  }
};

// An update of what the swarm itself writes down too: made again where that was between.
const renewed = (what, update) =>
  eventually(what, async () => {
    const answer = await update().catch((e) => e);
    assert.ok(!(answer instanceof Error) || answer.message.includes('update out of sequence'), answer);
    return !(answer instanceof Error);
  });

const tar = (files) => {
  const pack = tarStream.pack();
  for (const [name, text] of Object.entries(files)) pack.entry({ name }, text);
  pack.finalize();
  return pack;
};

const sleeper = async (name, options = {}) => {
  const made = await docker.createContainer({
    Image: 'bb:1', Cmd: ['sleep', '1000'], name, StopSignal: 'KILL', ...options,
  });
  await made.start();
  return made;
};

const exec = async (container, options, start = {}) => {
  const run = await container.exec({ AttachStdout: true, AttachStderr: true, ...options });
  const said = await demuxed(await run.start(start));
  return [...said, (await run.inspect()).ExitCode];
};

steps.system = async () => {
  assert.strictEqual(String(await docker.ping()), 'OK');
  const version = await docker.version();
  assert.strictEqual(version.ApiVersion, '1.50');
  assert.ok(version.GitCommit && version.BuildTime);
  assert.strictEqual((await docker.info()).OSType, 'linux');
  assert.ok('LayersSize' in (await docker.df()));
};

steps.images_are_imported_tagged_saved_and_loaded = async () => {
  const options = { fromSrc: '-', repo: 'bb', tag: '1', changes: 'LABEL made=import' };
  await followed(await docker.importImage(archive, options));
  const image = docker.getImage('bb:1');
  const shown = await image.inspect();
  assert.deepStrictEqual(shown.Config.Labels, { made: 'import' });
  await image.tag({ repo: 'team/bb', tag: 'two' });
  const saved = await read(await docker.getImage('team/bb:two').get());
  await docker.getImage('team/bb:two').remove();
  const again = new PassThrough();
  again.end(saved);
  const lines = await followed(await docker.loadImage(again));
  assert.ok(lines.some((l) => (l.stream || '').includes('Loaded image: team/bb:two')), JSON.stringify(lines));
  const listed = await docker.listImages({ filters: { label: ['made=import'] } });
  assert.deepStrictEqual(listed.map((i) => i.Id), [shown.Id]);
  assert.strictEqual((await image.history()).length, 1);
  await docker.getImage('team/bb:two').remove();
  await refused(404, 'No such image: nosuch:latest', () => docker.getImage('nosuch').inspect());
};

steps.images_are_built = async () => {
  const context = tar({ Dockerfile: 'FROM bb:1\nARG WHO\nRUN echo $WHO >/who\nCOPY x /x\n', x: 'here' });
  const options = { t: 'built:1', buildargs: { WHO: 'me' }, labels: { a: 'b' } };
  const lines = await followed(await docker.buildImage(context, options));
  assert.ok(lines.some((l) => (l.stream || '').includes('Step 1/4')), JSON.stringify(lines));
  assert.strictEqual((await docker.getImage('built:1').inspect()).Config.Labels.a, 'b');
  const bad = await followed(await docker.buildImage(tar({ Dockerfile: 'FROM bb:1\nRUN exit 3\n' }), {}));
  const { error, errorDetail } = bad[bad.length - 1];
  assert.match(error, /returned a non-zero code: 3/);
  assert.strictEqual(errorDetail.code, 3);
};

steps.containers_run_to_their_end = async () => {
  const out = new PassThrough();
  const said = read(out);
  const [end, container] = await docker.run('bb:1', ['sh', '-c', 'cat /who 2>&1; exit 7'], out, { Tty: true });
  assert.strictEqual(end.StatusCode, 7);
  await container.remove();
  out.end();
  assert.match(String(await said), /can't open '\/who'/);
  await refused(404, 'No such image: nosuch:latest', () => docker.createContainer({ Image: 'nosuch' }));
  const bad = await docker.createContainer({ Image: 'bb:1', Cmd: ['nosuch'] });
  await refused(400, 'executable file not found', () => bad.start());
  await bad.remove();
};

steps.a_container_lives = async () => {
  const c = await sleeper('life', {
    Env: ['A=1'], Labels: { l: 'v' }, ExposedPorts: { '80/tcp': {} }, Hostname: 'h',
    Healthcheck: { Test: ['CMD', 'true'], Interval: 1e9, Retries: 3, Timeout: 1e10 },
    HostConfig: {
      Memory: 64 << 20, PortBindings: { '80/tcp': [{ HostIp: '127.0.0.1', HostPort: '' }] }, Init: true,
      Ulimits: [{ Name: 'nofile', Soft: 99, Hard: 99 }], RestartPolicy: { Name: 'on-failure', MaximumRetryCount: 2 },
    },
  });
  const shown = await c.inspect();
  assert.ok(Number(shown.NetworkSettings.Ports['80/tcp'][0].HostPort) > 0);
  assert.strictEqual(shown.HostConfig.Memory, 64 << 20);
  const [listed] = await docker.listContainers({ filters: { name: ['life'] } });
  assert.deepStrictEqual([listed.Names, listed.State], [['/life'], 'running']);
  assert.deepStrictEqual((await c.top()).Processes.map((p) => p[p.length - 1]).slice(-1), ['sleep 1000']);
  const stats = await c.stats({ stream: false });
  assert.ok(stats.memory_stats.usage > 0);
  await eventually('healthy', async () => (await c.inspect()).State.Health.Status === 'healthy');
  await c.pause();
  await c.unpause();
  await c.update({ Memory: 96 << 20, MemorySwap: 192 << 20 });
  await c.rename({ name: 'lived' });
  const waits = c.wait();
  await c.kill();
  assert.strictEqual((await waits).StatusCode, 137);
  await c.restart();
  await c.stop({ t: 5 });
  await refused(304, '', () => c.stop());
  await refused(409, 'is already in use', () => docker.createContainer({ Image: 'bb:1', Cmd: ['true'], name: 'lived' }));
  await refused(409, 'is not running', () => c.kill());
  await c.remove({ v: true });
  await refused(404, 'No such container: lived', () => docker.getContainer('lived').inspect());
};

steps.logs_are_read = async () => {
  // Which of two streams' lines came first, that were written at once, is nobody's promise.
  const script = 'echo 1; echo 2; until test -e /go; do sleep 0.1; done; echo e >&2; sleep 1000';
  const c = await sleeper('logs', { Cmd: ['sh', '-c', script] });
  const has = (text) => async () => (await c.logs({ stdout: true, stderr: true })).toString().includes(text);
  await eventually('lines', has('2\n'));
  await exec(c, { Cmd: ['sh', '-c', 'echo >/go'] });
  await eventually('all lines', has('e\n'));
  const once = new PassThrough();
  once.end(await c.logs({ stdout: true, stderr: true }));
  assert.deepStrictEqual(await demuxed(once), ['1\n2\n', 'e\n']);
  const follows = await c.logs({ stdout: true, stderr: true, follow: true, tail: 1 });
  const told = demuxed(follows);
  await c.kill();
  assert.deepStrictEqual(await told, ['', 'e\n']);
  await c.remove();
};

steps.commands_run_in_a_container = async () => {
  const c = await sleeper('exec');
  const both = ['sh', '-c', 'echo out; echo err >&2; exit 3'];
  assert.deepStrictEqual(await exec(c, { Cmd: both }), ['out\n', 'err\n', 3]);
  assert.deepStrictEqual(await exec(c, { Cmd: ['pwd'], WorkingDir: '/tmp', User: '9' }), ['/tmp\n', '', 0]);
  const run = await c.exec({ Cmd: ['cat'], AttachStdin: true, AttachStdout: true });
  const talk = await run.start({ hijack: true, stdin: true });
  const told = demuxed(talk);
  // What looks like a request is input all the same.
  talk.write('GET /{"a":"b"} HTTP/1.1\r\n');
  talk.end('over\n');
  assert.deepStrictEqual(await told, ['GET /{"a":"b"} HTTP/1.1\r\nover\n', '']);
  const shell = await c.exec({ Cmd: ['sh'], Tty: true, AttachStdin: true, AttachStdout: true });
  const terminal = await shell.start({ hijack: true, stdin: true, Tty: true });
  const typed = read(terminal);
  await shell.resize({ h: 30, w: 100 });
  terminal.write('stty size; exit 4\n');
  assert.match(String(await typed), /30 100/);
  assert.strictEqual((await shell.inspect()).ExitCode, 4);
  await c.remove({ force: true });
};

steps.a_container_is_attached_to = async () => {
  const c = await docker.createContainer({ Image: 'bb:1', Cmd: ['cat'], OpenStdin: true, StdinOnce: true });
  const talk = await c.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  const told = demuxed(talk);
  await c.start();
  talk.end('hello\n');
  assert.deepStrictEqual(await told, ['hello\n', '']);
  assert.strictEqual((await c.wait()).StatusCode, 0);
  await c.remove();
};

steps.files_go_in_and_out = async () => {
  const c = await sleeper('files');
  await c.putArchive(tar({ a: 'text of a' }), { path: '/tmp' });
  assert.ok((await read(await c.getArchive({ path: '/tmp/a' }))).includes('text of a'));
  const stat = await c.infoArchive({ path: '/tmp/a' });
  assert.ok(stat);
  assert.deepStrictEqual((await c.changes()).filter((x) => x.Kind === 1).map((x) => x.Path), ['/tmp/a']);
  await refused(404, 'Could not find the file /nosuch', () => c.getArchive({ path: '/nosuch' }));
  const { Id } = await c.commit({ repo: 'committed', tag: '1', comment: 'm', changes: 'CMD ["cat", "/tmp/a"]' });
  assert.deepStrictEqual((await docker.getImage(Id).inspect()).Config.Cmd, ['cat', '/tmp/a']);
  await refused(400, 'BOGUS is not a valid change command', () => c.commit({ changes: 'BOGUS x' }));
  assert.ok((await read(await c.export())).includes('text of a'));
  await c.remove({ force: true });
};

steps.networks_join_containers = async () => {
  const net = await docker.createNetwork({
    Name: 'net', Driver: 'bridge', CheckDuplicate: true, Labels: { n: '1' },
    IPAM: { Config: [{ Subnet: '10.77.0.0/24', Gateway: '10.77.0.1' }] },
  });
  const one = await sleeper('one', { HostConfig: { NetworkMode: 'net' } });
  const two = await sleeper('two');
  await net.connect({ Container: two.id, EndpointConfig: { Aliases: ['other'], IPAMConfig: { IPv4Address: '10.77.0.9' } } });
  const [out] = await exec(one, { Cmd: ['nslookup', 'other'] });
  assert.ok(out.includes('10.77.0.9'), out);
  assert.strictEqual(Object.keys((await net.inspect()).Containers).length, 2);
  await net.disconnect({ Container: two.id, Force: true });
  await refused(403, 'has active endpoints', () => net.remove());
  await one.remove({ force: true });
  await two.remove({ force: true });
  assert.deepStrictEqual((await docker.pruneNetworks()).NetworksDeleted, ['net']);
  await refused(404, 'network net not found', () => docker.getNetwork('net').inspect());
};

steps.volumes_keep_data = async () => {
  await docker.createVolume({ Name: 'vol', Labels: { v: '1' } });
  const c = await docker.createContainer({ Image: 'bb:1', Cmd: ['true'], HostConfig: { Binds: ['vol:/data'] } });
  const volume = docker.getVolume('vol');
  assert.strictEqual((await volume.inspect()).Driver, 'local');
  await refused(409, 'volume is in use', () => volume.remove());
  await c.remove();
  const listed = await docker.listVolumes({ filters: { label: ['v=1'] } });
  assert.deepStrictEqual(listed.Volumes.map((v) => v.Name), ['vol']);
  await docker.pruneVolumes({ filters: { all: ['true'] } });
  await refused(404, 'no such volume', () => volume.inspect());
};

steps.the_swarm_runs_services = async () => {
  await refused(503, 'This node is not a swarm manager', () => docker.listServices());
  await docker.swarmInit({ AdvertiseAddr: addr, ListenAddr: '0.0.0.0:2377' });
  assert.ok((await docker.swarmInspect()).JoinTokens.Worker.startsWith('SWMTKN-1-'));
  await renewed('a label for the node', async () => {
    const [node] = await docker.listNodes();
    const spec = { ...node.Spec, Labels: { disk: 'fast' }, version: node.Version.Index };
    return docker.getNode(node.ID).update(spec);
  });
  const encoded = (text) => Buffer.from(text).toString('base64');
  const secret = await docker.createSecret({ Name: 'key', Data: encoded('hidden') });
  const config = await docker.createConfig({ Name: 'conf', Data: encoded('shown') });
  const file = (name) => ({ Name: name, UID: '0', GID: '0', Mode: 0o444 });
  const spec = {
    Name: 'web',
    TaskTemplate: {
      ContainerSpec: {
        Image: 'bb:1', Command: ['sh', '-c', 'cat /run/secrets/key /conf; echo; sleep 1000'], StopGracePeriod: 1e9,
        Secrets: [{ SecretID: secret.id, SecretName: 'key', File: file('key') }],
        Configs: [{ ConfigID: config.id, ConfigName: 'conf', File: file('/conf') }],
      },
      Placement: { Constraints: ['node.labels.disk == fast'] },
      Resources: { Limits: { MemoryBytes: 64 << 20 } },
    },
    Mode: { Replicated: { Replicas: 2 } },
    EndpointSpec: { Ports: [{ Protocol: 'tcp', PublishedPort: 8080, TargetPort: 80 }] },
  };
  const service = await docker.createService(spec);
  const running = async (count) => {
    const filters = { service: ['web'], 'desired-state': ['running'] };
    const tasks = await docker.listTasks({ filters });
    return tasks.length === count && tasks.every((t) => t.Status.State === 'running');
  };
  await eventually('two tasks', () => running(2));
  await eventually('their logs', async () => {
    const said = (await service.logs({ stdout: true })).toString();
    return said.split('hiddenshown').length === 3;
  });
  const { Version } = await service.inspect();
  const fewer = { ...spec, Mode: { Replicated: { Replicas: 1 } } };
  await renewed('one replica', async () => service.update({ ...fewer, version: (await service.inspect()).Version.Index }));
  await eventually('one task', () => running(1));
  await refused(409, 'update out of sequence', () => service.update({ ...spec, version: Version.Index }));
  await refused(409, 'name conflicts with an existing object', () => docker.createService(spec));
  await refused(400, 'is in use by the following service', () => docker.getSecret(secret.id).remove());
  await service.remove();
  await refused(404, 'service web not found', () => docker.getService('web').inspect());
  await docker.getSecret(secret.id).remove();
  await docker.getConfig(config.id).remove();
  const tasks = { all: true, filters: { label: ['com.docker.swarm.service.name=web'] } };
  await eventually('its tasks are gone', async () => (await docker.listContainers(tasks)).length === 0);
  await docker.swarmLeave({ force: true });
};

steps.what_happened_was_told = async () => {
  const until = Math.floor(Date.now() / 1000) + 1;
  const told = String(await read(await docker.getEvents({ since: begun, until }))).trim().split('\n').map((l) => JSON.parse(l));
  const seen = new Set(told.map((e) => `${e.Type} ${e.Action.split(':')[0]}`));
  for (const wanted of ['image import', 'image tag', 'container create', 'container die', 'container exec_create',
    'container pause', 'container commit', 'network connect', 'volume create', 'volume destroy']) {
    assert.ok(seen.has(wanted), `${wanted} is not among ${[...seen].join(', ')}`);
  }
};

steps.what_is_left_is_pruned = async () => {
  const left = await docker.createContainer({ Image: 'bb:1', Cmd: ['true'], name: 'left' });
  // So is the container of the step that failed.
  assert.ok((await docker.pruneContainers()).ContainersDeleted.includes(left.id));
  assert.deepStrictEqual(await docker.listContainers({ all: true }), []);
  await docker.pruneImages({ filters: { dangling: ['false'] } });
  assert.deepStrictEqual(await docker.listImages({ all: true }), []);
};

(async () => {
  console.log(`1..${Object.keys(steps).length}`);
  for (const [name, act] of Object.entries(steps)) {
    try {
      await act();
      console.log(`ok ${name}`);
    } catch (e) {
      console.error(e);
      console.log(`not ok ${name}: ${e.message.split('\n').join(' ')}`);
    }
  }
  // A connection that is left open must not keep the process.
  process.exit(0);
})();
