//! The statements of MQTT 5 that concern such a server, by their numbers, and streams that no client sends.

use super::*;
use crate::mqtt::codec;
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{Connect, ConnectProperties, LastWill, Login, PingReq, PubAck, RetainForwardRule};

const DOWN: &str = "im/v1/a/u/d/down";
const UP: &str = "im/v1/a/u/d/up";
const STATE: &str = "im/v1/a/u/d/state";

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn own() -> Own {
    Own { down: DOWN.into(), up: UP.into(), state: STATE.into() }
}

fn connect(keep_alive: u16, properties: Option<ConnectProperties>) -> Packet {
    let connect = Connect { keep_alive, client_id: "u:d@a".into(), clean_start: true, properties };
    let will = LastWill::new(STATE, "gone", QoS::AtLeastOnce, true, None);
    Packet::Connect(connect, Some(will), Some(Login::new("a/u", "token")))
}

/// A connection that has entered with a keep alive of 60 s.
fn entered() -> Server {
    with(None)
}

fn with(properties: Option<ConnectProperties>) -> Server {
    let mut server = Server::new(Duration::ZERO);
    assert_eq!(server.on_event(at(0), Event::Packet(connect(60, properties))), [Action::Ask]);
    let ask = server.ask().expect("what it shows");
    assert_eq!((ask.client_id.as_str(), ask.user.as_deref(), ask.password.expose()), ("u:d@a", Some("a/u"), "token"));
    assert_eq!(ask.will_topic.as_deref(), Some(STATE));
    assert!(!server.reads(), "nothing more of it before it is known");
    server.on_event(at(0), Event::Entered(Ok(own())));
    server
}

fn subscribed(qos: QoS) -> Server {
    let mut server = entered();
    subscribe(&mut server, DOWN, qos);
    server
}

fn subscribe(server: &mut Server, filter: &str, qos: QoS) -> Vec<Action> {
    let mut subscribe = Subscribe::new(Filter::new(filter, qos), None);
    subscribe.pkid = 7;
    server.on_event(at(1), Event::Packet(Packet::Subscribe(subscribe)))
}

fn publish(topic: &str, qos: QoS, pkid: u16) -> Packet {
    Packet::Publish(Publish { pkid, ..Publish::new(topic, qos, "word", None) })
}

fn disconnect(code: DisconnectReasonCode) -> Packet {
    Packet::Disconnect(Disconnect { reason_code: code, properties: None })
}

fn closes(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::Close { will, .. } => Some(will.is_some()),
        _ => None,
    })
}

/// The code of the DISCONNECT among them.
fn parting(actions: &[Action]) -> Option<DisconnectReasonCode> {
    actions.iter().find_map(|action| match action {
        Action::Write(Packet::Disconnect(Disconnect { reason_code, .. })) => Some(*reason_code),
        _ => None,
    })
}

#[test]
fn connack_says_what_there_is_and_what_there_is_not() {
    let mut server = Server::new(Duration::ZERO);
    server.on_event(at(0), Event::Packet(connect(0, None)));
    let actions = server.on_event(at(0), Event::Entered(Ok(own())));
    let [Action::Write(Packet::ConnAck(ack))] = actions.as_slice() else { panic!("{actions:?}") };
    let says = ack.properties.as_ref().expect("properties");
    assert!(!ack.session_present && ack.code == ConnectReturnCode::Success);
    assert_eq!((says.max_qos, says.receive_max, says.session_expiry_interval), (Some(1), Some(16), Some(0)));
    assert_eq!((says.wildcard_subscription_available, says.shared_subscription_available), (Some(0), Some(0)));
    assert_eq!((says.subscription_identifiers_available, says.topic_alias_max), (Some(0), Some(0)));
    assert_eq!(says.server_keep_alive, Some(KEEP_ALIVE_S), "a client that names none is told one");
}

