//! Bytes to packets and back, with the gaps of the codec underneath closed.
//!
//! rumqttc 0.25.1 refuses a DISCONNECT without properties, although MQTT 5 allows it (section
//! 3.14.2.2.1), an MQTT 3.1.1 CONNACK, which is how an old broker says no, and a PUBACK of a reason that section 3.4.2.1
//! does not list, as mosquitto answers one that is too large (0x95). All are read here.

use super::MqttError;
use crate::keepalive::Cause;
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, PubAck, PubAckProperties, PubAckReason,
    SubscribeReasonCode, check,
};

/// "Packet too large".
const TOO_LARGE: u8 = 0x95;

/// Takes one whole packet off `buffer`, or `None` when more bytes are needed.
pub(super) fn decode(buffer: &mut BytesMut, max_size: u32) -> Result<Option<Packet>, MqttError> {
    let frame = match check(buffer.iter(), Some(max_size)) {
        Ok(header) => header.frame_length(),
        Err(CodecError::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    };
    let mut packet = buffer.split_to(frame);
    match (packet[0] >> 4, frame) {
        (14, 2) => return Ok(Some(disconnect(DisconnectReasonCode::NormalDisconnection))),
        (14, 3) => {
            let code = DisconnectReasonCode::try_from(packet[2]).map_err(|e| broken(e.to_string()))?;
            return Ok(Some(disconnect(code)));
        }
        (2, 4) => {
            let code = packet[3];
            return Err(MqttError::new(Cause::NotMqtt5, format!("an MQTT 3.1.1 answer, return code {code}")));
        }
        (4, 5..) if packet[1] < 0x80 && packet[4] == TOO_LARGE => {
            let pkid = u16::from_be_bytes([packet[2], packet[3]]);
            return Ok(Some(Packet::PubAck(PubAck {
                pkid,
                reason: PubAckReason::UnspecifiedError,
                properties: too_large(),
            })));
        }
        _ => {}
    }
    Packet::read(&mut packet, Some(max_size)).map(Some).map_err(|e| broken(e.to_string()))
}

fn too_large() -> Option<PubAckProperties> {
    Some(PubAckProperties { reason_string: Some(format!("0x{TOO_LARGE:x}")), user_properties: Vec::new() })
}

/// What a refused PUBLISH asks for; `None` where it was not refused.
pub(super) fn unpublishable(ack: &PubAck) -> Option<MqttError> {
    match ack.reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        PubAckReason::UnspecifiedError if ack.properties == too_large() => {
            Some(MqttError::new(Cause::PacketTooLarge, "the broker answered that the packet is too large"))
        }
        PubAckReason::NotAuthorized => Some(MqttError::new(Cause::NotAuthorized, format!("{:?}", ack.reason))),
        reason => Some(MqttError::new(Cause::Refused, format!("{reason:?}"))),
    }
}

/// Appends `packet` to `buffer`.
pub(super) fn encode(packet: &Packet, buffer: &mut BytesMut, max_size: Option<u32>) -> Result<(), MqttError> {
    if let Packet::Disconnect(Disconnect { reason_code, properties: None }) = packet {
        // Its own form of this is a byte longer than it says.
        buffer.extend_from_slice(&[0xe0, 1, *reason_code as u8]);
        return Ok(());
    }
    packet.write(buffer, max_size).map(drop).map_err(|e| broken(e.to_string()))
}

/// What a refused CONNECT asks for.
pub(super) fn refusal(code: ConnectReturnCode) -> Cause {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::BadAuthenticationMethod => Cause::BadCredentials,
        Code::NotAuthorized => Cause::NotAuthorized,
        Code::Banned => Cause::Banned,
        Code::BadClientId | Code::ClientIdentifierNotValid => Cause::ClientIdRefused,
        Code::ServerBusy | Code::ConnectionRateExceeded => Cause::ServerBusy,
        Code::QuotaExceeded => Cause::QuotaExceeded,
        Code::ServerUnavailable | Code::ServiceUnavailable => Cause::ServerUnavailable,
        Code::UseAnotherServer => Cause::UseAnotherServer,
        Code::ServerMoved => Cause::ServerMoved,
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Cause::NotMqtt5,
        Code::MalformedPacket | Code::ProtocolError => Cause::ProtocolError,
        Code::RetainNotSupported => Cause::RetainRefused,
        Code::QoSNotSupported => Cause::QosRefused,
        Code::PacketTooLarge => Cause::PacketTooLarge,
        _ => Cause::Refused,
    }
}

/// What a refused SUBSCRIBE asks for.
pub(super) fn unsubscribable(code: SubscribeReasonCode) -> Cause {
    use SubscribeReasonCode as Code;
    match code {
        Code::NotAuthorized | Code::TopicFilterInvalid => Cause::NotAuthorized,
        Code::QuotaExceeded => Cause::QuotaExceeded,
        _ => Cause::Refused,
    }
}

