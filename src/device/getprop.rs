//! What `getprop` prints, `[name]: [value]`, as it comes from the tool and as it comes from the field: in UTF-16, with
//! line ends of another system or none, after other text.

/// Names and values in their order. Where there is none of that form, the lines `name=value` of a `build.prop`.
pub fn read(dump: &[u8]) -> Vec<(String, String)> {
    let text = decoded(dump);
    let starts: Vec<Start<'_>> = text.match_indices('[').filter_map(|(at, _)| Start::at(&text, at)).collect();
    if starts.is_empty() {
        return text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .filter(|(name, _)| is_name(name))
            .map(owned)
            .collect();
    }
    let ends = starts.iter().skip(1).map(|start| start.at).chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            // A value may run over lines and hold brackets; what follows the last one is not its own.
            let rest = text.get(start.value_at..end).unwrap_or_default();
            owned((
                start.name,
                rest.rfind(']').map_or_else(|| rest.trim(), |close| rest[..close].trim_matches(['\r', '\n'])),
            ))
        })
        .collect()
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Where a property begins.
struct Start<'a> {
    at: usize,
    name: &'a str,
    value_at: usize,
}

impl<'a> Start<'a> {
    fn at(text: &'a str, at: usize) -> Option<Self> {
        let after = text.get(at + 1..)?;
        let (name, rest) = after.split_at_checked(after.bytes().take_while(|b| is_of_name(*b)).count())?;
        let value = rest.strip_prefix("]:")?.trim_start().strip_prefix('[')?;
        is_name(name).then_some(Self { at, name, value_at: text.len() - value.len() })
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_of_name)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte)
}

fn decoded(dump: &[u8]) -> String {
    let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match dump {
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
        // Without a mark: the first character is ASCII either way.
        [_, 0, ..] => units(dump, u16::from_le_bytes),
        [0, _, ..] => units(dump, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(dump).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "* daemon started\n[ro.miui.ui.version.name]: [V12]\n[persist.note]: [two\nlines [x] ]\n[empty]: []\n";

    fn pairs(dump: &[u8]) -> Vec<(String, String)> {
        read(dump)
    }

    #[test]
    fn every_encoding_and_line_end_gives_the_same_properties() {
        let wanted: Vec<(String, String)> =
            [("ro.miui.ui.version.name", "V12"), ("persist.note", "two\nlines [x] "), ("empty", "")]
                .map(owned)
                .to_vec();
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        assert_eq!(pairs(TEXT.as_bytes()), wanted);
        assert_eq!(pairs(&utf16(&format!("\u{feff}{TEXT}"), u16::to_le_bytes)), wanted);
        assert_eq!(pairs(&utf16(&format!("\u{feff}{TEXT}"), u16::to_be_bytes)), wanted);
        assert_eq!(pairs(&utf16(TEXT, u16::to_le_bytes)), wanted);
        assert_eq!(pairs(format!("\u{feff}{TEXT}").as_bytes()), wanted);
    }

    #[test]
    fn lost_line_ends_lose_no_property() {
        for between in ["", " ", "\r\r\n", "\r"] {
            let text = ["[a.b]: [1]", "[c]: [[x]]", "[d]:[2]"].join(between);
            assert_eq!(pairs(text.as_bytes()), [("a.b", "1"), ("c", "[x]"), ("d", "2")].map(owned), "{between:?}");
        }
    }

    #[test]
    fn a_build_prop_is_taken_too_and_other_texts_hold_nothing() {
        assert_eq!(pairs(b"# c\nro.a=1\r\nro.b = x\n"), [("ro.a", "1")].map(owned));
        for text in ["", "hello", "[x]", "[[[[[[", "[a]: ["] {
            assert!(pairs(text.as_bytes()).iter().all(|(name, _)| name == "a"), "{text}");
        }
    }
}