#[test]
fn whoever_is_refused_hears_why_and_the_socket_closes_without_a_will() {
    let mut server = Server::new(Duration::ZERO);
    server.on_event(at(0), Event::Packet(connect(60, None)));
    let refusal = Refusal { code: ConnectReturnCode::NotAuthorized, why: "another's token".into(), end: None };
    let actions = server.on_event(at(0), Event::Entered(Err(refusal)));
    let [Action::Write(Packet::ConnAck(ack)), Action::Close { will: None, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(ack.code, ConnectReturnCode::NotAuthorized);
    assert!(server.is_closed() && !server.reads() && server.deadline().is_none());
    assert!(server.on_event(at(1), Event::Packet(Packet::PingReq(PingReq))).is_empty(), "[MQTT-3.2.2-7]");
}

#[test]
fn a_client_without_an_id_is_told_which_one_it_needs() {
    let mut server = Server::new(Duration::ZERO);
    let connect = Connect { keep_alive: 1, client_id: String::new(), clean_start: true, properties: None };
    let actions = server.on_event(at(0), Event::Packet(Packet::Connect(connect, None, None)));
    let [Action::Write(Packet::ConnAck(ack)), Action::Close { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(ack.code, ConnectReturnCode::ClientIdentifierNotValid);
}

#[test]
fn the_first_packet_is_connect_and_there_is_no_second_one() {
    let mut server = Server::new(Duration::ZERO);
    let actions = server.on_event(at(0), Event::Packet(Packet::PingReq(PingReq)));
    assert_eq!(closes(&actions), Some(false), "[MQTT-3.1.0-1]");
    let actions = entered().on_event(at(1), Event::Packet(connect(60, None)));
    assert_eq!(
        (parting(&actions), closes(&actions)),
        (Some(DisconnectReasonCode::ProtocolError), Some(true)),
        "[MQTT-3.1.0-2]"
    );
}

#[test]
fn a_client_owes_its_connect_and_then_a_packet_within_one_and_a_half_keep_alives() {
    let mut silent = Server::new(Duration::ZERO);
    assert_eq!(silent.deadline(), Some(CONNECT_WITHIN));
    assert_eq!(closes(&silent.on_event(CONNECT_WITHIN, Event::Tick)), Some(false));
    let mut server = entered();
    assert_eq!(server.deadline(), Some(at(90)));
    server.on_event(at(80), Event::Packet(Packet::PingReq(PingReq)));
    assert!(server.on_event(at(169), Event::Tick).is_empty());
    let actions = server.on_event(at(170), Event::Tick);
    assert_eq!(
        (parting(&actions), closes(&actions)),
        (Some(DisconnectReasonCode::KeepAliveTimeout), Some(true)),
        "[MQTT-3.1.2-22]"
    );
}

#[test]
fn a_ping_is_answered_and_a_word_when_it_is_stored() {
    let mut server = entered();
    assert_eq!(
        server.on_event(at(1), Event::Packet(Packet::PingReq(PingReq))),
        [Action::Write(Packet::PingResp(PingResp))]
    );
    let heard = server.on_event(at(1), Event::Packet(publish(UP, QoS::AtLeastOnce, 9)));
    assert!(matches!(heard.as_slice(), [Action::Heard { topic: Topic::Up, packet_id: Some(9), .. }]), "{heard:?}");
    let stored = server.on_event(at(2), Event::Stored(Some(9)));
    assert_eq!(stored, [Action::Write(Packet::PubAck(PubAck::new(9, None)))], "[MQTT-4.3.2-4]");
    let heard = server.on_event(at(1), Event::Packet(publish(STATE, QoS::AtMostOnce, 0)));
    assert!(matches!(heard.as_slice(), [Action::Heard { topic: Topic::State, packet_id: None, .. }]), "{heard:?}");
    assert!(server.on_event(at(2), Event::Stored(None)).is_empty());
}

#[test]
fn with_sixteen_words_that_are_not_stored_nothing_more_is_read_and_no_silence_counts() {
    let mut server = entered();
    for id in 1..=RECEIVE_MAXIMUM {
        assert!(server.reads());
        server.on_event(at(1), Event::Packet(publish(UP, QoS::AtLeastOnce, id)));
    }
    assert!(!server.reads() && server.deadline().is_none());
    assert!(server.on_event(at(1000), Event::Tick).is_empty());
    server.on_event(at(1000), Event::Stored(Some(1)));
    assert!(server.reads() && server.deadline() == Some(at(1090)));
}

#[test]
fn who_said_too_much_is_not_read_for_a_while_and_a_state_is_a_presence_and_nothing_else() {
    let mut server = entered();
    assert!(server.on_event(at(1), Event::Paused(true)).is_empty() && !server.reads());
    assert!(server.on_event(at(500), Event::Tick).is_empty());
    server.on_event(at(500), Event::Paused(false));
    assert!(server.reads() && server.deadline() == Some(at(590)));
    let large = Publish { pkid: 3, ..Publish::new(STATE, QoS::AtLeastOnce, vec![b'x'; LONGEST_STATE + 1], None) };
    let actions = server.on_event(at(501), Event::Packet(Packet::Publish(large)));
    assert!(matches!(actions.as_slice(), [Action::Refused(_), Action::Write(Packet::PubAck(_))]), "{actions:?}");
}

#[test]
fn a_client_reaches_its_own_three_topics_and_no_other() {
    let mut server = entered();
    for topic in ["im/v1/a/other/d/up", DOWN, "$SYS/x", "im/v1/a/u/d/upp", "up"] {
        let actions = server.on_event(at(1), Event::Packet(publish(topic, QoS::AtLeastOnce, 3)));
        let [Action::Refused(_), Action::Write(Packet::PubAck(ack))] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        assert_eq!(ack.reason, PubAckReason::NotAuthorized, "{topic}");
    }
    for (filter, code) in [
        ("#", SubscribeReasonCode::WildcardSubscriptionsNotSupported),
        ("im/v1/a/u/d/+", SubscribeReasonCode::WildcardSubscriptionsNotSupported),
        ("$share/g/im/v1/a/u/d/down", SubscribeReasonCode::SharedSubscriptionsNotSupported),
        (UP, SubscribeReasonCode::NotAuthorized),
        ("im/v1/a/other/d/down", SubscribeReasonCode::NotAuthorized),
    ] {
        let actions = subscribe(&mut server, filter, QoS::AtLeastOnce);
        let Some(Action::Write(Packet::SubAck(ack))) = actions.last() else { panic!("{actions:?}") };
        assert_eq!((ack.pkid, ack.return_codes.as_slice()), (7, [code].as_slice()), "{filter}");
    }
    let mut probe = Server::new(Duration::ZERO);
    probe.on_event(at(0), Event::Packet(connect(60, None)));
    probe.on_event(at(0), Event::Entered(Ok(Own::default())));
    assert!(matches!(subscribe(&mut probe, "", QoS::AtMostOnce).as_slice(), [Action::Refused(_), ..]));
}

#[test]
fn messages_wait_for_the_subscription_and_for_the_clients_window() {
    let properties = ConnectProperties { receive_maximum: Some(2), ..ConnectProperties::new() };
    let mut server = with(Some(properties));
    for n in 0..3 {
        assert!(server.on_event(at(1), Event::Deliver(Bytes::from(format!("{n}")), None)).is_empty());
    }
    let sent = |actions: &[Action]| -> Vec<(u16, Bytes)> {
        let publish = |action: &Action| match action {
            Action::Write(Packet::Publish(publish)) => Some((publish.pkid, publish.payload.clone())),
            _ => None,
        };
        actions.iter().filter_map(publish).collect()
    };
    let actions = subscribe(&mut server, DOWN, QoS::ExactlyOnce);
    assert!(
        matches!(&actions[0], Action::Write(Packet::SubAck(ack)) if ack.return_codes == [SubscribeReasonCode::Success(QoS::AtLeastOnce)]),
        "[MQTT-3.8.4-1]"
    );
    assert_eq!(sent(&actions), [(1, "0".into()), (2, "1".into())]);
    let actions = server.on_event(at(2), Event::Packet(Packet::PubAck(PubAck::new(1, None))));
    assert_eq!(sent(&actions), [(3, "2".into())], "[MQTT-4.9.0-1]");
    let mut lossy = subscribed(QoS::AtMostOnce);
    let actions = lossy.on_event(at(2), Event::Deliver("x".into(), None));
    assert_eq!(sent(&actions), [(0, "x".into())]);
}

#[test]
fn a_message_that_is_on_its_way_is_not_sent_twice_and_one_that_arrived_may_be_again() {
    let published = |actions: &[Action]| {
        let publishes = actions.iter().filter(|action| matches!(action, Action::Write(Packet::Publish(_))));
        publishes.count()
    };
    for (qos, again) in [(QoS::AtLeastOnce, 0), (QoS::AtMostOnce, 1)] {
        let mut server = subscribed(qos);
        let id: Arc<str> = "id".into();
        let message = |copy: &'static str| Event::Deliver(copy.into(), Some(id.clone()));
        assert_eq!(published(&server.on_event(at(2), message("a message"))), 1);
        assert_eq!(published(&server.on_event(at(9), message("the same, later"))), again, "{qos:?}");
        server.on_event(at(10), Event::Packet(Packet::PubAck(PubAck::new(1, None))));
        assert_eq!(published(&server.on_event(at(20), message("its acknowledgement was lost"))), 1);
    }
    let properties = ConnectProperties { receive_maximum: Some(1), ..ConnectProperties::new() };
    let mut server = with(Some(properties));
    subscribe(&mut server, DOWN, QoS::AtLeastOnce);
    let ids: [Arc<str>; 2] = ["first".into(), "second".into()];
    let sent: Vec<usize> = [0, 1, 1, 0]
        .map(|n: usize| published(&server.on_event(at(2), Event::Deliver("m".into(), Some(ids[n].clone())))))
        .to_vec();
    assert_eq!(sent, [1, 0, 0, 0]);
    let acked = |server: &mut Server, packet_id| {
        published(&server.on_event(at(3), Event::Packet(Packet::PubAck(PubAck::new(packet_id, None)))))
    };
    assert_eq!((acked(&mut server, 1), acked(&mut server, 2)), (1, 0), "the second waited once");
    // Nothing is on its way any more; the client's window and the ids go on.
    let ids: Vec<u16> = [(); 2]
        .iter()
        .flat_map(|()| server.on_event(at(4), Event::Deliver("m".into(), None)))
        .filter_map(|action| match action {
            Action::Write(Packet::Publish(publish)) => Some(publish.pkid),
            _ => None,
        })
        .collect();
    assert_eq!(ids, [3]);
}

#[test]
fn a_normal_goodbye_throws_the_will_away_and_nothing_else_does() {
    for (code, will) in [
        (DisconnectReasonCode::NormalDisconnection, false),
        (DisconnectReasonCode::DisconnectWithWillMessage, true),
        (DisconnectReasonCode::UnspecifiedError, true),
    ] {
        let actions = entered().on_event(at(1), Event::Packet(disconnect(code)));
        assert_eq!((closes(&actions), parting(&actions)), (Some(will), None), "[MQTT-3.14.4-3] {code:?}");
    }
    assert_eq!(closes(&entered().on_event(at(1), Event::Closed)), Some(true));
    let end = Event::End { code: DisconnectReasonCode::SessionTakenOver, end: None };
    let actions = entered().on_event(at(1), end);
    assert_eq!((parting(&actions), closes(&actions)), (Some(DisconnectReasonCode::SessionTakenOver), Some(true)));
}

/// One whole packet as a client writes it.
fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("short");
    [&[first, length], body].concat()
}

fn fault(bytes: &[u8]) -> Option<u8> {
    next_packet(&mut BytesMut::from(bytes), MAX_PACKET).err().map(|fault| fault.code)
}

#[test]
fn what_is_no_packet_of_a_client_ends_with_its_own_reason() {
    let connect = |level: u8, flags: u8, rest: &[u8]| {
        frame(0x10, &[&[0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60], rest].concat())
    };
    let publish = |first: u8, rest: &[u8]| frame(first, &[&[0, 1, b't'], rest].concat());
    for (what, bytes, code) in [
        ("a server's packet", frame(0x20, &[0, 0, 0]), 0x82),
        ("type 0 [MQTT-2.1.2]", frame(0x00, &[]), 0x81),
        ("flags of PINGREQ [MQTT-2.1.3-1]", frame(0xc1, &[]), 0x81),
        ("flags of SUBSCRIBE [MQTT-3.8.1-1]", frame(0x80, &[0, 1, 0, 0, 1, b't', 0]), 0x81),
        ("an exchange of authentication", frame(0xf0, &[]), 0x82),
        ("PUBREC", frame(0x50, &[0, 1]), 0x82),
        ("MQTT 3.1.1", connect(4, 2, &[0, 1, b'c']), 0x84),
        ("the reserved flag [MQTT-3.1.2-3]", connect(5, 3, &[0, 0, 1, b'c']), 0x81),
        ("a will's QoS without a will [MQTT-3.1.2-11]", connect(5, 0x0a, &[0, 0, 1, b'c']), 0x81),
        ("a will of QoS 3 [MQTT-3.1.2-12]", connect(5, 0x1e, &[0, 0, 1, b'c']), 0x81),
        ("a receive maximum of 0", connect(5, 2, &[3, 0x21, 0, 0, 0, 1, b'c']), 0x82),
        ("a packet size of 0", connect(5, 2, &[5, 0x27, 0, 0, 0, 0, 0, 1, b'c']), 0x82),
        ("a property twice", connect(5, 2, &[6, 0x21, 0, 1, 0x21, 0, 1, 0, 1, b'c']), 0x82),
        ("a property of PUBLISH in CONNECT", connect(5, 2, &[2, 0x01, 1, 0, 1, b'c']), 0x81),
        ("an authentication method", connect(5, 2, &[4, 0x15, 0, 1, b'm', 0, 1, b'c']), 0x8c),
        ("a client id with a NUL [MQTT-1.5.4-2]", connect(5, 2, &[0, 0, 1, 0]), 0x81),
        ("a client id that is no UTF-8 [MQTT-1.5.4-1]", connect(5, 2, &[0, 0, 1, 0xff]), 0x81),
        ("properties that run past the packet", connect(5, 2, &[9, 0x21, 0]), 0x81),
        ("bytes behind the end", connect(5, 2, &[0, 0, 1, b'c', 1]), 0x81),
        ("QoS 3 [MQTT-3.3.1-4]", publish(0x36, &[0, 1, 0]), 0x81),
        ("QoS 2 [MQTT-3.2.2-11]", publish(0x34, &[0, 1, 0]), 0x9b),
        ("a repeat of QoS 0 [MQTT-3.3.1-2]", publish(0x38, &[0]), 0x81),
        ("packet id 0 [MQTT-2.2.1-3]", publish(0x32, &[0, 0, 0]), 0x82),
        ("a topic alias [MQTT-3.3.2-9]", publish(0x30, &[3, 0x23, 0, 1]), 0x94),
        ("a subscription identifier [MQTT-3.3.4-6]", publish(0x30, &[2, 0x0b, 1]), 0x82),
        ("a topic with a wildcard [MQTT-3.3.2-2]", frame(0x30, &[0, 1, b'#', 0]), 0x90),
        ("an empty topic [MQTT-4.7.3-1]", frame(0x30, &[0, 0, 0]), 0x90),
        ("a subscription to nothing [MQTT-3.8.3-2]", frame(0x82, &[0, 1, 0]), 0x82),
        ("reserved options [MQTT-3.8.3-5]", frame(0x82, &[0, 1, 0, 0, 1, b't', 0xc0]), 0x81),
        ("a subscription with an identifier", frame(0x82, &[0, 1, 2, 0x0b, 1, 0, 1, b't', 0]), 0xa1),
        ("an end of no subscription [MQTT-3.10.3-2]", frame(0xa2, &[0, 1, 0]), 0x82),
        ("an acknowledgement of nothing", frame(0x40, &[0, 0]), 0x82),
        ("a length with needless bytes [MQTT-1.5.5-1]", vec![0xc0, 0x80, 0x00], 0x81),
        ("a length without an end", vec![0x30, 0x80, 0x80, 0x80, 0x80], 0x81),
        ("200 MB", vec![0x30, 0x80, 0x84, 0xaf, 0x5f], 0x95),
    ] {
        assert_eq!(fault(&bytes), Some(code), "{what}");
    }
}

#[test]
fn an_old_client_is_refused_in_its_own_words() {
    let mut server = Server::new(Duration::ZERO);
    let actions = server.on_event(at(0), Event::Fault(Fault::OLD));
    assert!(matches!(actions.as_slice(), [Action::WriteBytes([0x20, 2, 0, 1]), Action::Close { .. }]), "{actions:?}");
}

/// `IMPUSH_STREAMS` says how many: mutated packets in random order, each read, decided on and answered.
#[test]
fn no_stream_makes_the_server_panic_or_write_what_a_client_cannot_read() {
    let streams = std::env::var("IMPUSH_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000_usize);
    let filter = Filter {
        path: DOWN.into(),
        qos: QoS::AtLeastOnce,
        nolocal: false,
        preserve_retain: false,
        retain_forward_rule: RetainForwardRule::Never,
    };
    let unsubscribe = Unsubscribe { pkid: 4, filters: vec![DOWN.into()], properties: None };
    let samples: Vec<Vec<u8>> = [
        connect(60, Some(ConnectProperties { receive_maximum: Some(3), ..ConnectProperties::new() })),
        Packet::Subscribe(Subscribe { pkid: 3, filters: vec![filter], properties: None }),
        publish(UP, QoS::AtLeastOnce, 5),
        publish(STATE, QoS::AtMostOnce, 0),
        Packet::PubAck(PubAck::new(1, None)),
        Packet::Unsubscribe(unsubscribe),
        Packet::PingReq(PingReq),
        disconnect(DisconnectReasonCode::DisconnectWithWillMessage),
    ]
    .iter()
    .map(|packet| {
        let mut bytes = BytesMut::new();
        write_packet(packet, &mut bytes).expect("written");
        bytes.to_vec()
    })
    .collect();
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("small") % below
    };
    let (mut faults, mut written) = (0, 0);
    for _ in 0..streams {
        let mut server = Server::new(Duration::ZERO);
        let mut bytes = BytesMut::from(&samples[0][..]);
        for _ in 0..next(12) {
            bytes.extend_from_slice(&samples[1 + next(samples.len() - 1)]);
        }
        for _ in 0..next(4) {
            let at = next(bytes.len());
            bytes[at] = u8::try_from(next(256)).expect("a byte");
        }
        let mut events = Vec::new();
        while server.reads() {
            match next_packet(&mut bytes, server.longest()) {
                Ok(Some(packet)) => events.push(Event::Packet(packet)),
                Ok(None) => break,
                Err(fault) => {
                    faults += 1;
                    events.push(Event::Fault(fault));
                }
            }
            while let Some(event) = events.pop() {
                for action in server.on_event(at(1), event) {
                    match action {
                        Action::Ask => events.push(Event::Entered(Ok(own()))),
                        Action::Heard { packet_id, .. } => events.push(Event::Stored(packet_id)),
                        Action::Write(packet) => {
                            let mut out = BytesMut::new();
                            write_packet(&packet, &mut out).expect("written");
                            let read = codec::decode(&mut out, u32::MAX);
                            assert!(matches!(read, Ok(Some(_))) && out.is_empty(), "{packet:?}: {read:?}");
                            written += 1;
                        }
                        _ => {}
                    }
                }
                if next(5) == 0 {
                    events.push(Event::Deliver("m".into(), None));
                }
            }
        }
    }
    assert!(faults > streams / 10 && written > streams, "{faults} faults, {written} answers");
}
