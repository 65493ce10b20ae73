//! Between raft-rs's messages and ours. Bytes from disk or from a peer are only ever read by prost.

#![expect(
    clippy::field_reassign_with_default,
    reason = "rust-protobuf's messages hide fields, so no literal makes them"
)]

use prost::Message as _;
use raft::eraftpb;
use skep_proto::v1;

/// A message of a kind that raft does not know, or that no peer may send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMessage(pub String);

const ENTRY_TYPES: [eraftpb::EntryType; 3] = [
    eraftpb::EntryType::EntryNormal,
    eraftpb::EntryType::EntryConfChange,
    eraftpb::EntryType::EntryConfChangeV2,
];

pub(crate) fn entry_to_wire(entry: &eraftpb::Entry) -> v1::RaftEntry {
    v1::RaftEntry {
        r#type: entry.get_entry_type() as u32,
        term: entry.term,
        index: entry.index,
        data: entry.data.to_vec(),
        context: entry.context.to_vec(),
    }
}

pub(crate) fn entry_from_wire(entry: v1::RaftEntry) -> Result<eraftpb::Entry, BadMessage> {
    let mut out = eraftpb::Entry::default();
    let kind = ENTRY_TYPES.get(entry.r#type as usize).ok_or_else(|| {
        BadMessage(format!("raft entry {} has the unknown type {}", entry.index, entry.r#type))
    })?;
    out.set_entry_type(*kind);
    out.term = entry.term;
    out.index = entry.index;
    out.data = entry.data.into();
    out.context = entry.context.into();
    Ok(out)
}

pub(crate) fn conf_state_to_wire(state: &eraftpb::ConfState) -> v1::RaftConfState {
    v1::RaftConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
    }
}

pub(crate) fn conf_state_from_wire(state: &v1::RaftConfState) -> eraftpb::ConfState {
    let mut out = eraftpb::ConfState::default();
    out.voters = state.voters.clone();
    out.learners = state.learners.clone();
    out.voters_outgoing = state.voters_outgoing.clone();
    out.learners_next = state.learners_next.clone();
    out.auto_leave = state.auto_leave;
    out
}

pub(crate) fn hard_state_to_wire(state: &eraftpb::HardState) -> v1::RaftHardState {
    v1::RaftHardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn hard_state_from_wire(state: &v1::RaftHardState) -> eraftpb::HardState {
    let mut out = eraftpb::HardState::default();
    out.term = state.term;
    out.vote = state.vote;
    out.commit = state.commit;
    out
}

pub(crate) fn snapshot_to_wire(snapshot: &eraftpb::Snapshot) -> v1::RaftSnapshot {
    let meta = snapshot.get_metadata();
    v1::RaftSnapshot {
        data: snapshot.data.to_vec(),
        conf_state: Some(conf_state_to_wire(meta.get_conf_state())),
        index: meta.index,
        term: meta.term,
    }
}

pub(crate) fn snapshot_from_wire(snapshot: v1::RaftSnapshot) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    out.data = snapshot.data.into();
    let meta = out.mut_metadata();
    meta.index = snapshot.index;
    meta.term = snapshot.term;
    meta.set_conf_state(snapshot.conf_state.as_ref().map(conf_state_from_wire).unwrap_or_default());
    out
}

pub(crate) fn message_to_wire(message: eraftpb::Message, cluster_id: &str) -> v1::RaftMessage {
    v1::RaftMessage {
        r#type: message.get_msg_type() as u32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.iter().map(entry_to_wire).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: message.has_snapshot().then(|| snapshot_to_wire(message.get_snapshot())),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.to_vec(),
        priority: message.priority as u64,
        deprecated_priority: message.deprecated_priority as i64,
        cluster_id: cluster_id.to_owned(),
    }
}

