//! What a package does to a service that an operator has touched: installed over an older one, removed, installed
//! again, rebooted and purged, while it is stopped, disabled, masked, broken, named or kept from its port.

mod support;

use std::path::Path;
use support::guest::{Guest, must, package};
use support::{has, skipped};

const BOTH: &str = "impush.socket impush.service";

/// What systemd says of units, one word each.
fn says(guest: &Guest, verb: &str, units: &str) -> String {
    guest.ok(&format!("systemctl {verb} {units} || true")).replace('\n', " ")
}

fn install(guest: &Guest, program: &str, version: &str) -> String {
    let said =
        guest.ok(&format!("dpkg -i --force-confold --force-unsafe-io /root/packages/{program}_{version}_*.deb 2>&1"));
    assert!(guest.ok(&format!("dpkg -s {program}")).contains("Status: install ok installed"), "{said}");
    said
}

fn pid(guest: &Guest, unit: &str) -> String {
    guest.ok(&format!("systemctl show -p MainPID --value {unit}"))
}

/// This tree's programs with the scripts and units of an older package.
fn older(packages: &Path, program: &str, units: &[&str]) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/packages-0.1.0").join(program);
    let (at, from) = (packages.display(), fixture.display());
    let units: String = units.iter().map(|unit| format!("cp {from}/{unit} x/usr/lib/systemd/system/; ")).collect();
    must(&format!(
        "set -e; cd {at}; rm -rf x; dpkg-deb -R {program}_0.2.0_*.deb x; rm -f x/DEBIAN/preinst x/usr/lib/systemd/system/*@.*; \
         for s in postinst prerm postrm; do cp {from}/$s x/DEBIAN/; chmod 755 x/DEBIAN/$s; done; {units} \
         sed -i 's/^Version: .*/Version: 0.1.0/' x/DEBIAN/control; \
         dpkg-deb --root-owner-group -Znone -b x {program}_0.1.0_all.deb >/dev/null; rm -r x"
    ));
}

/// A configuration that an agent can start with; nobody answers at its server.
fn configure(guest: &Guest, name: &str) {
    let text = "[server]\nurl = 'mqtts://127.0.0.1:1'\napp = 'org#app'\nca_file = '/etc/impush/ca.pem'\n";
    let at = guest.root.join("etc/impush");
    std::fs::write(at.join(format!("{name}.toml")), text).expect("written");
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    std::fs::write(at.join("ca.pem"), key.cert.pem()).expect("written");
    guest.ok("systemd-tmpfiles --create impush.conf");
}

#[test]
fn packages_leave_services_as_their_operator_left_them() {
    let test = "packages_leave_services_as_their_operator_left_them";
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mut guest) = Guest::new(test, dir.path()) else { return };
    let packages = guest.root.join("root/packages");
    package(&packages, "0.2.0", true);
    older(&packages, "impush", &["impush.service", "impush.socket"]);
    older(&packages, "impush-gateway", &["impush-gateway.service"]);
    guest.boot();

    upgrades(&guest);
    removals(&mut guest);
    named(&guest);
    starts(&guest);
    purges(&guest);
    gateway(&guest);
    if has("rpmbuild") {
        rpm(&guest);
    } else {
        skipped(test, "the rpm: rpmbuild is not there");
    }
    guest.power_off();
}

