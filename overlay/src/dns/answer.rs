//! From the bytes of a request and a zone to what is to be done about it: no I/O, no state.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom as _;

use super::zone::{TTL, Zone, canonical};

/// Length of the fixed header.
pub(super) const HEADER: usize = 12;
/// Largest answer over UDP for a client that says nothing about it.
const PLAIN_UDP: usize = 512;
/// Largest answer over UDP that we send or say we take: no fragments on any usual path.
const EDNS_UDP: u16 = 1232;

/// How the request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing: it is no request.
    Ignore,
    /// Send this.
    Reply(Vec<u8>),
    /// Not ours to answer: pass it on.
    Forward,
}

/// Decides about one request.
pub(super) fn decide(request: &[u8], zone: &Zone, transport: Transport) -> Decision {
    // Whatever is too short to have an ID, or is itself an answer, gets none: two servers could
    // otherwise keep each other busy for ever.
    if request.len() < HEADER || request[2] & 0x80 != 0 {
        return Decision::Ignore;
    }
    let Ok(query) = Message::from_vec(request) else {
        return Decision::Reply(failure(request, ResponseCode::FormErr));
    };
    if query.metadata.op_code != OpCode::Query {
        return Decision::Reply(failure(request, ResponseCode::NotImp));
    }
    let [question] = query.queries.as_slice() else {
        return Decision::Reply(failure(request, ResponseCode::FormErr));
    };
    let name = canonical(&question.name().to_ascii());
    let known = match question.query_class() {
        DNSClass::IN | DNSClass::ANY => lookup(&name, question.name(), question.query_type(), zone),
        _ => None,
    };
    match known {
        Some(records) => encode(respond(&query, records), &query, transport),
        None if zone.forwards() => Decision::Forward,
        None => Decision::Reply(failure(request, ResponseCode::NXDomain)),
    }
}

/// The records for a name of the zone; `None` if it is not one. A name that exists without a record of
/// the wanted type has an empty answer: an error would make clients give up on the name altogether.
fn lookup(canonical: &str, asked: &Name, kind: RecordType, zone: &Zone) -> Option<Vec<Record>> {
    if let Some(addr) = reverse(asked) {
        let target = zone.pointer(addr)?;
        let wanted = matches!(kind, RecordType::PTR | RecordType::ANY);
        let target = Name::from_ascii(format!("{target}.")).ok()?;
        let record = Record::from_rdata(asked.clone(), TTL, RData::PTR(PTR(target)));
        return Some(if wanted { vec![record] } else { Vec::new() });
    }
    let entry = zone.find(canonical)?;
    let wanted = |addr: &IpAddr| match addr {
        IpAddr::V4(_) => matches!(kind, RecordType::A | RecordType::ANY),
        IpAddr::V6(_) => matches!(kind, RecordType::AAAA | RecordType::ANY),
    };
    let mut addrs: Vec<_> = entry.addrs.iter().copied().filter(wanted).collect();
    addrs.shuffle(&mut rand::rng());
    let data = |addr| match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    };
    Some(addrs.into_iter().map(|a| Record::from_rdata(asked.clone(), entry.ttl, data(a))).collect())
}

/// The address that a whole `in-addr.arpa` or `ip6.arpa` name asks about.
fn reverse(name: &Name) -> Option<IpAddr> {
    let text = canonical(&name.to_ascii());
    if let Some(digits) = text.strip_suffix(".ip6.arpa") {
        let mut addr = 0;
        let mut parts = digits.split('.');
        for place in 0..32 {
            let digit = parts.next().filter(|d| d.len() == 1)?;
            addr |= u128::from_str_radix(digit, 16).ok()? << (4 * place);
        }
        return parts.next().is_none().then(|| Ipv6Addr::from(addr).into());
    }
    let digits = text.strip_suffix(".in-addr.arpa")?;
    let mut octets = [0; 4];
    let mut parts = digits.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

fn respond(query: &Message, records: Vec<Record>) -> Message {
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    response.add_answers(records);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_UDP);
        response.set_edns(edns);
    }
    response
}

