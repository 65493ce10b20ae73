//! What services and networks may ask for that older versions do not know. Protocol buffers pass unknown fields over
//! without a word (<https://protobuf.dev/programming-guides/proto3/#unknowns>), so a node says what it knows in its
//! description (`NodeDescription.knows`), and none is given what it would drop. A field that is added to what tasks are
//! made of becomes one more of these.

use crate::v1::{ContainerSpec, NodeDescription};

/// A thing that nodes know since some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `RunOptions.domainname`.
    Domainname,
    /// `RunOptions.annotations`.
    Annotations,
    /// `RunOptions.storage_opt`.
    StorageOpt,
    /// `PortConfig.host_ip`.
    HostIp,
    /// `NetworkSpec.ipv6`.
    OverlayIpv6,
}

impl Feature {
    /// All that this version knows.
    pub const ALL: [Self; 5] =
        [Self::Domainname, Self::Annotations, Self::StorageOpt, Self::HostIp, Self::OverlayIpv6];

    /// Its name in a node's description.
    pub fn word(self) -> &'static str {
        match self {
            Self::Domainname => "domainname",
            Self::Annotations => "annotations",
            Self::StorageOpt => "storage-opt",
            Self::HostIp => "host-ip",
            Self::OverlayIpv6 => "overlay-ipv6",
        }
    }

    /// What to call it.
    pub fn what(self) -> &'static str {
        match self {
            Self::Domainname => "domain names of containers",
            Self::Annotations => "annotations of containers",
            Self::StorageOpt => "storage options of containers",
            Self::HostIp => "ports on one address or interface of the hosts",
            Self::OverlayIpv6 => "overlay networks with IPv6",
        }
    }

    /// Whether the node says that it knows it. What came before nodes said such things is known to all that say any of them.
    pub fn is_known_to(self, node: &NodeDescription) -> bool {
        let earlier = matches!(self, Self::HostIp | Self::OverlayIpv6);
        node.knows.iter().any(|word| earlier || word == self.word())
    }
}

/// Whether a port's `host_ip` asks for [`Feature::HostIp`]: older versions open the port everywhere.
pub fn is_on_one_address(host_ip: &str) -> bool {
    !matches!(host_ip, "" | "0.0.0.0")
}

/// What a container asks for of it.
pub fn asked(c: &ContainerSpec) -> Vec<Feature> {
    let Some(run) = &c.run else { return Vec::new() };
    let asks = |f: &Feature| match f {
        Feature::Domainname => !run.domainname.is_empty(),
        Feature::Annotations => !run.annotations.is_empty(),
        Feature::StorageOpt => !run.storage_opt.is_empty(),
        // Not of containers.
        Feature::HostIp | Feature::OverlayIpv6 => false,
    };
    Feature::ALL.into_iter().filter(asks).collect()
}
