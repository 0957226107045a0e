//! A rule as kernel expressions. Each statement uses registers from r0 on and leaves nothing in them for the next:
//! what must survive travels in the packet's priority.

use super::{
    super::{
        message::Writer,
        table::{Affinity, Rule, Source, Statement},
    },
    map::{put_value, put_verdict},
};
use crate::packet::Family;

mod condition;

/// A 4-byte register; `NFT_REG32_00` is 8.
#[derive(Debug, Clone, Copy)]
struct Register(u32);

impl Register {
    fn number(self) -> u32 {
        8 + self.0
    }
}

const R0: Register = Register(0);

/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// Keys of `meta`.
const PRIORITY: u32 = 2;
const MARK: u32 = 3;
const L4PROTO: u32 = 16;

/// Operations of `dynset`.
const ADD: u32 = 0;
const UPDATE: u32 = 1;
const DELETE: u32 = 2;

/// Kinds of `numgen`.
const INCREMENTAL: u32 = 0;
const RANDOM: u32 = 1;

/// Operators of `cmp`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Writes `NFTA_RULE_EXPRESSIONS`.
pub(super) fn put_expressions(w: &mut Writer, family: Family, rule: &Rule) {
    let list = w.open(4);
    let mut expressions = Expressions { w, family };
    for statement in &rule.0 {
        expressions.statement(statement);
    }
    w.close(list);
}

/// Where the key and the data of a client's entry lie.
#[derive(Debug, Clone, Copy)]
struct Client {
    key: Register,
    endpoint: Register,
}

struct Expressions<'a> {
    w: &'a mut Writer,
    family: Family,
}