fn upgrades(guest: &Guest) {
    install(guest, "impush", "0.1.0");
    configure(guest, "impush");
    guest.ok(&format!("systemctl start {BOTH}"));
    let (device, before) = (guest.ok("cat /var/lib/impush/identity.json"), pid(guest, "impush"));
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-enabled", BOTH), "enabled enabled");
    assert_eq!(says(guest, "is-active", BOTH), "active active");
    assert_ne!(pid(guest, "impush"), before, "what runs goes over to the new program");
    assert_eq!(guest.ok("cat /var/lib/impush/identity.json"), device);

    guest.ok("dpkg -P impush");
    install(guest, "impush", "0.1.0");
    configure(guest, "impush");
    guest.ok(&format!("systemctl start {BOTH}; systemctl disable --now {BOTH}"));
    for _ in 0..2 {
        install(guest, "impush", "0.2.0");
        assert_eq!(says(guest, "is-enabled", BOTH), "disabled disabled", "as its operator left it");
        assert_eq!(says(guest, "is-active", BOTH), "inactive inactive");
    }
    guest.ok(&format!("systemctl enable {BOTH}"));
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-enabled", BOTH), "enabled enabled");
    assert_eq!(says(guest, "is-active", BOTH), "inactive inactive", "stopped is stopped");

    guest.ok(&format!("systemctl start {BOTH}"));
    let running = pid(guest, "impush");
    for (breaks, mends, named) in [
        ("echo 'nonsense = 1' >>/etc/impush/impush.toml", "sed -i /nonsense/d /etc/impush/impush.toml", "nonsense"),
        ("mv /etc/impush/ca.pem /root", "mv /root/ca.pem /etc/impush", "ca.pem"),
    ] {
        guest.ok(breaks);
        let said = install(guest, "impush", "0.2.0");
        guest.ok(mends);
        if named == "ca.pem" && !said.contains("left as it is") {
            // Whether `config check` looks into the files it names is its own matter; the agent waits for this one.
            assert_eq!(says(guest, "is-active", BOTH), "active active");
            guest.ok("systemctl reload impush");
            guest.until("start", |guest| guest.run("impush status").status.success());
            continue;
        }
        assert!(said.contains("impush.service is left as it is") && said.contains(named), "{said}");
        assert_eq!(pid(guest, "impush"), running, "the old one runs on");
    }

    guest.ok("echo 'nonsense = 1' >>/etc/impush/impush.toml; systemctl restart impush.service || true");
    assert_eq!(says(guest, "is-active", "impush.service"), "failed");
    guest.ok("sed -i /nonsense/d /etc/impush/impush.toml");
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-active", BOTH), "active active", "nobody had stopped it");

    let running = pid(guest, "impush");
    guest.ok("systemctl mask impush.service");
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-enabled", "impush.service"), "masked");
    assert_eq!(pid(guest, "impush"), running);
    guest.ok("systemctl unmask impush.service");
    guest.ok("dpkg -P impush");
}

fn removals(guest: &mut Guest) {
    // By the older package's own scripts, which disabled what they removed.
    install(guest, "impush", "0.1.0");
    configure(guest, "impush");
    guest.ok(&format!("systemctl start {BOTH}; dpkg -r impush"));
    let device = guest.ok("cat /var/lib/impush/identity.json");
    for _ in 0..2 {
        install(guest, "impush", "0.2.0");
        assert_eq!(says(guest, "is-enabled", BOTH), "enabled enabled");
        assert_eq!(says(guest, "is-active", BOTH), "active active");
        guest.ok("dpkg -r impush");
        assert_eq!(says(guest, "is-active", BOTH), "inactive inactive");
    }
    install(guest, "impush", "0.2.0");
    guest.power_off();
    guest.boot();
    assert_eq!(says(guest, "is-enabled", BOTH), "enabled enabled");
    assert_eq!(says(guest, "is-active", BOTH), "active active", "the device is there again after a boot");
    assert_eq!(guest.ok("cat /var/lib/impush/identity.json"), device);

    guest.ok(&format!("systemctl disable {BOTH}; dpkg -r impush"));
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-enabled", BOTH), "disabled disabled", "a removal forgets no operator's word");
    assert_eq!(says(guest, "is-active", BOTH), "inactive inactive");
    guest.ok(&format!("systemctl enable {BOTH}; systemctl mask impush.service; dpkg -r impush"));
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-enabled", BOTH), "enabled masked");
    guest.ok(&format!("systemctl unmask impush.service; systemctl restart {BOTH}"));
}