/// The kinds that one member sends another; the rest are a node's own affairs.
fn peer_kind(kind: u32) -> Option<eraftpb::MessageType> {
    use eraftpb::MessageType as M;
    [
        M::MsgAppend,
        M::MsgAppendResponse,
        M::MsgRequestVote,
        M::MsgRequestVoteResponse,
        M::MsgSnapshot,
        M::MsgHeartbeat,
        M::MsgHeartbeatResponse,
        M::MsgTimeoutNow,
        M::MsgReadIndex,
        M::MsgReadIndexResp,
        M::MsgRequestPreVote,
        M::MsgRequestPreVoteResponse,
    ]
    .into_iter()
    .find(|known| *known as u32 == kind)
}

pub(crate) fn message_from_wire(message: v1::RaftMessage) -> Result<eraftpb::Message, BadMessage> {
    let bad = |problem: String| BadMessage(format!("raft message from {:x}: {problem}", message.from));
    let kind =
        peer_kind(message.r#type).ok_or_else(|| bad(format!("kind {} is not for peers", message.r#type)))?;
    if matches!(kind, eraftpb::MessageType::MsgReadIndex | eraftpb::MessageType::MsgReadIndexResp)
        && message.entries.len() != 1
    {
        return Err(bad("a read request carries exactly one context".into()));
    }
    let contiguous = message.entries.windows(2).all(|pair| pair[1].index == pair[0].index + 1);
    let follows = message.entries.first().is_none_or(|first| first.index == message.index + 1);
    if kind == eraftpb::MessageType::MsgAppend && !(contiguous && follows) {
        return Err(bad("its entries do not follow one another".into()));
    }
    if kind == eraftpb::MessageType::MsgSnapshot {
        let valid = message.snapshot.as_ref().is_some_and(|snapshot| {
            let voters = snapshot.conf_state.as_ref().map_or(0, |state| state.voters.len());
            snapshot.index > 0
                && voters > 0
                && v1::RaftSnapshotEnvelope::decode(snapshot.data.as_slice()).is_ok()
        });
        if !valid {
            return Err(bad("its snapshot is not one".into()));
        }
    }
    let mut out = eraftpb::Message::default();
    out.set_msg_type(kind);
    out.to = message.to;
    out.from = message.from;
    out.term = message.term;
    out.log_term = message.log_term;
    out.index = message.index;
    let entries: Result<Vec<_>, _> = message.entries.into_iter().map(entry_from_wire).collect();
    out.set_entries(entries?.into());
    out.commit = message.commit;
    out.commit_term = message.commit_term;
    if let Some(snapshot) = message.snapshot {
        out.set_snapshot(snapshot_from_wire(snapshot));
    }
    out.request_snapshot = message.request_snapshot;
    out.reject = message.reject;
    out.reject_hint = message.reject_hint;
    out.context = message.context.into();
    out.priority = message.priority as i64;
    out.deprecated_priority = message.deprecated_priority as u64;
    Ok(out)
}

/// Reads the data of a membership entry. Empty data is a change too: it leaves a joint configuration.
pub(crate) fn conf_change_from_data(
    data: &[u8],
) -> Result<(eraftpb::ConfChangeV2, Option<v1::RaftPeer>), BadMessage> {
    let bad = |problem: String| BadMessage(format!("membership entry: {problem}"));
    let change = v1::RaftConfChange::decode(data).map_err(|error| bad(error.to_string()))?;
    let mut out = eraftpb::ConfChangeV2::default();
    out.set_transition(match change.transition {
        0 => eraftpb::ConfChangeTransition::Auto,
        1 => eraftpb::ConfChangeTransition::Implicit,
        2 => eraftpb::ConfChangeTransition::Explicit,
        other => return Err(bad(format!("unknown transition {other}"))),
    });
    for single in change.changes {
        let mut one = eraftpb::ConfChangeSingle::default();
        one.node_id = single.node_id;
        one.set_change_type(match single.r#type {
            0 => eraftpb::ConfChangeType::AddNode,
            1 => eraftpb::ConfChangeType::RemoveNode,
            2 => eraftpb::ConfChangeType::AddLearnerNode,
            other => return Err(bad(format!("unknown change {other}"))),
        });
        out.mut_changes().push(one);
    }
    let context =
        v1::MembershipContext::decode(change.context.as_slice()).map_err(|error| bad(error.to_string()))?;
    Ok((out, context.peer))
}