/// What a DISCONNECT from the server asks for.
pub(super) fn parting(code: DisconnectReasonCode) -> Cause {
    use DisconnectReasonCode as Code;
    match code {
        Code::SessionTakenOver => Cause::TakenOver,
        Code::NotAuthorized => Cause::NotAuthorized,
        Code::AdministrativeAction => Cause::Kicked,
        Code::ServerBusy | Code::MessageRateTooHigh | Code::ConnectionRateExceeded => Cause::ServerBusy,
        Code::QuotaExceeded => Cause::QuotaExceeded,
        Code::ServerShuttingDown | Code::MaximumConnectTime => Cause::ServerShutdown,
        Code::UseAnotherServer => Cause::UseAnotherServer,
        Code::ServerMoved => Cause::ServerMoved,
        Code::RetainNotSupported => Cause::RetainRefused,
        Code::QoSNotSupported => Cause::QosRefused,
        Code::PacketTooLarge => Cause::PacketTooLarge,
        Code::NormalDisconnection | Code::DisconnectWithWillMessage | Code::KeepAliveTimeout => Cause::PeerClosed,
        _ => Cause::ProtocolError,
    }
}

fn disconnect(reason_code: DisconnectReasonCode) -> Packet {
    Packet::Disconnect(Disconnect { reason_code, properties: None })
}

fn broken(detail: String) -> MqttError {
    MqttError::new(Cause::ProtocolError, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, Publish, PublishProperties, SubAck};

    #[test]
    fn a_disconnect_may_leave_out_its_properties_and_its_reason() {
        let mut bytes = BytesMut::from(&[0xe0, 0x00, 0xe0, 0x01, 0x8e, 0xe0, 0x02, 0x8b, 0x00][..]);
        let reasons: Vec<_> = std::iter::from_fn(|| decode(&mut bytes, 100).expect("a packet"))
            .map(|p| if let Packet::Disconnect(d) = p { parting(d.reason_code) } else { panic!("{p:?}") })
            .collect();
        assert_eq!(reasons, [Cause::PeerClosed, Cause::TakenOver, Cause::ServerShutdown]);
    }

    #[test]
    fn a_puback_may_say_that_the_packet_is_too_large() {
        for mut bytes in
            [&[0x40, 0x04, 0x00, 0x07, 0x95, 0x00][..], &[0x40, 0x03, 0x00, 0x07, 0x95]].map(BytesMut::from)
        {
            let Ok(Some(Packet::PubAck(ack))) = decode(&mut bytes, 100) else { panic!("no PUBACK") };
            assert_eq!((ack.pkid, unpublishable(&ack).map(|error| error.cause)), (7, Some(Cause::PacketTooLarge)));
        }
        assert_eq!(unpublishable(&PubAck::new(1, None)), None);
    }

    #[test]
    fn an_old_brokers_refusal_is_named() {
        let mut bytes = BytesMut::from(&[0x20, 0x02, 0x00, 0x01][..]);
        assert_eq!(decode(&mut bytes, 100).expect_err("refused").cause, Cause::NotMqtt5);
    }

    #[test]
    fn an_oversized_packet_is_refused_before_it_is_read() {
        let mut bytes = BytesMut::from(&[0x30, 0xff, 0xff, 0x7f][..]);
        assert_eq!(decode(&mut bytes, 1000).expect_err("too large").cause, Cause::ProtocolError);
    }

    /// Every packet a server sends, cut and changed at random: an error or a packet, never a panic.
    #[test]
    fn no_bytes_from_the_server_make_the_codec_panic() {
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(9),
            topic_alias: Some(3),
            response_topic: Some("r".into()),
            correlation_data: Some("c".into()),
            user_properties: vec![("k".into(), "v".into())],
            subscription_identifiers: vec![300],
            content_type: Some("t".into()),
        };
        let publish = Publish { pkid: 7, ..Publish::new("a/b", QoS::AtLeastOnce, "payload", Some(properties)) };
        let connack = ConnAck {
            session_present: true,
            code: ConnectReturnCode::Success,
            properties: Some(ConnAckProperties {
                session_expiry_interval: Some(1),
                receive_max: Some(2),
                max_qos: Some(1),
                retain_available: Some(1),
                max_packet_size: Some(100),
                assigned_client_identifier: Some("id".into()),
                topic_alias_max: Some(1),
                reason_string: Some("why".into()),
                user_properties: vec![("a".into(), "b".into())],
                wildcard_subscription_available: Some(1),
                subscription_identifiers_available: Some(1),
                shared_subscription_available: Some(1),
                server_keep_alive: Some(60),
                response_information: Some("i".into()),
                server_reference: Some("s".into()),
                authentication_method: Some("m".into()),
                authentication_data: Some("d".into()),
            }),
        };
        let suback =
            SubAck { pkid: 1, return_codes: vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)], properties: None };
        let samples: Vec<Vec<u8>> = [
            Packet::Publish(publish),
            Packet::ConnAck(connack),
            Packet::SubAck(suback),
            Packet::PubAck(PubAck::new(1, None)),
        ]
        .iter()
        .map(|packet| {
            let mut bytes = BytesMut::new();
            encode(packet, &mut bytes, None).expect("written");
            bytes.to_vec()
        })
        .chain([vec![0xe0, 0x05, 0x8e, 0x03, 0x1f, 0x00, 0x00], vec![0xd0, 0x00]])
        .collect();
        let mut random = 1_u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        for round in 0..200_000 {
            let mut bytes = samples[round % samples.len()].clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            bytes.truncate(1 + next(bytes.len()));
            // The length byte is made to fit half of the time, so that bodies are reached.
            if next(2) == 0 && bytes.len() > 1 && bytes.len() < 128 {
                bytes[1] = (bytes.len() - 2) as u8;
            }
            drop(decode(&mut BytesMut::from(&bytes[..]), 1000));
        }
    }
}
