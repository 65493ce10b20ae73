//! The runtime and the shim on the real kernel, with a busybox root file system. Needs root, cgroups
//! and the Debian package busybox-static.

mod escapes;
mod fixture;
mod isolation;
mod life;
mod stdio;
mod user_namespaces;
