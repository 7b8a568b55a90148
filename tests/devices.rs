//! Every row of the device table is detected as its row says. The rows come from public dumps and
//! lists; each names its source.

use impush::device::detect;
use std::path::Path;

/// The parts of one CSV line, with quoted fields.
fn fields(line: &str) -> Vec<String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    out.push(field);
    out
}

/// Lays a row out as a device would: generic values in `/system`, the maker's where makers put them.
fn tree_of(row: &[String]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let write = |path: &str, lines: &[String]| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, lines.join("\n")).expect("written");
    };
    let line = |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name}={value}") };
    write(
        "system/build.prop",
        &[
            "ro.product.system.brand=qti".into(),
            "ro.product.system.manufacturer=QUALCOMM".into(),
            "ro.build.version.release=12".into(),
        ],
    );
    write(
        "product/etc/build.prop",
        &[
            line("ro.product.product.manufacturer", &row[2]),
            line("ro.product.product.brand", &row[3]),
            line("ro.product.product.model", &row[4]),
        ],
    );
    if !row[5].is_empty() && !row[5].starts_with('(') {
        write("vendor/build.prop", &[line(&row[5], &row[6])]);
    }
    dir
}

fn detected(root: &Path) -> String {
    detect(Some(root)).expect("a profile").channel.map_or("none", |vendor| vendor.as_str()).to_owned()
}

#[test]
fn every_row_of_the_device_table_gives_its_channel() {
    let table = include_str!("fixtures/devices.csv");
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in table.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let row = fields(line);
        rows += 1;
        // Whether Google's services are there no row says, and without them such a device has no channel; a remark
        // in brackets is for people.
        let wanted = match row[7].split_whitespace().next().unwrap_or_default() {
            "fcm" | "none/fcm" => "none",
            channel => channel,
        };
        let found = detected(tree_of(&row).path());
        if found != wanted {
            wrong.push(format!("row {} {}: wanted {wanted}, found {found}", row[0], row[1]));
        }
    }
    assert!(rows >= 40, "the table has {rows} rows");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
