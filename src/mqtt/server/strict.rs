//! What a frame of a client has to be before the codec reads it: rumqttc's takes wrong flags, runs past the length
//! of a property section, and reads zeros, repeated properties and NULs that MQTT 5 forbids.
//!
//! Numbers in brackets are the statements of the OASIS standard of MQTT 5.0.

/// Why a connection ends, as MQTT 5 numbers it (section 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub code: u8,
    pub why: &'static str,
}

impl Fault {
    pub const fn malformed(why: &'static str) -> Self {
        Self { code: 0x81, why }
    }

    pub const fn protocol(why: &'static str) -> Self {
        Self { code: 0x82, why }
    }

    /// A client of MQTT 3.1 or 3.1.1, which is answered in its own words.
    pub const OLD: Self = Self { code: 0x84, why: "MQTT before version 5" };

    pub const fn is_old(self) -> bool {
        self.code == Self::OLD.code
    }
}

/// Longest CONNECT in bytes: a client id, a user name, a token and a will.
pub const LONGEST_CONNECT: u32 = 16 * 1024;

/// The length of the first frame of `bytes`, or `None` when its header is not whole.
///
/// # Errors
/// [`Fault`]: it is longer than `most`, or its length is no length.
pub fn length(bytes: &[u8], most: u32) -> Result<Option<usize>, Fault> {
    let mut length = 0_u32;
    for at in 0..4 {
        let Some(byte) = bytes.get(1 + at) else { return Ok(None) };
        length |= u32::from(byte & 0x7f) << (7 * at);
        if length > most {
            return Err(Fault { code: 0x95, why: "a packet that is too large" });
        }
        if byte & 0x80 == 0 {
            // [MQTT-1.5.5-1]: as few bytes as hold it.
            if at > 0 && *byte == 0 {
                return Err(Fault::malformed("a length with needless bytes"));
            }
            return Ok(Some(2 + at + length as usize));
        }
    }
    Err(Fault::malformed("a length without an end"))
}

/// Checks one whole frame.
///
/// # Errors
/// [`Fault`].
pub fn check(frame: &[u8]) -> Result<(), Fault> {
    let Some((first, rest)) = frame.split_first() else { return Err(Fault::malformed("an empty frame")) };
    let header = rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let mut body = Bytes(rest.get(header..).unwrap_or_default());
    let flags = first & 0x0f;
    let expected = if matches!(first >> 4, 6 | 8 | 10) { 2 } else { 0 };
    // [MQTT-2.1.3-1]
    if first >> 4 != 3 && flags != expected {
        return Err(Fault::malformed("reserved flags of a packet"));
    }
    match first >> 4 {
        1 => connect(&mut body),
        3 => publish(flags, &mut body),
        4 => acknowledgement(&mut body),
        5..=7 => Err(Fault::protocol("a packet of QoS 2, which is not offered")),
        8 => subscribe(&mut body),
        10 => unsubscribe(&mut body),
        12 if body.0.is_empty() => Ok(()),
        12 => Err(Fault::malformed("a ping with a body")),
        14 => disconnect(&mut body),
        15 => Err(Fault::protocol("an exchange of authentication, which is not offered")),
        0 => Err(Fault::malformed("a packet of no type")),
        _ => Err(Fault::protocol("a packet that only servers send")),
    }
}

fn connect(body: &mut Bytes<'_>) -> Result<(), Fault> {
    let name = body.string()?;
    let level = body.byte()?;
    match (name, level) {
        ("MQTT", 5) => {}
        ("MQTT", 4) | ("MQIsdp", 3) => return Err(Fault::OLD),
        _ => return Err(Fault { code: 0x84, why: "another protocol than MQTT 5" }),
    }
    let flags = body.byte()?;
    let (will, will_qos) = (flags & 4 != 0, flags >> 3 & 3);
    // [MQTT-3.1.2-3]
    if flags & 1 != 0 {
        return Err(Fault::malformed("the reserved flag of CONNECT"));
    }
    // [MQTT-3.1.2-11], [MQTT-3.1.2-12], [MQTT-3.1.2-13]
    if will_qos == 3 || !will && flags & 0x38 != 0 {
        return Err(Fault::malformed("flags of a will that contradict each other"));
    }
    body.u16()?;
    let found = body.properties(&[0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26, 0x15, 0x16])?;
    if found.has(0x16) && !found.has(0x15) {
        return Err(Fault::protocol("authentication data without a method"));
    }
    if found.has(0x15) {
        return Err(Fault { code: 0x8c, why: "an authentication method, and none is offered" });
    }
    body.string()?;
    if will {
        body.properties(&[0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26])?;
        topic(body.string()?)?;
        body.binary()?;
    }
    if flags & 0x80 != 0 {
        body.string()?;
    }
    if flags & 0x40 != 0 {
        let password = body.binary()?;
        if std::str::from_utf8(password).is_err() {
            return Err(Fault { code: 0x86, why: "a password that is no token" });
        }
    }
    body.end()
}

fn publish(flags: u8, body: &mut Bytes<'_>) -> Result<(), Fault> {
    let (qos, again) = (flags >> 1 & 3, flags & 8 != 0);
    match qos {
        // [MQTT-3.3.1-4]
        3 => return Err(Fault::malformed("a publish of QoS 3")),
        2 => return Err(Fault { code: 0x9b, why: "a publish of QoS 2, which is not offered" }),
        // [MQTT-3.3.1-2]
        0 if again => return Err(Fault::malformed("a publish of QoS 0 that says it is a repeat")),
        _ => {}
    }
    topic(body.string()?)?;
    if qos > 0 {
        body.packet_id()?;
    }
    let found = body.properties(&[0x01, 0x02, 0x23, 0x08, 0x09, 0x26, 0x0b, 0x03])?;
    if found.has(0x0b) {
        // [MQTT-3.3.4-6]
        return Err(Fault::protocol("a subscription identifier in a client's publish"));
    }
    if found.has(0x23) {
        // [MQTT-3.3.2-9]
        return Err(Fault { code: 0x94, why: "a topic alias, and none is allowed" });
    }
    Ok(())
}

