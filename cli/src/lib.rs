//! All of the binary `skep`: the daemon, its helpers (shim, userspace WireGuard) and the command line.

mod client;
mod compose;
mod daemon;
mod generic_resource;
mod origin;
mod registry;
mod whoami;

use std::ffi::OsString;
use std::process::ExitCode;

pub use origin::Origin;

/// Runs what the arguments ask for.
pub fn main(origin: Origin) -> ExitCode {
    origin::say(origin);
    let args: Vec<OsString> = std::env::args_os().collect();
    // Helpers are started often and live long: they get neither a runtime nor an argument parser.
    let rest = args.get(2..).unwrap_or_default();
    match args.get(1).and_then(|a| a.to_str()) {
        Some("shim") => return code(skep_engine::shim_main(rest)),
        Some("container-init") => return code(skep_engine::init_main(rest)),
        Some("wireguard") => return code(skep_overlay::wireguard_main(rest)),
        Some("whoami") => return whoami::main(rest),
        _ => {}
    }
    client::main(args)
}

fn code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
