//! Rules that lead to our table.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{CREATE, Kernel};
use crate::{
    owner,
    rtnl::{Error, Operation, Rule, Rules, Table},
};

impl Rules for Kernel {
    async fn rules(&self) -> Result<Vec<Rule>, Error> {
        let mut rules = Vec::new();
        // Of both families at once, the kernel would list those of others as well: of multicast.
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            match self.list(RouteNetlinkMessage::GetRule(message), "rules", rule_of).await {
                Ok(found) => rules.extend(found),
                // A kernel that does not know the family, or no rules at all, holds none.
                Err(error) if error.is_unknown_family() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rules)
    }

    async fn add_rule(&self, rule: &Rule) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewRule(message_of(rule));
        self.change(request, CREATE, Operation::Add, &format!("rule {rule}")).await
    }

    async fn delete_rule(&self, rule: &Rule) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelRule(message_of(rule));
        self.change(request, 0, Operation::Delete, &format!("rule {rule}")).await
    }
}

fn message_of(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let is_ipv4 = rule.source.is_ipv4();
    message.header.family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.src_len = rule.source.prefix();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(rule.source.ip()),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(Table::Own.number()),
        RuleAttribute::Protocol(RouteProtocol::from(owner::ROUTE_PROTOCOL)),
    ];
    message
}

pub(super) fn rule_of(message: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(RuleMessage { header, attributes, .. }) = message else { return None };
    let (mut source, mut table, mut protocol, mut priority) = (None::<IpAddr>, None, None, 0);
    for attribute in attributes {
        match attribute {
            RuleAttribute::Source(ip) => source = Some(ip),
            RuleAttribute::Table(number) => table = Table::of(number),
            RuleAttribute::Protocol(number) => protocol = Some(u8::from(number)),
            RuleAttribute::Priority(number) => priority = number,
            _ => {}
        }
    }
    let is_ours = protocol == Some(owner::ROUTE_PROTOCOL) && table == Some(Table::Own);
    let source = IpNetwork::new(source?, header.src_len).ok()?;
    is_ours.then_some(Rule { source, priority })
}