/// The bytes, with as many answers as the transport takes.
fn encode(mut response: Message, query: &Message, transport: Transport) -> Decision {
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => query
            .edns
            .as_ref()
            .map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload().min(EDNS_UDP)).max(PLAIN_UDP)),
    };
    loop {
        match response.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return Decision::Reply(bytes),
            Ok(bytes) if !response.answers.is_empty() => {
                // All records of an answer are about as long.
                let keep = response.answers.len() * limit / bytes.len();
                response.answers.truncate(keep);
                response.metadata.truncation = true;
            }
            _ => return Decision::Ignore,
        }
    }
}

/// An answer that says only that there is none. Works on the bytes, so that any request gets it.
pub(super) fn failure(request: &[u8], code: ResponseCode) -> Vec<u8> {
    let question = (code != ResponseCode::FormErr).then(|| question_end(request)).flatten();
    let mut reply = request[..question.unwrap_or(HEADER)].to_vec();
    // QR; opcode and RD as asked; RA; the code.
    reply[2] = 0x80 | (request[2] & 0x79);
    reply[3] = 0x80 | (u16::from(code) as u8 & 0x0F);
    reply[4..HEADER].fill(0);
    reply[5] = u8::from(question.is_some());
    reply
}

/// Where the first question ends, if it is there whole.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    if message.len() < HEADER || u16::from_be_bytes([message[4], message[5]]) == 0 {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            // A pointer has no place in the first question.
            len if len >= 64 => return None,
            len => at += 1 + usize::from(len),
        }
    }
    let end = at + 5;
    (end <= message.len()).then_some(end)
}

/// Whether `reply` answers `request`: the same ID and question, so that nobody else's packet does.
pub(super) fn answers(reply: &[u8], request: &[u8]) -> bool {
    if reply.len() < HEADER || reply[..2] != request[..2] || reply[2] & 0x80 == 0 {
        return false;
    }
    match (question_end(request), question_end(reply)) {
        (Some(asked), Some(answered)) => {
            asked == answered && reply[HEADER..answered].eq_ignore_ascii_case(&request[HEADER..asked])
        }
        // Some servers leave the question out of an error.
        (_, None) => reply[3] & 0x0F != u16::from(ResponseCode::NoError) as u8,
        (None, Some(_)) => false,
    }
}

/// Whether an answer is an error that another server may not give.
pub(super) fn is_refusal(reply: &[u8]) -> bool {
    let code = reply.get(3).map_or(0, |b| u16::from(b & 0x0F));
    [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp]
        .iter()
        .any(|c| u16::from(*c) == code)
}