/// Two agents side by side.
fn named(guest: &Guest) {
    configure(guest, "impush@work");
    let four = "impush.socket impush.service impush@work.socket impush@work.service";
    guest.ok("systemctl enable --now impush@work.socket impush@work.service");
    assert_eq!(says(guest, "is-active", four), "active active active active");
    let device = |name: &str| {
        let text = guest.ok(&format!("impush --name={name} status --json"));
        let status: serde_json::Value = serde_json::from_str(&text).expect("a status");
        status["device_id"].as_str().expect("an id").to_owned()
    };
    assert_ne!(device(""), device("work"), "each has a state of its own");
    guest.ok("test -s '/var/lib/impush@work/identity.json'");
    guest.ok("echo secret >/root/password; impush --name work login ann --password-file /root/password --no-wait");
    assert!(guest.ok("impush --name work status --json").contains("\"ann\""));
    assert!(!guest.ok("impush status --json").contains("\"ann\""));
    let before = (pid(guest, "impush"), pid(guest, "impush@work"));
    install(guest, "impush", "0.2.0");
    assert_eq!(says(guest, "is-active", four), "active active active active");
    assert_ne!(pid(guest, "impush"), before.0);
    assert_ne!(pid(guest, "impush@work"), before.1);
    guest.ok(&format!("systemctl stop {BOTH}"));
    assert!(guest.ok("impush --name work status --json").contains("\"ann\""), "one needs not the other");
    assert_eq!(guest.run("impush --name other status").status.code(), Some(69));
    guest.ok(&format!("systemctl start {BOTH}"));
}

/// Starts of the service so far in this boot.
fn started(guest: &Guest) -> usize {
    guest
        .ok("journalctl --sync; journalctl -b -u impush.service -o cat | grep -c '^Starting ' || true")
        .parse()
        .expect("a number")
}

fn starts(guest: &Guest) {
    // What may pass is waited for, and told; the service stays.
    guest.ok("mv /etc/impush/ca.pem /root; systemctl restart impush.service");
    guest.until("reason", |guest| {
        let asked = guest.run("impush status");
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        asked.status.code() == Some(69) && said.contains("cannot start") && said.contains("/etc/impush/ca.pem")
    });
    assert!(guest.ok("systemctl show -p StatusText impush").contains("cannot start"));
    guest.ok("mv /root/ca.pem /etc/impush; systemctl reload impush");
    guest.until("start", |guest| guest.run("impush status").status.success());
    assert_eq!(guest.ok("systemctl show -p NRestarts --value impush"), "0");

    // What only an edit mends ends it; who asks hears why, however often, and afterwards finds it again.
    guest.ok("echo 'nonsense = 1' >>/etc/impush/impush.toml; systemctl restart impush.service || true");
    assert_eq!(says(guest, "is-active", BOTH), "active failed");
    let before = started(guest);
    for _ in 0..30 {
        let asked = guest.run("impush --config /dev/null status");
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(said.contains("nonsense"), "{said}");
    }
    let caused = started(guest) - before;
    assert!((1..=30).contains(&caused), "{caused} starts");
    assert_eq!(says(guest, "is-active", "impush.socket"), "active");
    guest.ok("impush --config /dev/null status || true");
    guest.ok("sed -i /nonsense/d /etc/impush/impush.toml; systemctl start impush.service; impush status");

    // A program that dies at once and answers nobody: a question is a start, not a loop of them.
    let unit = "/run/systemd/system/impush.service.d";
    guest.ok(&format!("mkdir -p {unit}; printf '[Service]\nExecStart=\nExecStart=/bin/sh -c \"exit 78\"\n' >{unit}/x.conf; systemctl daemon-reload; systemctl restart impush.service || true"));
    let before = started(guest);
    for _ in 0..30 {
        assert!(!guest.run("impush status").status.success());
    }
    let caused = started(guest) - before;
    assert!((1..=30).contains(&caused), "{caused} starts for 30 questions");
    assert_eq!(says(guest, "is-active", "impush.socket"), "active", "the socket stays");
    guest.ok(&format!("rm -r {unit}; systemctl daemon-reload; systemctl start impush.service"));
    assert_eq!(says(guest, "is-active", BOTH), "active active", "no limit is in the way");
}

