//! What the `host_ip` of a published port may be: an address of the hosts, or an interface.

use std::net::IpAddr;

/// Longest name of an interface (`IFNAMSIZ` without its end).
const LONGEST: usize = 15;

/// Where on the hosts a port is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostIp<'a> {
    /// On one address; an unspecified one is all of them.
    Address(IpAddr),
    /// On the addresses of an interface.
    Interface(&'a str),
}

impl<'a> HostIp<'a> {
    /// Reads it; none where it can be neither. What numbers and dots or what has colons was meant to be an address, which
    /// the kernel would take for an interface's name in part.
    pub fn read(text: &'a str) -> Option<Self> {
        if let Ok(addr) = text.parse() {
            return Some(Self::Address(addr));
        }
        let numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.');
        let wrong = |c: char| c == '/' || c == ':' || c == ',' || c.is_whitespace() || c.is_control();
        (!numeric && text.len() <= LONGEST && !text.contains(wrong)).then_some(Self::Interface(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_ip_is_an_address_or_the_name_of_an_interface() {
        for (text, addr) in
            [("0.0.0.0", true), ("::1", true), ("eth0", false), ("eth0.100", false), ("br-lan", false)]
        {
            let read = HostIp::read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(matches!(read, HostIp::Address(_)), addr, "{text}");
        }
        for bad in ["", "1.2.3", "1.2.3.4.5", "..", "::g", "a/b", "a b", "sixteen-letters-"] {
            assert_eq!(HostIp::read(bad), None, "{bad}");
        }
    }
}
