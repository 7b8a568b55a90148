//! Answers' content codings (RFC 9110, section 8.4): none is asked for, and one that comes all the same is undone.

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use std::io::Read;

/// What is asked for: answers are short, and a small one can become a large one no more.
pub(super) const ACCEPTED: &str = "identity";
/// Codings one over the other that are undone.
const MOST_LAYERS: usize = 3;

/// The body as it was before it was coded, at most `most` bytes of it; the headers are those of such a body then.
///
/// # Errors
/// A sentence: the coding is not known, the body is not in it, or it is longer.
pub(super) fn undone(headers: &mut HeaderMap, body: Bytes, most: usize) -> Result<Bytes, String> {
    if !headers.contains_key(CONTENT_ENCODING) {
        return Ok(body);
    }
    let said = headers.get_all(CONTENT_ENCODING).iter();
    let said: Vec<&str> = said.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    if said.len() > MOST_LAYERS {
        return Err(format!("the answer is coded {} times", said.len()));
    }
    let mut body = body;
    // The last one was put on last.
    for coding in said.iter().rev().map(|coding| coding.trim().to_ascii_lowercase()) {
        body = match coding.as_str() {
            "" | "identity" => body,
            _ if body.is_empty() => body,
            "gzip" | "x-gzip" => bounded(MultiGzDecoder::new(&body[..]), most)?,
            // Some send it without the wrapping that the standard asks for.
            "deflate" => match bounded(ZlibDecoder::new(&body[..]), most) {
                Ok(plain) => plain,
                Err(_) => bounded(DeflateDecoder::new(&body[..]), most)?,
            },
            _ => return Err("the answer is in a coding that was not asked for".to_owned()),
        };
    }
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    Ok(body)
}

fn bounded(coded: impl Read, most: usize) -> Result<Bytes, String> {
    let mut plain = Vec::new();
    let read = coded.take(most as u64 + 1).read_to_end(&mut plain);
    read.map_err(|error| format!("the answer is not in the coding it names: {error}"))?;
    if plain.len() > most {
        return Err(format!("the answer is longer than {most} bytes"));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut coder = GzEncoder::new(Vec::new(), Compression::best());
        coder.write_all(plain).expect("written");
        coder.finish().expect("coded")
    }

    fn read(coding: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, coding.parse().expect("a value"));
        let plain = undone(&mut headers, Bytes::copy_from_slice(body), 1000)?;
        assert!(headers.is_empty());
        Ok(plain.to_vec())
    }

    #[test]
    fn each_coding_is_undone() {
        let plain = b"{\"code\":0}".to_vec();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&plain).expect("written");
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(&plain).expect("written");
        for (coding, body) in [
            ("gzip", gzip(&plain)),
            ("GZIP", gzip(&plain)),
            ("x-gzip", gzip(&plain)),
            ("gzip, gzip", gzip(&gzip(&plain))),
            ("identity", plain.clone()),
            ("deflate", zlib.finish().expect("coded")),
            ("deflate", raw.finish().expect("coded")),
        ] {
            assert_eq!(read(coding, &body), Ok(plain.clone()), "{coding}");
        }
        assert_eq!(read("gzip", b""), Ok(Vec::new()), "an answer without a body");
        assert_eq!(undone(&mut HeaderMap::new(), plain.clone().into(), 1000), Ok(Bytes::from(plain)));
    }

    #[test]
    fn a_body_that_grows_without_end_and_one_in_no_known_coding_are_refused() {
        assert!(read("gzip", &gzip(&vec![b' '; 1000])).is_ok());
        let longer = read("gzip", &gzip(&vec![b' '; 100_000_000])).expect_err("a bomb");
        assert!(longer.contains("longer than 1000"), "{longer}");
        assert!(read("gzip", b"{}").is_err());
        let plain = gzip(b"{\"code\":0}");
        assert!(read("gzip", &plain[..plain.len() / 2]).is_err(), "half of it");
        assert!(read("br", b"x").is_err());
        assert!(read("gzip, gzip, gzip, gzip", b"x").is_err());
    }
}
