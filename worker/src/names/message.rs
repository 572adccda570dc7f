//! Questions for names and answers to them, as the DNS writes them. Pure.

use std::net::Ipv4Addr;

use simple_dns::rdata::{A, OPT, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};

/// The longest answer to a question that does not say how long it may be.
const SHORT: usize = 512;
/// The longest answer in a datagram: no packet of it is cut anywhere.
const LONG: usize = 1232;
/// The longest answer over a stream.
const STREAM: usize = 65_535;
/// Bytes of a record with an address, whose name points to the question.
const RECORD: usize = 16;

/// A question that can be answered.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    packet: Packet<'a>,
    /// The name, as it was asked for.
    pub(super) name: String,
    /// Whether it asks for IPv4 addresses, and not for something else of the name.
    pub(super) wants_address: bool,
    /// The longest answer.
    room: usize,
}

/// How a question is answered without knowing anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// These are the addresses; none when the name has none of that kind.
    Addresses(&'a [Ipv4Addr]),
    /// There is no such name.
    NoSuchName,
    /// Nobody could be asked.
    Failed,
}

impl<'a> Question<'a> {
    /// Reads a question; `None` when it is none, or one of a kind that nobody asks.
    pub(super) fn read(bytes: &'a [u8], stream: bool) -> Option<Self> {
        let packet = Packet::parse(bytes).ok()?;
        let fits = packet.opcode() == OPCODE::StandardQuery
            && !packet.has_flags(PacketFlag::RESPONSE)
            && packet.questions.len() == 1;
        let question = packet.questions.first().filter(|_| fits)?;
        let wants_address = matches!(question.qclass, QCLASS::CLASS(CLASS::IN))
            && matches!(question.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY);
        let name = question.qname.to_string();
        let room = match packet.opt() {
            _ if stream => STREAM,
            Some(opt) => usize::from(opt.udp_packet_size).clamp(SHORT, LONG),
            None => SHORT,
        };
        Some(Self { packet, name, wants_address, room })
    }

    /// How many addresses fit into the answer.
    pub(super) fn most_addresses(&self) -> usize {
        // The header, the question and what says how long answers may be.
        let rest = 12 + self.name.len() + 6 + 11;
        self.room.saturating_sub(rest) / RECORD
    }

    /// The answer's bytes. What does not fit is left out, and the answer says so.
    pub(super) fn answer(self, answer: Answer<'_>) -> Option<Vec<u8>> {
        let most = self.most_addresses();
        let wishes = self.packet.has_flags(PacketFlag::RECURSION_DESIRED);
        let extended = self.packet.opt().is_some();
        let mut reply = self.packet.into_reply();
        reply.additional_records.clear();
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if wishes {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        if extended {
            let udp_packet_size = u16::try_from(LONG).expect("it is less than 65,536");
            *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size, version: 0 });
        }
        match answer {
            Answer::NoSuchName => *reply.rcode_mut() = RCODE::NameError,
            Answer::Failed => *reply.rcode_mut() = RCODE::ServerFailure,
            Answer::Addresses(addresses) => {
                if addresses.len() > most {
                    reply.set_flags(PacketFlag::TRUNCATION);
                }
                let name = reply.questions.first()?.qname.clone();
                // An instance may move at any time, so nobody may remember where it was.
                let record = |address: &Ipv4Addr| {
                    let data = RData::A(A::from(*address));
                    ResourceRecord::new(name.clone(), CLASS::IN, 0, data)
                };
                reply.answers = addresses.iter().take(most).map(record).collect();
            }
        }
        reply.build_bytes_vec_compressed().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::{Name, Question as Asked};

    use super::*;

    fn asks(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).expect("a name");
        packet.questions.push(Asked::new(name, kind.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().expect("short")
    }

    fn addresses(count: u32) -> Vec<Ipv4Addr> {
        (0..count).map(|number| Ipv4Addr::from_bits(0x1000_0002 + number)).collect()
    }

    #[test]
    fn a_question_is_answered_with_all_addresses_that_fit() {
        let bytes = asks("servers.gs", TYPE::A);
        for (count, stream, answered, cut) in
            [(2, false, 2, false), (4000, false, 29, true), (4000, true, 4000, false)]
        {
            let question = Question::read(&bytes, stream).expect("a question");
            assert_eq!((question.name.as_str(), question.wants_address), ("servers.gs", true));
            let all = addresses(count);
            let bytes = question.answer(Answer::Addresses(&all)).expect("an answer");
            assert!(stream || bytes.len() <= SHORT, "{}", bytes.len());
            let reply = Packet::parse(&bytes).expect("readable");
            assert_eq!((reply.id(), reply.answers.len()), (7, answered));
            assert_eq!(reply.has_flags(PacketFlag::TRUNCATION), cut);
            assert!(reply.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
        }
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_not_known() {
        let bytes = asks("nobody", TYPE::AAAA);
        for (answer, code) in [
            (Answer::NoSuchName, RCODE::NameError),
            (Answer::Failed, RCODE::ServerFailure),
            (Answer::Addresses(&[]), RCODE::NoError),
        ] {
            let question = Question::read(&bytes, false).expect("a question");
            assert!(!question.wants_address);
            let bytes = question.answer(answer).expect("an answer");
            assert_eq!(Packet::parse(&bytes).expect("readable").rcode(), code);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_be_asked(bytes in prop::collection::vec(any::<u8>(), 0..200), stream: bool) {
            if let Some(question) = Question::read(&bytes, stream) {
                let _ = question.answer(Answer::Addresses(&addresses(100)));
            }
        }
    }
}