/// [MQTT-3.3.2-1], [MQTT-3.3.2-2], [MQTT-4.7.3-1]
fn topic(topic: &str) -> Result<(), Fault> {
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(Fault { code: 0x90, why: "a topic that is empty or has a wildcard" });
    }
    Ok(())
}

fn acknowledgement(body: &mut Bytes<'_>) -> Result<(), Fault> {
    body.packet_id()?;
    if body.0.is_empty() {
        return Ok(());
    }
    body.byte()?;
    if !body.0.is_empty() {
        body.properties(&[0x1f, 0x26])?;
    }
    body.end()
}

fn subscribe(body: &mut Bytes<'_>) -> Result<(), Fault> {
    body.packet_id()?;
    let found = body.properties(&[0x0b, 0x26])?;
    if found.has(0x0b) {
        return Err(Fault { code: 0xa1, why: "a subscription identifier, which is not offered" });
    }
    // [MQTT-3.8.3-2]
    if body.0.is_empty() {
        return Err(Fault::protocol("a subscription to nothing"));
    }
    while !body.0.is_empty() {
        if body.string()?.is_empty() {
            return Err(Fault { code: 0x8f, why: "an empty filter" });
        }
        let options = body.byte()?;
        // [MQTT-3.8.3-5]
        if options & 3 == 3 || options >> 4 & 3 == 3 || options & 0xc0 != 0 {
            return Err(Fault::malformed("options of a subscription that are none"));
        }
    }
    Ok(())
}

fn unsubscribe(body: &mut Bytes<'_>) -> Result<(), Fault> {
    body.packet_id()?;
    body.properties(&[0x26])?;
    // [MQTT-3.10.3-2]
    if body.0.is_empty() {
        return Err(Fault::protocol("an end of no subscription"));
    }
    while !body.0.is_empty() {
        body.string()?;
    }
    Ok(())
}

fn disconnect(body: &mut Bytes<'_>) -> Result<(), Fault> {
    if body.0.is_empty() {
        return Ok(());
    }
    body.byte()?;
    if !body.0.is_empty() {
        body.properties(&[0x11, 0x1f, 0x26])?;
    }
    body.end()
}

/// Which properties a section has.
struct Found([bool; 64]);

impl Found {
    fn has(&self, id: u8) -> bool {
        self.0[usize::from(id) % 64]
    }
}

/// What is left of a frame's body.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Fault::malformed("a packet that is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// [MQTT-2.2.1-2], [MQTT-2.2.1-3]
    fn packet_id(&mut self) -> Result<(), Fault> {
        if self.u16()? == 0 { Err(Fault::protocol("packet id 0")) } else { Ok(()) }
    }

    fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// [MQTT-1.5.4-1], [MQTT-1.5.4-2]
    fn string(&mut self) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Fault::malformed("a text that is not UTF-8"))?;
        if text.contains('\0') { Err(Fault::malformed("a text with a NUL")) } else { Ok(text) }
    }

    fn variable(&mut self) -> Result<usize, Fault> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::malformed("a number without an end"))
    }

    /// Reads a section; only these may stand in it, and each but a user property (0x26) once.
    fn properties(&mut self, allowed: &[u8]) -> Result<Found, Fault> {
        let length = self.variable()?;
        let mut section = Bytes(self.take(length)?);
        let mut found = Found([false; 64]);
        while !section.0.is_empty() {
            let id = section.byte()?;
            if !allowed.contains(&id) {
                return Err(Fault::malformed("a property that does not belong there"));
            }
            let seen = &mut found.0[usize::from(id) % 64];
            if std::mem::replace(seen, true) && id != 0x26 {
                return Err(Fault::protocol("a property that stands there twice"));
            }
            section.property(id)?;
        }
        Ok(found)
    }

    fn property(&mut self, id: u8) -> Result<(), Fault> {
        match id {
            0x01 | 0x17 | 0x19 if self.byte()? > 1 => Err(Fault::protocol("a flag that is neither 0 nor 1")),
            0x01 | 0x17 | 0x19 => Ok(()),
            0x02 | 0x11 | 0x18 => self.take(4).map(drop),
            // [MQTT-3.1.2-24]
            0x27 if self.take(4)?.iter().all(|byte| *byte == 0) => Err(Fault::protocol("a maximum packet size of 0")),
            0x27 => Ok(()),
            0x21 if self.u16()? == 0 => Err(Fault::protocol("a receive maximum of 0")),
            0x23 if self.u16()? == 0 => Err(Fault { code: 0x94, why: "topic alias 0" }),
            0x21 | 0x23 => Ok(()),
            0x22 => self.u16().map(drop),
            0x0b if self.variable()? == 0 => Err(Fault::protocol("subscription identifier 0")),
            0x0b => Ok(()),
            0x09 | 0x16 => self.binary().map(drop),
            0x26 => self.string().and_then(|_| self.string()).map(drop),
            _ => self.string().map(drop),
        }
    }

    fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::malformed("bytes behind a packet's end")) }
    }
}
