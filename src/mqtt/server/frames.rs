//! Bytes to packets of a client and back, past the strict check.

use super::strict::{self, Fault};
use crate::mqtt::{MqttError, codec};
use crate::protocol::MAX_PACKET;
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::Packet;

/// Takes the next packet off the bytes a client sent; `None` when more are needed.
///
/// # Errors
/// [`Fault`]: the connection ends.
pub fn next_packet(bytes: &mut BytesMut, longest: u32) -> Result<Option<Packet>, Fault> {
    let Some(length) = strict::length(bytes, longest)? else { return Ok(None) };
    if bytes.len() < length {
        return Ok(None);
    }
    strict::check(&bytes[..length])?;
    codec::decode(bytes, MAX_PACKET).map_err(|_| Fault::malformed("a packet that cannot be read"))
}

/// Appends a packet to bytes that are to be written.
///
/// # Errors
/// The codec's sentence.
pub fn write_packet(packet: &Packet, bytes: &mut BytesMut) -> Result<(), MqttError> {
    codec::encode(packet, bytes, None)
}