fn purges(guest: &Guest) {
    guest.ok("dpkg -r impush; mv /var/lib/impush /root/state; ln -s /root/state /var/lib/impush; test -s /root/state/identity.json");
    guest.ok("dpkg -P impush");
    assert_eq!(guest.ok("ls -A /root/state"), "", "nothing is left behind a link");
    assert_eq!(guest.ok("ls -d /var/lib/impush@* /etc/systemd/system/*.wants/impush* 2>/dev/null || true"), "");
    guest.ok("rm /var/lib/impush; mkdir -m 700 /var/lib/impush; mount -t tmpfs state /var/lib/impush");
    install(guest, "impush", "0.2.0");
    configure(guest, "impush");
    guest.ok(&format!("systemctl start {BOTH}; test -s /var/lib/impush/identity.json; dpkg -P impush"));
    assert_eq!(guest.ok("ls -A /var/lib/impush"), "");
    guest.ok("mountpoint -q /var/lib/impush; umount /var/lib/impush");
    assert!(!guest.run("dpkg -s impush").status.success(), "purged is purged");
}

fn gateway(guest: &Guest) {
    let answers = |guest: &Guest| guest.run("curl -sf http://127.0.0.1:8680/readyz").status.success();
    install(guest, "impush-gateway", "0.1.0");
    guest.until("gateway", answers);
    guest.ok("systemctl disable --now impush-gateway");
    install(guest, "impush-gateway", "0.2.0");
    assert_eq!(says(guest, "is-enabled", "impush-gateway"), "disabled");
    assert_eq!(says(guest, "is-active", "impush-gateway"), "inactive");
    guest.ok("dpkg -P impush-gateway");

    guest.ok("systemd-run -q --unit=taken systemd-socket-activate -l 8883 /bin/cat");
    guest.until("another broker", |guest| guest.run("ss -ltn | grep -q :8883").status.success());
    let said = install(guest, "impush-gateway", "0.2.0");
    assert!(said.contains("does not start"), "{said}");
    assert_eq!(says(guest, "is-enabled", "impush-gateway"), "enabled");
    guest.ok("systemctl stop taken");
    guest.until("gateway, once the port is free", answers);
    guest.ok("systemctl mask impush-gateway");
    install(guest, "impush-gateway", "0.2.0");
    guest.ok("systemctl unmask impush-gateway; dpkg -P impush-gateway");
}

fn rpm(guest: &Guest) {
    let put = |how: &str| guest.ok(&format!("rpm {how} --nodeps /root/packages/impush-0.2.0-1.*.rpm 2>&1"));
    put("-i");
    assert_eq!(says(guest, "is-enabled", BOTH), "enabled enabled");
    configure(guest, "impush");
    guest.ok(&format!("systemctl start {BOTH}"));
    let before = pid(guest, "impush");
    put("-U --force");
    assert_ne!(pid(guest, "impush"), before);
    guest.ok(&format!("systemctl disable --now {BOTH}"));
    put("-U --force");
    assert_eq!(says(guest, "is-enabled", BOTH), "disabled disabled");
    assert_eq!(says(guest, "is-active", BOTH), "inactive inactive");
    guest.ok("systemctl mask impush.service");
    put("-U --force");
    assert_eq!(says(guest, "is-enabled", "impush.service"), "masked");
    guest.ok("systemctl unmask impush.service; rpm -e impush");
    guest.ok("mv /etc/impush/impush.toml.rpmsave /etc/impush/impush.toml");
    put("-i");
    assert_eq!(says(guest, "is-enabled", BOTH), "enabled enabled");
    assert_eq!(says(guest, "is-active", BOTH), "active active");
    guest.ok("rpm -e impush");
}

