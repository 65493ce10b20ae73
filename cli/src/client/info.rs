//! `info`: what the daemon says of its host and swarm, for people.

use anyhow::Result;
use serde_json::Value;

use super::api::Api;
use super::human;
use super::output::{say, text};

/// Shows it. A daemon that cannot be asked is an error after what the client knows of itself.
pub fn show(api: &Api, info: Result<Value>) -> Result<()> {
    say!("Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n", env!("CARGO_PKG_VERSION"))?;
    say!("Server:")?;
    let info = info?;
    lines(
        &info,
        &[
            (" Containers", "Containers"),
            ("  Running", "ContainersRunning"),
            ("  Paused", "ContainersPaused"),
            ("  Stopped", "ContainersStopped"),
            (" Images", "Images"),
            (" Server Version", "ServerVersion"),
            (" Storage Driver", "Driver"),
            (" Logging Driver", "LoggingDriver"),
            (" Cgroup Driver", "CgroupDriver"),
            (" Cgroup Version", "CgroupVersion"),
        ],
    )?;
    let plugins = &info["Plugins"];
    if plugins.is_object() {
        say!(" Plugins:")?;
        for name in ["Volume", "Network", "Authorization", "Log"] {
            let list: Vec<_> =
                plugins[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if !list.is_empty() {
                say!("  {name}: {}", list.join(" "))?;
            }
        }
    }
    let items = |name: &str| info[name].as_array().cloned().unwrap_or_default();
    let directories = items("CDISpecDirs");
    if !directories.is_empty() {
        say!(" CDI spec directories:")?;
        directories.iter().filter_map(Value::as_str).try_for_each(|d| say!("  {d}"))?;
    }
    let devices = items("DiscoveredDevices");
    if !devices.is_empty() {
        say!(" Discovered Devices:")?;
        devices.iter().try_for_each(|d| say!("  {}: {}", text(d, "Source"), text(d, "ID")))?;
    }
    swarm(&info["Swarm"])?;
    let runtimes: Vec<&str> =
        info["Runtimes"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if !runtimes.is_empty() {
        say!(" Runtimes: {}\n Default Runtime: {}", runtimes.join(" "), text(&info, "DefaultRuntime"))?;
    }
    lines(
        &info,
        &[
            (" Kernel Version", "KernelVersion"),
            (" Operating System", "OperatingSystem"),
            (" OSType", "OSType"),
            (" Architecture", "Architecture"),
            (" CPUs", "NCPU"),
        ],
    )?;
    say!(" Total Memory: {}", human::binary_size(info["MemTotal"].as_i64().unwrap_or(0)))?;
    lines(&info, &[(" Name", "Name"), (" ID", "ID"), (" Docker Root Dir", "DockerRootDir")])?;
    lines(
        &info,
        &[
            (" Debug Mode", "Debug"),
            (" Experimental", "ExperimentalBuild"),
            (" Live Restore Enabled", "LiveRestoreEnabled"),
        ],
    )?;
    let labels: Vec<_> = info["Labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !labels.is_empty() {
        say!(" Labels:\n  {}", labels.join("\n  "))?;
    }
    say!(" Socket: {}", api.host())?;
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{warning}");
    }
    Ok(())
}

fn lines(info: &Value, list: &[(&str, &str)]) -> Result<()> {
    for (label, name) in list {
        match &info[*name] {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => say!("{label}: {text}")?,
            other => say!("{label}: {other}")?,
        }
    }
    Ok(())
}

fn swarm(swarm: &Value) -> Result<()> {
    say!(" Swarm: {}", text(swarm, "LocalNodeState"))?;
    if text(swarm, "LocalNodeState") == "locked" {
        return Ok(());
    }
    if let Some(error) = swarm["Error"].as_str().filter(|e| !e.is_empty()) {
        say!("  Error: {error}")?;
    }
    if text(swarm, "NodeID").is_empty() {
        return Ok(());
    }
    say!("  NodeID: {}", text(swarm, "NodeID"))?;
    say!("  Is Manager: {}", swarm["ControlAvailable"] == Value::Bool(true))?;
    let cluster = &swarm["Cluster"];
    if swarm["ControlAvailable"] == Value::Bool(true) && !text(cluster, "ID").is_empty() {
        say!("  ClusterID: {}", text(cluster, "ID"))?;
        say!("  Managers: {}\n  Nodes: {}", swarm["Managers"], swarm["Nodes"])?;
        let pools: Vec<_> =
            cluster["DefaultAddrPool"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !pools.is_empty() {
            say!("  Default Address Pool: {}", pools.join("  "))?;
            say!("  SubnetSize: {}", cluster["SubnetSize"])?;
        }
        say!("  Data Path Port: {}", cluster["DataPathPort"])?;
        let spec = &cluster["Spec"];
        say!(
            "  Orchestration:\n   Task History Retention Limit: {}",
            spec["Orchestration"]["TaskHistoryRetentionLimit"]
        )?;
        say!("  Raft:\n   Snapshot Interval: {}", spec["Raft"]["SnapshotInterval"])?;
        let span = |v: &Value| human::duration(v.as_i64().unwrap_or(0) / 1_000_000_000);
        say!("  Dispatcher:\n   Heartbeat Period: {}", span(&spec["Dispatcher"]["HeartbeatPeriod"]))?;
        say!("  CA Configuration:\n   Expiry Duration: {}", span(&spec["CAConfig"]["NodeCertExpiry"]))?;
        say!("  Autolock Managers: {}", spec["EncryptionConfig"]["AutoLockManagers"] == Value::Bool(true))?;
        say!("  Root Rotation In Progress: {}", cluster["RootRotationInProgress"] == Value::Bool(true))?;
    }
    say!("  Node Address: {}", text(swarm, "NodeAddr"))?;
    let managers = swarm["RemoteManagers"].as_array().cloned().unwrap_or_default();
    if !managers.is_empty() {
        say!("  Manager Addresses:")?;
        for manager in &managers {
            say!("   {}", text(manager, "Addr"))?;
        }
    }
    Ok(())
}
