//! An assembler for the one shape of classic BPF program that a seccomp filter needs: by
//! architecture, a binary search over system call numbers, then conditions on arguments.

use std::collections::BTreeMap;

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `arg != value`
    Ne,
    /// `arg < value`
    Lt,
    /// `arg <= value`
    Le,
    /// `arg == value`
    Eq,
    /// `arg >= value`
    Ge,
    /// `arg > value`
    Gt,
    /// `arg & value == operand`
    MaskedEq(u64),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, 0-5.
    pub index: u8,
    /// How.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// An action that applies when all its conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// All must hold; none = always.
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_*` with its data.
    pub action: u32,
}

/// The rules for one architecture (`AUDIT_ARCH_*`).
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Clauses by system call number, tried in order.
    pub calls: BTreeMap<u32, Vec<Clause>>,
    /// For numbers without a clause that applies.
    pub otherwise: u32,
    /// For numbers above `last`: calls newer than the rules know.
    pub newer: u32,
    /// Inclusive ranges of numbers that are known; outside them `newer` applies.
    pub known: Vec<(u32, u32)>,
}

const LD_ABS: u16 = 0x20;
const JMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

/// One instruction, as the kernel takes it.
pub type Instruction = libc::sock_filter;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Assembles a filter; other architectures get `foreign`.
pub fn assemble(architectures: &[(u32, Rules)], foreign: u32) -> Vec<Instruction> {
    let mut program = vec![instruction(LD_ABS, 0, 0, 4)];
    for (audit, rules) in architectures {
        let body = rules.assemble();
        program.push(instruction(JEQ, 1, 0, *audit));
        program.push(instruction(JMP, 0, 0, body.len() as u32));
        program.extend(body);
    }
    program.push(instruction(RET, 0, 0, foreign));
    program
}

impl Rules {
    fn assemble(&self) -> Vec<Instruction> {
        let mut program = vec![instruction(LD_ABS, 0, 0, 0)];
        self.search(&self.ranges(), &mut program);
        program
    }

    /// Starts of ranges of numbers with equal clauses, from 0 up.
    fn ranges(&self) -> Vec<(u32, Vec<Clause>)> {
        let mut ranges: Vec<(u32, Vec<Clause>)> = Vec::new();
        let mut push = |start: u32, clauses: Vec<Clause>| {
            if ranges.last().is_none_or(|(_, last)| *last != clauses) {
                ranges.push((start, clauses));
            }
        };
        let always = |action| vec![Clause { conditions: Vec::new(), action }];
        let mut next = 0u32;
        for (first, last) in &self.known {
            if *first > next {
                push(next, always(self.newer));
            }
            let mut at = *first;
            for (number, clauses) in self.calls.range(first..=last) {
                if *number > at {
                    push(at, always(self.otherwise));
                }
                let mut clauses = clauses.clone();
                if clauses.last().is_none_or(|c| !c.conditions.is_empty()) {
                    clauses.extend(always(self.otherwise));
                }
                push(*number, clauses);
                at = number + 1;
            }
            if at <= *last {
                push(at, always(self.otherwise));
            }
            next = last + 1;
        }
        push(next, always(self.newer));
        ranges
    }

    fn search(&self, ranges: &[(u32, Vec<Clause>)], program: &mut Vec<Instruction>) {
        match ranges {
            [] => program.push(instruction(RET, 0, 0, self.otherwise)),
            [(_, clauses)] => clauses.iter().for_each(|c| c.assemble(program)),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let mut left = Vec::new();
                self.search(low, &mut left);
                program.push(instruction(JGE, 0, 1, high[0].0));
                program.push(instruction(JMP, 0, 0, left.len() as u32));
                program.extend(left);
                self.search(high, program);
            }
        }
    }
}

impl Clause {
    fn assemble(&self, program: &mut Vec<Instruction>) {
        let mut body = Vec::new();
        // From the last condition to the first, so that each knows how far it is to the end.
        let mut tail = vec![instruction(RET, 0, 0, self.action)];
        for condition in self.conditions.iter().rev() {
            let mut code = condition.assemble(tail.len() as u8);
            code.append(&mut tail);
            tail = code;
        }
        body.append(&mut tail);
        program.append(&mut body);
    }
}

impl Condition {
    /// Falls through when it holds, else skips `skip` instructions after itself.
    fn assemble(&self, skip: u8) -> Vec<Instruction> {
        let low = 16 + 8 * u32::from(self.index);
        let high = low + 4;
        let (value_low, value_high) = (self.value as u32, (self.value >> 32) as u32);
        let load = |at| instruction(LD_ABS, 0, 0, at);
        match self.comparison {
            Comparison::Eq => vec![
                load(high),
                instruction(JEQ, 0, skip + 2, value_high),
                load(low),
                instruction(JEQ, 0, skip, value_low),
            ],
            Comparison::Ne => vec![
                load(high),
                instruction(JEQ, 0, 2, value_high),
                load(low),
                instruction(JEQ, skip, 0, value_low),
            ],
            Comparison::MaskedEq(operand) => vec![
                load(high),
                instruction(AND, 0, 0, value_high),
                instruction(JEQ, 0, skip + 3, (operand >> 32) as u32),
                load(low),
                instruction(AND, 0, 0, value_low),
                instruction(JEQ, 0, skip, operand as u32),
            ],
            Comparison::Gt | Comparison::Ge => vec![
                load(high),
                instruction(JGT, 3, 0, value_high),
                instruction(JEQ, 0, skip + 2, value_high),
                load(low),
                instruction(if self.comparison == Comparison::Gt { JGT } else { JGE }, 0, skip, value_low),
            ],
            Comparison::Lt | Comparison::Le => vec![
                load(high),
                instruction(JGT, skip + 3, 0, value_high),
                instruction(JEQ, 0, 2, value_high),
                load(low),
                instruction(if self.comparison == Comparison::Lt { JGE } else { JGT }, skip, 0, value_low),
            ],
        }
    }
}
