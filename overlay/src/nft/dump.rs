//! Reads a table back from the kernel, in the same form as it is wanted.

use std::io;

use super::transaction::{SET_INTERVAL, SUBSYS, header};
use super::{Chain, Element, Error, Family, Field, Hook, Rule, Set, Table, timeout};
use crate::netlink::{Attrs, Socket, attr, attrs, be32_at, text_of};

const GETTABLE: u16 = SUBSYS | 1;
const GETCHAIN: u16 = SUBSYS | 4;
const GETRULE: u16 = SUBSYS | 7;
const GETSET: u16 = SUBSYS | 10;
const GETSETELEM: u16 = SUBSYS | 13;

/// The table of this name, or none.
pub fn read(socket: &mut Socket, family: Family, table: &str) -> Result<Option<Table>, Error> {
    let wrap = |source| Error::Socket { table: table.into(), source };
    match socket.get(GETTABLE, header(family).text(1, table)) {
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32) => return Ok(None),
        Err(e) => return Err(wrap(e)),
        Ok(_) => {}
    }
    read_contents(socket, family, table).map(Some).map_err(wrap)
}

fn read_contents(socket: &mut Socket, family: Family, name: &str) -> io::Result<Table> {
    let mut table = Table { timeouts: timeout::read(socket, family, name)?, ..Table::default() };
    let all = |socket: &mut Socket, kind, body: Attrs| -> io::Result<Vec<Vec<u8>>> {
        let replies = socket.dump(kind, body)?;
        Ok(replies
            .into_iter()
            // A kernel that does not filter the dump by table sends all of them.
            .filter(|r| r.payload.len() > 4 && attr(&r.payload[4..], 1).map(text_of).as_deref() == Some(name))
            .map(|r| r.payload[4..].to_vec())
            .collect())
    };
    let head = || header(family).text(1, name);
    for chain in all(socket, GETCHAIN, head())? {
        let Some(chain_name) = attr(&chain, 3).map(text_of) else { continue };
        let hook = attr(&chain, 4).and_then(|place| {
            let kind = attr(&chain, 7).map(text_of)?;
            let number = attr(place, 1).and_then(|v| be32_at(v, 0))?;
            let priority = attr(place, 2).and_then(|v| be32_at(v, 0))? as i32;
            Some(Hook { kind, number, priority })
        });
        table.chains.insert(chain_name, Chain { hook, rules: Vec::new() });
    }
    for rule in all(socket, GETRULE, head())? {
        let Some(chain) = attr(&rule, 2).map(text_of).and_then(|n| table.chains.get_mut(&n)) else {
            continue;
        };
        let comment = attr(&rule, 7).and_then(|u| u.get(2..)).map(text_of).unwrap_or_default();
        let count = attr(&rule, 4).map_or(0, |list| attrs(list).count());
        chain.rules.push(Rule { comment, expressions: Vec::new(), count });
    }
    for set in all(socket, GETSET, head())? {
        let Some(set_name) = attr(&set, 2).map(text_of) else { continue };
        let number = |kind| attr(&set, kind).and_then(|v| be32_at(v, 0)).unwrap_or(0);
        let mut read = Set {
            key: fields_of(number(4)),
            data: fields_of(number(6)),
            interval: number(3) & SET_INTERVAL != 0,
            timeouts: number(15) == timeout::OBJECT,
            ..Set::default()
        };
        let body = head().text(2, &set_name);
        for reply in socket.dump(GETSETELEM, body)? {
            let payload = reply.payload.get(4..).unwrap_or_default();
            for (_, element) in attr(payload, 3).into_iter().flat_map(attrs) {
                let value = |kind| attr(element, kind).and_then(|d| attr(d, 1)).unwrap_or_default().to_vec();
                let object = timeout::object_of(element);
                read.elements.insert(Element { key: value(1), end: value(10), data: value(2), object });
            }
        }
        table.sets.insert(set_name, read.into());
    }
    Ok(table)
}

fn fields_of(mut kind: u32) -> Vec<Field> {
    let mut fields = Vec::new();
    while kind != 0 {
        fields.extend(Field::of_kind(kind & 0x3f));
        kind >>= 6;
    }
    fields.reverse();
    fields
}