/// A router's package scripts, with a service of ours in place of procd's.
struct Router {
    dir: tempfile::TempDir,
}

impl Router {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display();
        let service = format!(
            "#!/bin/sh\nset -e\ncase $1 in enable) : >{at}/enabled ;; disable) rm -f {at}/enabled ;; stop) rm -f {at}/running ;; \
             restart) : >{at}/running; echo >>{at}/restarts ;; running) test -e {at}/running ;; esac\n"
        );
        for (name, text) in [("service", service.as_str()), ("impush", "#!/bin/sh\nexit 0\n")] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        }
        Self { dir }
    }

    fn run(&self, script: &str, upgrade: bool) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/scripts").join(script);
        let at = self.dir.path().display();
        let text = std::fs::read_to_string(file).expect("read").replace("/etc/init.d/impush", &format!("{at}/service"));
        let text =
            text.replace("/usr/bin/impush", &format!("{at}/impush")).replace("/tmp/impush.was", &format!("{at}/was"));
        must(&format!("PKG_UPGRADE={}; {text}", u8::from(upgrade)));
    }

    fn operator(&self, word: &str) {
        must(&format!("{}/service {word}", self.dir.path().display()));
    }

    fn is(&self, word: &str) -> bool {
        self.dir.path().join(word).exists()
    }
}

#[test]
fn a_routers_package_leaves_its_service_as_its_operator_left_it() {
    let router = Router::new();
    router.run("ipk.postinst", false);
    assert!(router.is("enabled") && router.is("running"));
    router.run("ipk.prerm", true);
    router.run("ipk.postinst", true);
    assert!(router.is("enabled") && router.is("running"));
    assert_eq!(std::fs::read(router.dir.path().join("restarts")).expect("read").len(), 2, "over to the new program");
    router.operator("stop");
    router.operator("disable");
    router.run("ipk.prerm", true);
    router.run("ipk.postinst", true);
    assert!(!router.is("enabled") && !router.is("running"));
    router.run("ipk.prerm", false);
    router.run("ipk.postinst", false);
    assert!(router.is("enabled") && router.is("running"), "a new installation");
    // An older package's script stopped and disabled the service in an upgrade, too.
    router.operator("stop");
    router.operator("disable");
    router.run("ipk.postinst", true);
    assert!(router.is("enabled") && router.is("running"));
}

#[test]
fn procd_is_given_each_agent_with_a_place_of_its_own_and_without_a_last_try() {
    let dir = tempfile::tempdir().expect("a directory");
    let (at, file) =
        (dir.path().display(), Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/openwrt/impush.init"));
    let text = std::fs::read_to_string(file).expect("read").replace("/etc/impush", &format!("{at}/etc"));
    let text = text.replace("/var/run", &format!("{at}/run")).replace("/usr/bin/impush ", "impush ");
    must(&format!("mkdir {at}/etc; : >{at}/etc/impush@work.toml; : >{at}/etc/impush@bad.toml"));
    let said = must(&format!(
        "impush() {{ [ \"$1\" != --name=bad ]; }}\n\
         for f in procd_open_instance procd_set_param procd_close_instance; do eval \"$f() {{ echo $f \\\"\\$@\\\"; }}\"; done\n\
         {text}\nstart_service; echo failed=$?"
    ));
    for word in [
        "procd_open_instance impush\n",
        "command impush --name= run --retry=always\n",
        "procd_open_instance work\n",
        "command impush --name=work run --retry=always\n",
        &format!("STATE_DIRECTORY={at}/etc/state RUNTIME_DIRECTORY={at}/run/impush\n"),
        &format!("STATE_DIRECTORY={at}/etc/state@work RUNTIME_DIRECTORY={at}/run/impush@work\n"),
        "respawn 60 5 0\n",
        "failed=1",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("procd_open_instance bad"), "one that cannot start keeps no other from it: {said}");
}
