//! Looking at a host before its data plane does.

use skep_overlay::DataPlane;

use crate::lab::Host;

/// Whether the check finds what somebody else broke. The plane's own, every 30 s, may have come first and repaired it:
/// not twice in a row.
pub async fn notices(plane: &DataPlane, host: &Host, breakage: &str) -> bool {
    for _ in 0..2 {
        host.sh(breakage);
        if !plane.check().await.expect("check").is_empty() {
            return true;
        }
    }
    false
}
