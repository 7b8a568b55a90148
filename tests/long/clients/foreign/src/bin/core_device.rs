//! A device over mqtt-protocol-core, whose client decides and reads no socket: it comes online, takes one message, and
//! leaves.

use foreign::{Device, Failed};
use mqtt_protocol_core::mqtt;
use mqtt_protocol_core::mqtt::connection::Event;
use mqtt_protocol_core::mqtt::packet::{Packet, Qos, SubEntry, SubOpts, v5_0};
use mqtt_protocol_core::mqtt::prelude::*;
use rustls::{ClientConnection, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

type Core = mqtt::Connection<mqtt::role::Client>;
type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Sends what the core wants sent; returns what it has read.
fn carry_out(stream: &mut Stream, events: Vec<Event>) -> Result<Vec<Packet>, Failed> {
    let mut packets = Vec::new();
    for event in events {
        match event {
            Event::RequestSendPacket { packet, .. } => stream.write_all(&packet.to_continuous_buffer())?,
            Event::NotifyPacketReceived(packet) => packets.push(packet),
            Event::NotifyError(error) => return Err(format!("{error:?}").into()),
            Event::RequestClose => return Err("the core closes".into()),
            _ => {}
        }
    }
    stream.flush()?;
    Ok(packets)
}

fn wrong(error: impl std::fmt::Debug) -> Failed {
    format!("{error:?}").into()
}

fn publish(core: &mut Core, stream: &mut Stream, topic: String, retain: bool, payload: String) -> Result<(), Failed> {
    let packet_id = core.acquire_packet_id().map_err(wrong)?;
    let packet = v5_0::Publish::builder()
        .topic_name(topic)
        .map_err(wrong)?
        .qos(Qos::AtLeastOnce)
        .retain(retain)
        .payload(payload.into_bytes())
        .packet_id(packet_id)
        .build()
        .map_err(wrong)?;
    let events = core.checked_send(packet);
    carry_out(stream, events).map(drop)
}

fn main() -> Result<(), Failed> {
    let device = Device::of_arguments()?;
    let socket = TcpStream::connect(("localhost", device.port))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = StreamOwned::new(ClientConnection::new(device.tls.clone(), "localhost".try_into()?)?, socket);
    let mut core = Core::new(mqtt::Version::V5_0);
    core.set_auto_pub_response(true);
    let connect = v5_0::Connect::builder()
        .client_id(device.client_id())
        .map_err(wrong)?
        .user_name("org%23app/ann")
        .map_err(wrong)?
        .password(device.token.as_str())
        .map_err(wrong)?
        .will_message(device.topic("state"), device.state(false).as_str(), Qos::AtLeastOnce, true)
        .map_err(wrong)?
        .keep_alive(30)
        .build()
        .map_err(wrong)?;
    let events = core.checked_send(connect);
    carry_out(&mut stream, events)?;
    let (mut text, mut owed, mut buffer) = (None, 0, [0; 4096]);
    loop {
        let read = stream.read(&mut buffer)?;
        let mut cursor = mqtt::common::Cursor::new(&buffer[..read]);
        while (cursor.position() as usize) < read {
            let events = core.recv(&mut cursor);
            for packet in carry_out(&mut stream, events)? {
                match packet {
                    Packet::V5_0Connack(ack) => {
                        println!("CONNACK {:?}", ack.reason_code());
                        let packet_id = core.acquire_packet_id().map_err(wrong)?;
                        let options = SubOpts::new().set_qos(Qos::AtLeastOnce);
                        let entry = SubEntry::new(device.topic("down"), options).map_err(wrong)?;
                        let subscribe = v5_0::Subscribe::builder().entries(vec![entry]).packet_id(packet_id);
                        let events = core.checked_send(subscribe.build().map_err(wrong)?);
                        carry_out(&mut stream, events)?;
                    }
                    Packet::V5_0Suback(_) => {
                        publish(&mut core, &mut stream, device.topic("state"), true, device.state(true))?;
                        publish(&mut core, &mut stream, device.topic("up"), false, device.hello("core"))?;
                        owed += 2;
                    }
                    Packet::V5_0Publish(said) => {
                        let Some((words, said)) = Device::taken(said.payload().as_slice())? else { continue };
                        text = Some(said);
                        for word in words {
                            publish(&mut core, &mut stream, device.topic("up"), false, word)?;
                        }
                        publish(&mut core, &mut stream, device.topic("state"), true, device.state(false))?;
                        owed += 3;
                    }
                    Packet::V5_0Puback(_) => owed -= 1,
                    _ => {}
                }
            }
        }
        if let (Some(text), 0) = (&text, owed) {
            let goodbye = v5_0::Disconnect::builder().build().map_err(wrong)?;
            let events = core.checked_send(goodbye);
            // It asks to close, and so it is.
            drop(carry_out(&mut stream, events));
            println!("TEXT {text}");
            return Ok(());
        }
    }
}
