//! Seccomp filters: which system calls a container may make.

mod bpf;
mod default;
pub mod oci;
mod profile;
mod tables;

use std::io;

pub use bpf::Instruction;

use super::capabilities::Capabilities;
use super::error::{Context, Error};
use crate::config::Seccomp;

/// A compiled filter.
pub struct Filter(Vec<Instruction>);

impl Filter {
    /// Compiles what the configuration asks for; none for an unconfined or privileged container.
    pub fn compile(
        seccomp: &Seccomp,
        capabilities: Capabilities,
        privileged: bool,
    ) -> Result<Option<Self>, Error> {
        if privileged {
            return Ok(None);
        }
        let program = match seccomp {
            Seccomp::Default | Seccomp::Builtin => profile::default_program(capabilities),
            Seccomp::Unconfined => return Ok(None),
            Seccomp::Profile(json) => profile::custom_program(json, capabilities)?,
        };
        if program.len() > 4096 {
            let text =
                format!("seccomp profile: {} instructions are more than the kernel's 4096", program.len());
            return Err(Error::Refused(text));
        }
        Ok(Some(Self(program)))
    }

    /// Installs the filter on this process, for good. Needs CAP_SYS_ADMIN or no_new_privs.
    pub fn load(&self) -> Result<(), Error> {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program before returning.
        let r =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if r != 0 {
            return Err(io::Error::last_os_error()).on("load", "seccomp filter");
        }
        Ok(())
    }
}