/// Whether an answer was cut short.
pub(super) fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|b| b & 0x02 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    fn zone() -> Zone {
        let mut zone = Zone::new();
        zone.add_vip("web", Ipv4Addr::new(10, 0, 0, 2));
        zone.add_addresses("tasks.web", (3..=5).map(|n| Ipv4Addr::new(10, 0, 0, n)));
        zone.add_addresses("many", (0..200).map(|n| Ipv4Addr::new(10, 1, 0, n)));
        zone.add_pointer(Ipv4Addr::new(10, 0, 0, 3), "web.1.abc");
        let six: Ipv6Addr = "fd00:1::2".parse().expect("address");
        zone.add_addresses("both", [IpAddr::from(Ipv4Addr::new(10, 2, 0, 2)), six.into()]);
        zone.add_pointer(six, "both.net");
        zone.set_search(["example.com".to_owned()]);
        zone
    }

    fn ask(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_str_relaxed(name).expect("name"), kind));
        message.to_vec().expect("encode")
    }

    fn reply(request: &[u8], transport: Transport) -> Message {
        match decide(request, &zone(), transport) {
            Decision::Reply(bytes) => {
                assert!(answers(&bytes, request), "the answer does not match the request");
                Message::from_vec(&bytes).expect("decode")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_found_in_every_spelling() {
        for (name, kind, count) in [
            ("web.", RecordType::A, 1),
            ("WEB.", RecordType::A, 1),
            ("web.Example.com.", RecordType::A, 1),
            ("tasks.Web.", RecordType::A, 3),
            ("web.", RecordType::AAAA, 0),
            ("web.", RecordType::MX, 0),
            ("both.", RecordType::A, 1),
            ("both.", RecordType::AAAA, 1),
            ("both.", RecordType::ANY, 2),
            ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", RecordType::PTR, 1),
            ("web.", RecordType::ANY, 1),
            ("3.0.0.10.in-addr.arpa.", RecordType::PTR, 1),
            ("3.0.0.10.IN-ADDR.ARPA.", RecordType::PTR, 1),
        ] {
            let answer = reply(&ask(name, kind), Transport::Udp);
            assert_eq!(answer.answers.len(), count, "{name} {kind}");
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.metadata.recursion_available);
        }
        for name in [
            "other.",
            "web.example.org.",
            "xweb.",
            "example.com.",
            "9.0.0.10.in-addr.arpa.",
            "10.in-addr.arpa.",
            "d.f.ip6.arpa.",
            ".",
        ] {
            assert_eq!(
                decide(&ask(name, RecordType::A), &zone(), Transport::Udp),
                Decision::Forward,
                "{name}"
            );
        }
    }

    #[test]
    fn times_to_live_follow_the_kind_of_name() {
        let ttl = |name| reply(&ask(name, RecordType::A), Transport::Udp).answers[0].ttl;
        assert_eq!((ttl("web."), ttl("tasks.web.")), (600, 5));
    }

    #[test]
    fn tasks_come_in_random_order() {
        let first = |_| reply(&ask("tasks.web.", RecordType::A), Transport::Udp).answers[0].data.to_string();
        let seen: std::collections::HashSet<String> = (0..200).map(first).collect();
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn long_answers_are_cut_for_udp_only() {
        let plain = reply(&ask("many.", RecordType::A), Transport::Udp);
        assert!(
            plain.metadata.truncation
                && plain.to_vec().expect("encode").len() <= 512
                && plain.answers.len() > 20
        );
        let mut message = Message::from_vec(&ask("many.", RecordType::A)).expect("decode");
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
        let extended = reply(&message.to_vec().expect("encode"), Transport::Udp);
        assert!(extended.metadata.truncation && extended.edns.is_some());
        assert!(extended.answers.len() > plain.answers.len());
        let whole = reply(&ask("many.", RecordType::A), Transport::Tcp);
        assert!(!whole.metadata.truncation && whole.answers.len() == 200);
    }

    #[test]
    fn what_is_no_request_is_ignored_or_refused() {
        let good = ask("web.", RecordType::A);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(decide(&response, &zone(), Transport::Udp), Decision::Ignore);
        assert_eq!(decide(&good[..11], &zone(), Transport::Udp), Decision::Ignore);
        let code = |request: &[u8]| match decide(request, &zone(), Transport::Udp) {
            Decision::Reply(bytes) => bytes[3] & 0x0F,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&good[..14]), 1, "cut short");
        let mut update = good.clone();
        update[2] = (update[2] & 0x87) | (5 << 3);
        assert_eq!(code(&update), 4, "an update");
        let mut none = good.clone();
        none[5] = 0;
        none.truncate(12);
        assert_eq!(code(&none), 1, "no question");
    }

    #[test]
    fn a_closed_container_is_told_that_the_name_does_not_exist() {
        let mut zone = zone();
        zone.set_forward(false);
        let request = ask("other.", RecordType::A);
        let Decision::Reply(bytes) = decide(&request, &zone, Transport::Udp) else { panic!("no answer") };
        assert!(answers(&bytes, &request));
        assert_eq!(bytes[3] & 0x0F, 3);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_can_do_harm(request: Vec<u8>, cut in 0usize..40, flip in 0usize..400) {
            let _ = decide(&request, &zone(), Transport::Udp);
            let mut near = ask("tasks.web.example.com.", RecordType::A);
            let at = flip / 8 % near.len();
            near[at] ^= 1 << (flip % 8);
            near.truncate(near.len().saturating_sub(cut));
            if let Decision::Reply(bytes) = decide(&near, &zone(), Transport::Tcp) {
                proptest::prop_assert!(bytes.len() >= HEADER && bytes[2] & 0x80 != 0);
            }
        }
    }
}
