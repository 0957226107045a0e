//! Queues that limit what links send, and the way into them for what links receive.
//!
//! A link can make wait only what it sends. What it receives is limited by having another link send it: an `ifb`, which is
//! there for its queue alone, and after which a packet goes on as if nothing had been.
//!
//! ```text
//! sends      ──→ token bucket at the root ──→ wire
//! receives   ──→ clsact, filter of ours ──→ ifb ──→ token bucket at its root ──→ as received
//! ```

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_ECHO, Nla, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    tc::{
        TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
        TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
        TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
    },
};
use nix::errno::Errno;

use super::{CREATE, Kernel, REPLACE, links::set_up_or_down};
use crate::{
    owner,
    rtnl::{Error, Mac, Operation, TokenBucket},
};

const BUCKET: &str = "tbf";
const RECEIVED: &str = "clsact";

/// Our bucket at a link's root.
const OURS: TcHandle = TcHandle { major: owner::QDISC_HANDLE, minor: 0 };

/// Where filters for what a link receives are. // `TC_H_MIN_INGRESS` of `include/uapi/linux/pkt_sched.h`
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };

/// Attributes of a bucket. // `TCA_TBF_…` of `include/uapi/linux/pkt_sched.h`
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;

impl Kernel {
    /// Makes a link that is there only to have a queue, set up.
    pub async fn add_ifb(&self, name: &str, mac: Mac, mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        set_up_or_down(&mut message, true);
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
        ];
        let object = format!("ifb link {name}");
        self.change(RouteNetlinkMessage::NewLink(message), CREATE, Operation::Add, &object).await
    }

    /// Limits what a link sends, in place of whatever limit it had.
    pub async fn set_bucket(&self, link: u32, bucket: &TokenBucket) -> Result<(), Error> {
        let message = queue(link, OURS, TcHandle::ROOT, BUCKET, options_of(bucket));
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.change(request, REPLACE, Operation::Add, &format!("queue {BUCKET} of link {link}")).await
    }

    /// Finds the limit that we set on what a link sends.
    pub async fn bucket(&self, link: u32) -> Result<Option<TokenBucket>, Error> {
        let mut message = TcMessage::with_index(index_of(link));
        message.header.parent = TcHandle::ROOT;
        let request = RouteNetlinkMessage::GetQueueDiscipline(message);
        // Older kernels answer those who listen to all changes, and who asks only if it wants an echo. // sch_api.c tc_get_qdisc
        let object = format!("queue of link {link}");
        let found = self.ask(request, NLM_F_ACK | NLM_F_ECHO, Operation::Find, &object, bucket_of).await;
        match found {
            Ok(found) => Ok(found.into_iter().next()),
            // A link that has never been up has a queue of which the kernel does not speak.
            Err(error) if error.is_not_found() || error.errno() == Some(Errno::EINVAL as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes away the limit that we set on what a link sends.
    pub async fn delete_bucket(&self, link: u32) -> Result<(), Error> {
        let message = queue(link, OURS, TcHandle::ROOT, BUCKET, Vec::new());
        let request = RouteNetlinkMessage::DelQueueDiscipline(message);
        self.change(request, 0, Operation::Delete, &format!("queue {BUCKET} of link {link}")).await
    }

    /// Has another link send what a link receives.
    pub async fn redirect(&self, link: u32, to: u32) -> Result<(), Error> {
        let object = format!("queue {RECEIVED} of link {link}");
        let received = queue(link, TcHandle { minor: 0, ..INGRESS }, TcHandle::CLSACT, RECEIVED, Vec::new());
        let request = RouteNetlinkMessage::NewQueueDiscipline(received);
        match self.change(request, CREATE, Operation::Add, &object).await {
            Err(error) if !error.is_exists() => return Err(error),
            _ => {} // another's is as good
        }
        let mut filter = filter_of_ours(link);
        filter.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
            TcAttribute::Options(everything_goes_to(to).into_iter().map(TcOption::U32).collect()),
        ];
        let request = RouteNetlinkMessage::NewTrafficFilter(filter);
        self.change(request, CREATE, Operation::Add, &format!("filter from link {link} to {to}")).await
    }

    /// Finds the link that sends what a link receives, where we made it so.
    pub async fn redirected(&self, link: u32) -> Result<Option<u32>, Error> {
        let request = RouteNetlinkMessage::GetTrafficFilter(filter_of_ours(link));
        let found = self.list(request, &format!("filters of link {link}"), target_of).await?;
        Ok(found.into_iter().next())
    }

    /// Takes away our filter, after which a link receives what it receives.
    pub async fn delete_redirection(&self, link: u32) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelTrafficFilter(filter_of_ours(link));
        self.change(request, 0, Operation::Delete, &format!("filter of link {link}")).await
    }
}

