//! Limits of block I/O: weights, and rates of single devices.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use skep_registry::system_words::of_io;

use super::write;
use crate::config::{DeviceRate, IoRate, ResourceLimits};
use crate::runtime::error::Error;

/// `major:minor` of a block device.
fn device(path: &Path) -> Result<String, Error> {
    let (major, minor) = device_number(path)?;
    Ok(format!("{major}:{minor}"))
}

/// Major and minor number of a block device.
pub fn device_number(path: &Path) -> Result<(u32, u32), Error> {
    // In Docker's words, which its client makes exit code 127 of.
    let meta = std::fs::metadata(path)
        .map_err(|e| Error::Refused(format!("stat {}: {}", path.display(), of_io(&e))))?;
    if !meta.file_type().is_block_device() {
        return Err(Error::Refused(format!("{} is not a block device", path.display())));
    }
    let number = meta.rdev();
    Ok((libc::major(number), libc::minor(number)))
}

fn no_weight(directory: &Path) -> Error {
    Error::Refused(format!(
        "a block I/O weight needs the BFQ scheduler, of which {} has no file on this host: leave --blkio-weight out",
        directory.display()
    ))
}

/// Sets them by cgroups v1.
pub fn v1(directory: &Path, limits: &ResourceLimits) -> Result<(), Error> {
    let file = |name: &'static str, bfq: &'static str| {
        [bfq, name].into_iter().find(|f| directory.join(f).exists()).ok_or_else(|| no_weight(directory))
    };
    if let Some(weight) = limits.blkio_weight {
        write(directory, file("blkio.weight", "blkio.bfq.weight")?, weight)?;
    }
    for d in &limits.blkio_weight_devices {
        let file = file("blkio.weight_device", "blkio.bfq.weight_device")?;
        write(directory, file, format_args!("{} {}", device(&d.path)?, d.weight)).map_err(|e| match e {
            Error::System { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Error::Refused(format!(
                    "a block I/O weight of {} needs the BFQ scheduler, which it does not use on this host: leave \
                     --blkio-weight-device out",
                    d.path.display()
                ))
            }
            e => e,
        })?;
    }
    for DeviceRate { path, limit, rate } in &limits.blkio_rates {
        let file = match limit {
            IoRate::ReadBytes => "blkio.throttle.read_bps_device",
            IoRate::WriteBytes => "blkio.throttle.write_bps_device",
            IoRate::ReadOperations => "blkio.throttle.read_iops_device",
            IoRate::WriteOperations => "blkio.throttle.write_iops_device",
        };
        write(directory, file, format_args!("{} {rate}", device(path)?))?;
    }
    Ok(())
}

/// Sets them by cgroups v2.
pub fn v2(directory: &Path, limits: &ResourceLimits) -> Result<(), Error> {
    let bfq = directory.join("io.bfq.weight").exists();
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    // 10-1000 onto 1-10000, as every runtime does; BFQ's own file takes 1-1000.
    let scaled = |w: u16| if bfq { u64::from(w) } else { 1 + (u64::from(w.max(10)) - 10) * 9999 / 990 };
    if limits.blkio_weight.is_some() || !limits.blkio_weight_devices.is_empty() {
        if !directory.join(file).exists() {
            return Err(no_weight(directory));
        }
        if let Some(weight) = limits.blkio_weight {
            write(directory, file, format_args!("default {}", scaled(weight)))?;
        }
        for d in &limits.blkio_weight_devices {
            write(directory, file, format_args!("{} {}", device(&d.path)?, scaled(d.weight)))?;
        }
    }
    for DeviceRate { path, limit, rate } in &limits.blkio_rates {
        let key = match limit {
            IoRate::ReadBytes => "rbps",
            IoRate::WriteBytes => "wbps",
            IoRate::ReadOperations => "riops",
            IoRate::WriteOperations => "wiops",
        };
        let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
        write(directory, "io.max", format_args!("{} {key}={rate}", device(path)?))?;
    }
    Ok(())
}
