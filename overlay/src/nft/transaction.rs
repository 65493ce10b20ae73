//! Changes as one nfnetlink batch: the kernel takes all of them or none.

use super::{Change, Element, Error, Family, Field, Rule, Set, timeout};
use crate::netlink::{Attrs, Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Socket};

pub(super) const SUBSYS: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYS;
const DELTABLE: u16 = SUBSYS | 2;
const NEWCHAIN: u16 = SUBSYS | 3;
pub(super) const NEWRULE: u16 = SUBSYS | 6;
pub(super) const DELRULE: u16 = SUBSYS | 8;
const NEWSET: u16 = SUBSYS | 9;
const NEWSETELEM: u16 = SUBSYS | 12;
const DELSETELEM: u16 = SUBSYS | 14;
const LIST_ELEM: u16 = 1;
pub(super) const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_OBJECT: u32 = 0x40;
const SET_CONCAT: u32 = 0x80;
/// An attribute's length has 16 bits.
const ELEMENTS_A_MESSAGE: usize = 400;

/// The header every nftables message opens with.
pub(super) fn header(family: Family) -> Attrs {
    Attrs::default().raw(&[family.number(), 0, 0, 0])
}

/// Applies the changes to a table in one transaction.
pub fn apply(socket: &mut Socket, family: Family, table: &str, changes: &[Change]) -> Result<(), Error> {
    commit(socket, table, steps(family, table, changes))
}

/// The messages of changes, each with what it is for.
pub(super) fn steps(family: Family, table: &str, changes: &[Change]) -> Vec<(String, Message)> {
    let of = |(id, change): (usize, &Change)| {
        let messages = messages(family, table, change, id as u32 + 1).into_iter();
        let name = change.to_string();
        messages.map(move |m| (name.clone(), m)).collect::<Vec<_>>()
    };
    changes.iter().enumerate().flat_map(of).collect()
}

/// Removes the table; no error when there is none.
pub fn delete_table(socket: &mut Socket, family: Family, table: &str) -> Result<(), Error> {
    let steps = messages(family, table, &Change::DeleteTable, 0);
    let steps = steps.into_iter().map(|m| ("remove the table".to_owned(), m)).collect();
    match commit(socket, table, steps) {
        Err(Error::Refused { errno: nix::errno::Errno::ENOENT, .. }) => Ok(()),
        other => other,
    }
}

pub(super) fn commit(socket: &mut Socket, table: &str, steps: Vec<(String, Message)>) -> Result<(), Error> {
    if steps.is_empty() {
        return Ok(());
    }
    // res_id of the batch markers is the subsystem, in network order.
    let marker = |kind| Message {
        kind,
        flags: NLM_F_REQUEST,
        body: Attrs::default().raw(&[0, 0, 0, (SUBSYS >> 8) as u8]),
    };
    let (names, mut inner): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    if let Some(last) = inner.last_mut() {
        last.flags |= NLM_F_ACK;
    }
    let mut batch = vec![marker(BATCH_BEGIN)];
    batch.append(&mut inner);
    batch.push(marker(BATCH_END));
    let answer = socket.transact(&batch).map_err(|source| Error::Socket { table: table.into(), source })?;
    answer.map_err(|(at, errno)| Error::Refused {
        table: table.into(),
        step: names.get(at.wrapping_sub(1)).cloned().unwrap_or_else(|| "commit".into()),
        errno,
    })
}

pub(super) fn message(kind: u16, flags: u16, body: Attrs) -> Message {
    Message { kind, flags: NLM_F_REQUEST | flags, body }
}

fn messages(family: Family, table: &str, change: &Change, id: u32) -> Vec<Message> {
    let head = || header(family).text(1, table);
    match change {
        Change::DeleteTable => vec![message(DELTABLE, 0, head())],
        Change::AddTable => vec![message(NEWTABLE, NLM_F_CREATE, head())],
        Change::AddTimeout(name, timeout) => vec![timeout::add(family, table, name, *timeout)],
        Change::DeleteTimeout(name) => vec![timeout::delete(family, table, name)],
        Change::AddSet(name, set) => {
            vec![message(NEWSET, NLM_F_CREATE, describe(head().text(2, name), set, id))]
        }
        Change::AddChain(name, chain) => {
            let mut body = head().text(3, name);
            if let Some(hook) = &chain.hook {
                const POLICY_ACCEPT: u32 = 1;
                let place = Attrs::default().be32(1, hook.number).be32(2, hook.priority as u32);
                body = body.nest(4, place).be32(5, POLICY_ACCEPT).text(7, &hook.kind);
            }
            vec![message(NEWCHAIN, NLM_F_CREATE, body)]
        }
        Change::Rules(chain, rules) => {
            let flush = message(DELRULE, 0, head().text(2, chain));
            std::iter::once(flush)
                .chain(rules.iter().map(|rule| {
                    let body = head().text(2, chain).nest(4, Attrs::default().raw(&rule.expressions));
                    message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body.put(7, &comment(rule)))
                }))
                .collect()
        }
        Change::DeleteElements(set, elements) => element_messages(DELSETELEM, 0, &head, set, elements),
        Change::AddElements(set, elements) => {
            element_messages(NEWSETELEM, NLM_F_CREATE, &head, set, elements)
        }
    }
}

/// The comment in the form `nft` prints: type 0, length, text.
pub(super) fn comment(rule: &Rule) -> Vec<u8> {
    let text = rule.comment.as_bytes();
    let text = &text[..text.len().min(120)];
    let mut bytes = vec![0, text.len() as u8 + 1];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

pub(super) fn type_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |t, f| t << 6 | f.kind())
}

fn length_of(fields: &[Field]) -> u32 {
    match fields {
        [one] => one.size(),
        many => many.iter().map(|f| f.padded()).sum(),
    }
}

fn describe(body: Attrs, set: &Set, id: u32) -> Attrs {
    let concat = set.key.len() > 1;
    let flags = [
        (set.interval, SET_INTERVAL),
        (!set.data.is_empty(), SET_MAP),
        (set.timeouts, SET_OBJECT),
        (concat, SET_CONCAT),
    ];
    let flags = flags.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
    let mut body = body.be32(3, flags).be32(4, type_of(&set.key)).be32(5, length_of(&set.key));
    if !set.data.is_empty() {
        body = body.be32(6, type_of(&set.data)).be32(7, length_of(&set.data));
    }
    if set.timeouts {
        body = body.be32(15, timeout::OBJECT);
    }
    if concat {
        let fields = set
            .key
            .iter()
            .fold(Attrs::default(), |all, f| all.nest(LIST_ELEM, Attrs::default().be32(1, f.size())));
        body = body.nest(9, Attrs::default().nest(2, fields));
    }
    body.be32(10, id)
}

fn element_messages(
    kind: u16,
    flags: u16,
    head: &dyn Fn() -> Attrs,
    set: &str,
    elements: &[Element],
) -> Vec<Message> {
    let value = |bytes: &[u8]| Attrs::default().put(1, bytes);
    elements
        .chunks(ELEMENTS_A_MESSAGE)
        .map(|chunk| {
            let list = chunk.iter().fold(Attrs::default(), |list, element| {
                let mut body = Attrs::default().nest(1, value(&element.key));
                if !element.end.is_empty() {
                    body = body.nest(10, value(&element.end));
                }
                if !element.data.is_empty() {
                    body = body.nest(2, value(&element.data));
                }
                if !element.object.is_empty() {
                    body = body.text(9, &element.object);
                }
                list.nest(LIST_ELEM, body)
            });
            message(kind, flags, head().text(2, set).nest(3, list))
        })
        .collect()
}
