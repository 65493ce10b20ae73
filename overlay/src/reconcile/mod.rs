//! From the whole state to what the kernel should hold, the difference to what it holds, and the steps
//! that remove it.

mod home;
mod lent;
mod links;
mod mesh;
mod six;
mod way;
mod wire;
mod zones;

pub use lent::{earlier, give_back};
pub use links::{Repair, plan, plan_tunnel, repair};
pub use mesh::probe;
pub use wire::{make_bridge, rewire, settle6, unplace, wire};
pub use zones::{resolv_conf, zone};