fn index_of(link: u32) -> i32 {
    i32::try_from(link).unwrap_or_default() // the kernel's are no larger
}

fn queue(link: u32, handle: TcHandle, parent: TcHandle, kind: &str, options: Vec<TcOption>) -> TcMessage {
    let mut message = TcMessage::with_index(index_of(link));
    (message.header.handle, message.header.parent) = (handle, parent);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Options(options));
    }
    message
}

/// A message about filters of our preference for all protocols.
fn filter_of_ours(link: u32) -> TcMessage {
    const EVERY_PROTOCOL: u16 = 0x0003; // ETH_P_ALL
    let mut message = TcMessage::with_index(index_of(link));
    message.header.parent = INGRESS;
    message.header.info = TcHandle { major: owner::FILTER_PREFERENCE, minor: EVERY_PROTOCOL.to_be() }.into();
    message
}

// match u32 0 0 action mirred egress redirect dev …
fn everything_goes_to(link: u32) -> [TcFilterU32Option; 2] {
    let mut selector = TcU32Selector::default();
    (selector.flags, selector.nkeys) = (TcU32SelectorFlags::Terminal, 1);
    selector.keys = vec![TcU32Key::default()];
    let mut target = TcMirror::default();
    target.generic = TcActionGeneric::default();
    target.generic.action = TcActionType::Stolen;
    (target.eaction, target.ifindex) = (TcMirrorActionType::EgressRedir, link);
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(target))]),
    ];
    [TcFilterU32Option::Selector(selector), TcFilterU32Option::Action(vec![action])]
}

fn target_of(message: RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else { return None };
    let options = message.attributes.into_iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let parameters =
        actions.flatten().flat_map(|action| action.attributes).filter_map(|attribute| match attribute {
            TcActionAttribute::Options(options) => Some(options),
            _ => None,
        });
    parameters.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(target))
            if target.eaction == TcMirrorActionType::EgressRedir =>
        {
            Some(target.ifindex)
        }
        _ => None,
    })
}

/// A bucket in the kernel's words.
///
/// ```text
/// struct tc_tbf_qopt   rate: cell_log 1 · linklayer 1 · overhead 2 · cell_align 2 · mpu 2 · rate 4
///                      peakrate: the same, 12 bytes
///                      limit 4 · buffer 4 · mtu 4
/// ```
fn options_of(bucket: &TokenBucket) -> Vec<TcOption> {
    const ETHERNET: u8 = 1; // TC_LINKLAYER_ETHERNET: sizes are taken as they are
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    parameters.extend(rate.to_ne_bytes());
    parameters.extend([0; 12]);
    parameters.extend(bucket.backlog.to_ne_bytes());
    parameters.extend([0; 8]); // the burst comes on its own, in bytes
    let mut options = vec![
        DefaultNla::new(PARAMETERS, parameters),
        DefaultNla::new(BURST, bucket.burst.to_ne_bytes().to_vec()),
    ];
    if rate == u32::MAX {
        options.push(DefaultNla::new(RATE64, bucket.rate.to_ne_bytes().to_vec()));
    }
    options.into_iter().map(TcOption::Other).collect()
}

fn bucket_of(message: RouteNetlinkMessage) -> Option<TokenBucket> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { return None };
    let is_ours =
        message.header.handle == OURS && message.attributes.contains(&TcAttribute::Kind(BUCKET.to_owned()));
    message.attributes.into_iter().filter(|_| is_ours).find_map(|attribute| match attribute {
        // The packet crate keeps the options of kinds that it does not know as one attribute.
        TcAttribute::Options(options) => options.iter().find_map(|option| {
            let mut nested = vec![0; option.value_len()];
            option.emit_value(&mut nested);
            read(&nested)
        }),
        _ => None,
    })
}

fn read(options: &[u8]) -> Option<TokenBucket> {
    let (mut parameters, mut rate64) = (None, None);
    for option in NlasIterator::new(options).flatten() {
        match option.kind() {
            PARAMETERS => parameters = Some(option.value().to_vec()),
            RATE64 => rate64 = option.value().try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    let parameters = parameters?;
    let word = |place: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(parameters.get(place..place + 4)?.try_into().ok()?))
    };
    let rate = rate64.unwrap_or(u64::from(word(8)?));
    Some(TokenBucket { rate, burst: TokenBucket::burst_of(rate, word(28)?), backlog: word(24)? })
}
