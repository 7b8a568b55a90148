//! What the documents say of the vendors is what the registry says, and nobody but a vendor's own files names it.

use impush::vendors::Vendor;
use impush::vendors::certificate::{Field, Form, Need};
use impush::vendors::ext::Object;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn fields(vendor: Vendor, need: impl Fn(Need) -> bool) -> impl Iterator<Item = &'static Field> {
    vendor.cloud().fields.iter().filter(move |field| need(field.need))
}

/// One row a vendor.
fn vendors() -> String {
    let mut out = "| vendor | | certificate's name | under the plugin's key | fields it needs |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for vendor in Vendor::ORDER {
        let facts = vendor.facts();
        let mut needed = vec![listed(fields(vendor, |need| need == Need::Always).map(|field| field.name))];
        for field in fields(vendor, |need| matches!(need, Need::Without(_))) {
            let Need::Without(other) = field.need else { continue };
            let with = listed(fields(vendor, |need| need == Need::With(other)).map(|field| field.name));
            needed.push(format!("`{}`, or `{other}` with {with}", field.name));
        }
        needed.retain(|text| !text.is_empty());
        let (title, key) = (facts.title, facts.certificate_key);
        out += &format!("| {vendor} | {title} | {} | `{key}` | {} |\n", facts.certificate_name, needed.join(", "));
    }
    out
}

/// One table a vendor.
fn all_fields() -> String {
    let mut out = String::new();
    for vendor in Vendor::ORDER {
        let facts = vendor.facts();
        out += &format!(
            "## {}\n\nName: {}.\n\n| field | | holds | |\n| --- | --- | --- | --- |\n",
            facts.title, facts.certificate_name
        );
        for field in vendor.cloud().fields {
            let need = match field.need {
                Need::Always => "needed".to_owned(),
                Need::With(other) => format!("needed with `{other}`"),
                Need::Without(other) => format!("needed without `{other}`"),
                Need::Never => String::new(),
            };
            let holds = match field.form {
                Form::Text => "one line".to_owned(),
                Form::Word => "ASCII without spaces".to_owned(),
                Form::Id => "letters, digits, `-_.:`".to_owned(),
                Form::OneOf(all) => listed(all.iter().copied()),
                Form::Key(_) => "a PEM private key (PKCS #8)".to_owned(),
            };
            let secret = if field.secret { ", secret" } else { "" };
            out += &format!("| `{}` | {need} | {holds}{secret} | {} |\n", field.name, field.place);
        }
        out += "\n";
        for Object { name, fields } in facts.cloud.ext_objects {
            let all = fields.iter().map(|field| format!("`{}` ({})", field.name, field.holds.says()));
            out += &format!("In a message's `{name}`: {}.\n", all.collect::<Vec<_>>().join(", "));
        }
        let receipts = if facts.cloud.receipts.is_some() { "It sends receipts." } else { "It sends no receipts." };
        let hosts = facts.cloud.hosts.iter().map(|host| format!("`vendors.{}` ({})", host.key, host.url));
        out += &format!("\n{receipts} Hosts: {}.\n\n", hosts.collect::<Vec<_>>().join(", "));
    }
    out
}

fn recognition() -> String {
    let mut out = "| channel | properties of its ROM | brands | also sold by |\n| --- | --- | --- | --- |\n".to_owned();
    for vendor in Vendor::ORDER {
        let rom = vendor.rom();
        let marks = listed(rom.marks.iter().chain(rom.fallback).copied());
        let (names, guests) = (rom.names.join(", "), rom.guests.join(", "));
        out += &format!("| {vendor} | {marks} | {names} | {guests} |\n");
    }
    out
}

#[test]
fn the_documents_tables_are_the_registrys() {
    for (file, name, table) in [
        ("README.md", "vendors", vendors()),
        ("docs/vendors.md", "fields", all_fields()),
        ("docs/vendors.md", "recognition", recognition()),
    ] {
        let path = root().join(file);
        let text = std::fs::read_to_string(&path).expect("read");
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = text.split_once(&begin).expect("the table's beginning");
        let (current, after) = rest.split_once(&end).expect("the table's end");
        let table = format!("\n{}\n\n", table.trim());
        if std::env::var_os("IMPUSH_WRITE_TABLES").is_some() {
            std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).expect("written");
        } else {
            assert!(current == table, "{file}: write it anew with IMPUSH_WRITE_TABLES=1; it should say{table}");
        }
    }
}

#[test]
fn the_packaged_configuration_has_every_vendors_key() {
    let text = std::fs::read_to_string(root().join("packaging/etc/impush.toml")).expect("read");
    for key in Vendor::ORDER.map(Vendor::certificate_key) {
        assert!(text.contains(&format!("# {key} = ")), "{key}");
    }
}

fn files(path: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).expect("listed") {
        let path = entry.expect("an entry").path();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => files(&path, out),
            Some("rs" | "json" | "sql") => out.push(path),
            _ => {}
        }
    }
}

/// Without tests and the names of properties, which are their makers', and of the original API's one field.
fn told(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default().replace("em_apns_ext", "");
    let is_property = |part: &str| {
        part.contains('.') && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._".contains(&b))
    };
    text.split('"').filter(|part| !is_property(part)).collect::<Vec<_>>().join(" ").to_ascii_lowercase()
}

#[test]
fn nobody_but_a_vendors_own_files_and_the_registry_names_it() {
    let mut all = Vec::new();
    files(&root().join("src"), &mut all);
    let mut wrong = Vec::new();
    for file in all {
        let place = file.strip_prefix(root()).expect("below the root").display().to_string();
        if place == "src/vendors/registry.rs" || place.contains("/tests/") || place.ends_with("/tests.rs") {
            continue;
        }
        let text = told(&std::fs::read_to_string(&file).expect("read"));
        let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        for vendor in Vendor::ORDER {
            let own = [format!("src/vendors/{vendor}/"), format!("src/lab/cloud/{vendor}.rs")];
            let names = [vendor.as_str().to_owned(), vendor.certificate_key().to_ascii_lowercase()];
            if !own.iter().any(|own| place.starts_with(own)) && names.iter().any(|name| words.contains(&name.as_str()))
            {
                wrong.push(format!("{place}: {vendor}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} names of vendors outside their own files:\n{}", wrong.len(), wrong.join("\n"));
}