impl Expressions<'_> {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Match(condition) => self.condition(condition),
            Statement::SetPriority(source) => {
                self.source(source, R0.number());
                self.set_meta(PRIORITY, R0);
            }
            Statement::AddMark(bits) => self.change_mark(!bits, *bits),
            Statement::ClearMark(bits) => self.change_mark(!bits, 0),
            Statement::VerdictMap(source) => self.source(source, VERDICT),
            Statement::DnatByPriority(map) => self.dnat(map),
            Statement::Dnat(source) => {
                self.source(source, R0.number());
                self.nat(R0);
            }
            Statement::Masquerade => {
                const RANDOM_FULLY: u32 = 1 << 4;
                self.expression("masq", |w| w.put_u32(1, RANDOM_FULLY));
            }
            Statement::Redirect => self.expression("redir", |_| {}),
            Statement::RejectWithReset => {
                const TCP_RESET: u32 = 1;
                self.expression("reject", |w| {
                    w.put_u32(1, TCP_RESET);
                    w.put(2, &[0]);
                });
            }
            Statement::Reject => {
                const ICMP_UNREACHABLE: u32 = 0;
                let port_unreachable = if self.family == Family::Ip { 3 } else { 4 };
                self.expression("reject", |w| {
                    w.put_u32(1, ICMP_UNREACHABLE);
                    w.put(2, &[port_unreachable]);
                });
            }
            Statement::Counter => self.expression("counter", |w| {
                w.put(1, &0_u64.to_be_bytes());
                w.put(2, &0_u64.to_be_bytes());
            }),
            Statement::Remember(affinity) => {
                let registers = self.load_client(affinity);
                // To update never changes the data of an element that is there: remove it first.
                self.dynset(affinity, registers, DELETE);
                self.dynset(affinity, registers, ADD);
            }
            Statement::DnatAsRemembered { slots, affinity } => {
                let registers = self.load_client(affinity);
                let endpoint = registers.endpoint;
                let found = Register(endpoint.0 + 1);
                self.lookup(slots, endpoint, Some(found.number()));
                self.dynset(affinity, registers, UPDATE);
                self.reset_priority(endpoint);
                self.nat(found);
            }
            Statement::Verdict(verdict) => self.expression("immediate", |w| {
                w.put_u32(1, VERDICT);
                let nest = w.open(2);
                put_verdict(w, verdict);
                w.close(nest);
            }),
        }
    }

    /// Loads a key into r0 and what follows, and puts what is found under it into register number `found`.
    fn source(&mut self, source: &Source, found: u32) {
        let found = Some(found);
        match source {
            Source::ByService(map) => {
                let protocol = self.load_destination(R0);
                self.load_port(protocol);
                self.lookup(map, R0, found);
            }
            Source::ByPort(map) => {
                self.load_port(R0);
                self.lookup(map, R0, found);
            }
            Source::ByPriority { mask, map } => {
                self.load_priority(R0, *mask);
                self.lookup(map, R0, found);
            }
            Source::ByClient { mask, map } => {
                let number = self.load_source(R0);
                self.load_priority(number, *mask);
                self.lookup(map, R0, found);
            }
            Source::Rotation { modulus, offset } => self.number(INCREMENTAL, *modulus, *offset),
            Source::Random { modulus, offset } => self.number(RANDOM, *modulus, *offset),
            Source::ByHash { modulus, seed, offset } => {
                const JENKINS: u32 = 0;
                let Register(registers) = self.load_source(R0);
                self.expression("hash", |w| {
                    w.put_u32(1, R0.number());
                    w.put_u32(2, R0.number());
                    w.put_u32(3, registers * 4);
                    w.put_u32(4, *modulus);
                    w.put_u32(5, *seed);
                    w.put_u32(6, *offset);
                    w.put_u32(7, JENKINS);
                });
            }
        }
    }

    fn number(&mut self, kind: u32, modulus: u32, offset: u32) {
        self.expression("numgen", |w| {
            w.put_u32(1, R0.number());
            w.put_u32(2, modulus);
            w.put_u32(3, kind);
            w.put_u32(4, offset);
        });
    }

    /// Loads the priority before resetting it, and looks up what it was: the order matters.
    fn dnat(&mut self, map: &str) {
        let zero = Register(if self.family == Family::Ip { 1 } else { 5 });
        self.load_meta(PRIORITY, R0);
        self.reset_priority(zero);
        self.lookup(map, R0, Some(R0.number()));
        self.nat(R0);
    }

    fn reset_priority(&mut self, scratch: Register) {
        self.expression("immediate", |w| {
            w.put_u32(1, scratch.number());
            put_value(w, 2, &[0; 4]);
        });
        self.set_meta(PRIORITY, scratch);
    }

    /// Rewrites the destination to the address in the register and the port after it.
    fn nat(&mut self, address: Register) {
        const DNAT: u32 = 1;
        let port = Register(address.0 + if self.family == Family::Ip { 1 } else { 4 });
        let family = u32::from(super::family_number(self.family));
        self.expression("nat", |w| {
            w.put_u32(1, DNAT);
            w.put_u32(2, family);
            w.put_u32(3, address.number());
            w.put_u32(5, port.number());
        });
    }

    /// Loads the key and data of a client's entry.
    fn load_client(&mut self, affinity: &Affinity) -> Client {
        let service = self.load_source(R0);
        let endpoint = Register(service.0 + 1);
        self.load_priority(service, affinity.mask);
        self.load_meta(PRIORITY, endpoint);
        Client { key: R0, endpoint }
    }

    fn dynset(&mut self, affinity: &Affinity, client: Client, operation: u32) {
        self.expression("dynset", |w| {
            w.put_name(1, &affinity.map);
            w.put_u32(3, operation);
            w.put_u32(4, client.key.number());
            w.put_u32(5, client.endpoint.number());
            if operation != DELETE {
                w.put(6, &(u64::from(affinity.seconds) * 1000).to_be_bytes());
            }
        });
    }

    fn change_mark(&mut self, keep: u32, set: u32) {
        self.load_meta(MARK, R0);
        self.bitwise(&keep.to_ne_bytes(), &set.to_ne_bytes());
        self.set_meta(MARK, R0);
    }

    /// Loads `ip saddr`; returns the register after it.
    fn load_source(&mut self, to: Register) -> Register {
        let (offset, length) = if self.family == Family::Ip { (12, 4) } else { (8, 16) };
        self.payload(to, 1, offset, length)
    }

    /// Loads `ip daddr`; returns the register after it.
    fn load_destination(&mut self, to: Register) -> Register {
        let (offset, length) = if self.family == Family::Ip { (16, 4) } else { (24, 16) };
        self.payload(to, 1, offset, length)
    }

    /// Loads `meta l4proto . th dport`.
    fn load_port(&mut self, to: Register) {
        self.load_meta(L4PROTO, to);
        self.payload(Register(to.0 + 1), 2, 2, 2);
    }

    fn load_priority(&mut self, to: Register, mask: u32) {
        self.load_meta(PRIORITY, to);
        if mask != u32::MAX {
            self.bitwise_in(to, &mask.to_ne_bytes(), &[0; 4]);
        }
    }

    /// Loads bytes of the network (1) or transport (2) header.
    fn payload(&mut self, to: Register, base: u32, offset: u32, length: u32) -> Register {
        self.expression("payload", |w| {
            w.put_u32(1, to.number());
            w.put_u32(2, base);
            w.put_u32(3, offset);
            w.put_u32(4, length);
        });
        Register(to.0 + length.div_ceil(4))
    }

    fn load_meta(&mut self, key: u32, to: Register) {
        self.expression("meta", |w| {
            w.put_u32(1, to.number());
            w.put_u32(2, key);
        });
    }

    fn set_meta(&mut self, key: u32, from: Register) {
        self.expression("meta", |w| {
            w.put_u32(2, key);
            w.put_u32(3, from.number());
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |w| {
            w.put_u32(1, R0.number());
            w.put_u32(2, operator);
            put_value(w, 3, value);
        });
    }

    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        self.bitwise_in(R0, mask, xor);
    }

    fn bitwise_in(&mut self, register: Register, mask: &[u8], xor: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(4);
        self.expression("bitwise", |w| {
            w.put_u32(1, register.number());
            w.put_u32(2, register.number());
            w.put_u32(3, length);
            put_value(w, 4, mask);
            put_value(w, 5, xor);
        });
    }

    /// Looks a key up: into a register, or, where none is given, only to see whether it is there.
    fn lookup(&mut self, map: &str, key: Register, to: Option<u32>) {
        self.expression("lookup", |w| {
            w.put_name(1, map);
            w.put_u32(2, key.number());
            if let Some(to) = to {
                w.put_u32(3, to);
            }
        });
    }

    /// Writes one expression: its name and, inside, what it is made of.
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer)) {
        let element = self.w.open(1);
        self.w.put_name(1, name);
        let data = self.w.open(2);
        fill(self.w);
        self.w.close(data);
        self.w.close(element);
    }
}
