//! System call numbers of the architectures a 64-bit x86 or ARM host can run.

pub mod aarch64;
pub mod arm;
pub mod x86;
pub mod x86_64;
