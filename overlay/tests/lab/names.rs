//! Questions to the name servers of containers, for the tests that ask any.

use std::path::Path;

use crate::lab::{PATIENCE, within};

/// Asks a container's own name server for the records of a type (RFC 1035, 3.2.2): the code of the answer, and what its one
/// record holds.
pub fn look_up<const N: usize>(netns: &Path, name: &str, kind: u8) -> (u8, Option<[u8; N]>) {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, kind, 0, 1]);
    within(netns, || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        socket.send_to(&query, "127.0.0.11:53").expect("send");
        let mut answer = [0; 512];
        let n = socket.recv(&mut answer).expect("an answer");
        // One record: the answer ends with what it holds.
        let held = answer[n - N..n].try_into().expect("long enough");
        (answer[3] & 0xf, (answer[7] == 1).then_some(held))
    })
}
