//! Rules of ours in chains of somebody else's: iptables' FORWARD, where a policy of DROP (Docker sets it) would stop
//! containers whatever our own table says, and INPUT, where one (ufw sets it) would stop the ingress mesh.

use std::io;

use super::transaction::{DELRULE, NEWRULE, SUBSYS, comment, commit, header, message};
use super::{Error, Family, Rule};
use crate::netlink::{Attrs, NLM_F_CREATE, Socket, attr, be32_at, text_of};

const GETCHAIN: u16 = SUBSYS | 4;
const GETRULE: u16 = SUBSYS | 7;
const TABLE: &str = "filter";

/// A chain of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// What passes through the host.
    Forward,
    /// What is for the host.
    Input,
}

impl Gate {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Input];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }
}

/// Whether the rules are where they are needed: at home in a chain that drops, or not needed.
pub fn admitted(socket: &mut Socket, family: Family, gate: Gate, rules: &[Rule]) -> Result<bool, Error> {
    let held = held(socket, family, gate).map_err(wrap)?;
    Ok(held.is_none_or(|held| rules.iter().all(|r| held.iter().any(|h| h.comment == r.comment))))
}

/// Puts the rules first into a chain that drops, where they are not there yet.
pub fn admit(socket: &mut Socket, family: Family, gate: Gate, rules: &[Rule]) -> Result<(), Error> {
    let Some(held) = held(socket, family, gate).map_err(wrap)? else { return Ok(()) };
    let missing = rules.iter().filter(|r| !held.iter().any(|h| h.comment == r.comment));
    let steps = missing.map(|rule| {
        let body = place(family, gate).nest(4, Attrs::default().raw(&rule.expressions));
        let body = body.put(7, &comment(rule));
        (format!("admit our traffic to {}", gate.name()), message(NEWRULE, NLM_F_CREATE, body))
    });
    commit(socket, TABLE, steps.collect())
}

/// Takes the rules out of the chain.
pub fn withdraw(socket: &mut Socket, family: Family, gate: Gate, rules: &[Rule]) -> Result<(), Error> {
    let held = rules_of(socket, family, gate).map_err(wrap)?;
    let ours = held.into_iter().filter(|h| rules.iter().any(|r| r.comment == h.comment));
    let steps = ours.map(|rule| {
        (format!("leave {}", gate.name()), message(DELRULE, 0, place(family, gate).put(3, &rule.handle)))
    });
    commit(socket, TABLE, steps.collect())
}

struct Held {
    comment: String,
    handle: Vec<u8>,
}

fn wrap(source: io::Error) -> Error {
    Error::Socket { table: TABLE.into(), source }
}

fn place(family: Family, gate: Gate) -> Attrs {
    header(family).text(1, TABLE).text(2, gate.name())
}

/// The rules in the chain; none = there is no such chain, or it lets pass what nobody objects to.
fn held(socket: &mut Socket, family: Family, gate: Gate) -> io::Result<Option<Vec<Held>>> {
    const POLICY_DROP: u32 = 0;
    let chain = match socket.get(GETCHAIN, header(family).text(1, TABLE).text(3, gate.name())) {
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32) => return Ok(None),
        other => other?,
    };
    let policy = attr(chain.payload.get(4..).unwrap_or_default(), 5).and_then(|v| be32_at(v, 0));
    if policy != Some(POLICY_DROP) {
        return Ok(None);
    }
    rules_of(socket, family, gate).map(Some)
}

fn rules_of(socket: &mut Socket, family: Family, gate: Gate) -> io::Result<Vec<Held>> {
    let replies = socket.dump(GETRULE, place(family, gate))?;
    let rules = replies.iter().filter_map(|reply| {
        let body = reply.payload.get(4..)?;
        let here = attr(body, 1).map(text_of).as_deref() == Some(TABLE)
            && attr(body, 2).map(text_of).as_deref() == Some(gate.name());
        here.then_some(())?;
        let comment = attr(body, 7).and_then(|u| u.get(2..)).map(text_of).unwrap_or_default();
        Some(Held { comment, handle: attr(body, 3)?.to_vec() })
    });
    Ok(rules.collect())
}
