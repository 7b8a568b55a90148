//! One segment: an append-only file of JSON lines, named after the first number it may hold.
//!
//! ```text
//! {"number":7,"id":"a","from":"bob",...}
//! ```
//!
//! The number stands among the message's own fields, not around them: a body nested as deep as the wire
//! allows could not be read again one level deeper.

use crate::protocol::Message;
use crate::store::owner;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Longest record, in bytes. Numbers of a 64 KiB payload can grow almost fourfold when written again.
pub const RECORD_LIMIT: usize = 512 * 1024;
/// The numbers one segment may span: damage must not make a number that is far from its neighbours.
const SPAN: u64 = 1 << 20;
const BUFFER: usize = 64 * 1024;
const OPENING: &[u8] = b"{\"number\":";

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// First number of the segment.
    pub segment: u64,
    /// Hash of the message's id.
    pub id: u64,
    pub offset: u32,
    /// In bytes, with the line's end.
    pub length: u32,
}

/// What was found in a segment.
#[derive(Debug, Default)]
pub struct Scan {
    pub records: Vec<(u64, Slot)>,
    /// Where its last whole line ends, in bytes; a torn one behind it was never acknowledged.
    pub length: u64,
    /// Pieces that are no record.
    pub damaged: usize,
}

#[derive(Deserialize)]
struct Head {
    number: u64,
    id: String,
}

pub fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}.jsonl"))
}

/// First numbers of the segments in a directory, ascending.
pub fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl")).filter(|stem| stem.len() == 20);
        found.extend(number.and_then(|stem| stem.parse::<u64>().ok()).filter(|first| *first < u64::MAX / 2));
    }
    found.sort_unstable();
    Ok(found)
}

pub fn encode(number: u64, message: &Message) -> io::Result<Vec<u8>> {
    let fields = serde_json::to_vec(message).map_err(io::Error::other)?;
    let mut line = format!("{{\"number\":{number},").into_bytes();
    line.extend_from_slice(fields.get(1..).unwrap_or_default());
    line.push(b'\n');
    Ok(line)
}

/// The hash by which an id is remembered.
pub fn id_hash(id: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Reads a segment through a bounded buffer. Numbers are below `end`, where the next segment begins.
pub fn scan(path: &Path, first: u64, end: Option<u64>) -> io::Result<Scan> {
    let mut reader = BufReader::with_capacity(BUFFER, File::open(path)?);
    let end = end.unwrap_or(u64::MAX).min(first.saturating_add(SPAN));
    let mut scan = Scan::default();
    let (mut line, mut next) = (Vec::new(), first);
    loop {
        let piece = read_line(&mut reader, &mut line)?;
        if piece.consumed == 0 {
            return Ok(scan);
        }
        let start = scan.length + piece.nuls;
        if !piece.ended {
            let torn =
                piece.nuls == 0 && !line.contains(&0) && (line.starts_with(OPENING) || OPENING.starts_with(&line));
            scan.damaged += usize::from(!torn);
            return Ok(scan);
        }
        scan.length += piece.consumed;
        if line.is_empty() && piece.nuls == 0 && !piece.too_long {
            continue;
        }
        let found = [Some(0), after_last_nul(&line)].into_iter().flatten().find_map(|at| {
            let record = line.get(at..)?;
            let head: Head = serde_json::from_slice(record).ok()?;
            let slot = Slot {
                segment: first,
                id: id_hash(&head.id),
                offset: u32::try_from(start + at as u64).ok()?,
                length: u32::try_from(record.len() + 1).ok()?,
            };
            (next..end).contains(&head.number).then_some((at, head.number, slot))
        });
        scan.damaged += usize::from(piece.nuls > 0 || !matches!(found, Some((0, _, _))));
        if let Some((_, number, slot)) = found {
            next = number + 1;
            scan.records.push((number, slot));
        }
    }
}

/// A record that was appended behind what a power loss left of another.
fn after_last_nul(line: &[u8]) -> Option<usize> {
    line.iter().rposition(|byte| *byte == 0).map(|at| at + 1)
}

struct Piece {
    /// Bytes read, with the line's end.
    consumed: u64,
    /// NULs in front of the line, which are not in it.
    nuls: u64,
    ended: bool,
    too_long: bool,
}

/// The next line without its end. One that is too long for a record is read past and given empty.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Piece> {
    line.clear();
    let mut piece = Piece { consumed: 0, nuls: 0, ended: false, too_long: false };
    while !piece.ended {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let stop = buffer.iter().position(|byte| *byte == b'\n');
        let (text, used) = stop.map_or((buffer, buffer.len()), |at| (&buffer[..at], at + 1));
        let blank =
            if line.is_empty() && !piece.too_long { text.iter().take_while(|byte| **byte == 0).count() } else { 0 };
        piece.nuls += blank as u64;
        piece.too_long |= line.len() + text.len() > RECORD_LIMIT;
        if piece.too_long {
            line.clear();
        } else {
            line.extend_from_slice(&text[blank..]);
        }
        piece.ended = stop.is_some();
        piece.consumed += used as u64;
        reader.consume(used);
    }
    Ok(piece)
}

/// One record's message.
pub fn read(file: &File, slot: Slot) -> io::Result<Message> {
    Ok(serde_json::from_slice(&bytes(file, slot)?)?)
}

/// Writes a segment anew with these records alone, at once or not at all. Returns where they lie now.
pub fn rewrite(directory: &Path, first: u64, keep: &[(u64, Slot)]) -> io::Result<Scan> {
    let source = File::open(path(directory, first))?;
    let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
    owner::hand_over(temporary.as_file(), directory);
    let mut scan = Scan::default();
    for (number, slot) in keep {
        temporary.write_all(&bytes(&source, *slot)?)?;
        let offset = u32::try_from(scan.length).map_err(io::Error::other)?;
        scan.records.push((*number, Slot { offset, ..*slot }));
        scan.length += u64::from(slot.length);
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path(directory, first)).map_err(|e| e.error)?;
    File::open(directory)?.sync_all()?;
    Ok(scan)
}

fn bytes(file: &File, slot: Slot) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; slot.length as usize];
    file.read_exact_at(&mut bytes, u64::from(slot.offset))?;
    Ok(bytes)
}
