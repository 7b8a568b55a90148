#!/usr/bin/env bash
# Builds the packages: packaging/build.sh [--out DIR] [KIND...]
#
#   deb rpm      agent and gateway for this machine's architecture
#   tar          static agents with OpenRC, procd and systemd files, one archive an architecture
#   ipk          static agents for OpenWrt
#   android      static agents in an Android layout, with the script that installs them over adb, and as a Magisk
#                module for devices whose /system cannot be written
#
# Without KIND: deb, rpm where rpmbuild is there, and the others for every static agent that was built
# (packaging/static.sh). Programs given by IMPUSH, IMPUSH_GATEWAY and IMPUSH_LAB are packed as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/packages
kinds=()
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        deb | rpm | tar | ipk | android) kinds+=("$1"); shift ;;
        *) echo "$1? one of: deb rpm tar ipk android" >&2; exit 64 ;;
    esac
done
if [ "${#kinds[@]}" = 0 ]; then
    kinds=(deb tar ipk android)
    command -v rpmbuild >/dev/null && kinds+=(rpm)
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
has() { [[ " ${kinds[*]} " == *" $1 "* ]]; }

# The date of the source: an agent without a clock takes it for the earliest time there can be.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}

if has deb || has rpm; then
    if [ -z "${IMPUSH:-}" ]; then
        cargo build --profile device --no-default-features
        IMPUSH=target/device/impush
    fi
    if [ -z "${IMPUSH_GATEWAY:-}" ] || [ -z "${IMPUSH_LAB:-}" ]; then
        cargo build --release
        IMPUSH_GATEWAY=target/release/impush-gateway IMPUSH_LAB=target/release/impush-lab
    fi
    "$IMPUSH_LAB" manual "$work/manual"
fi

# tree ROOT PROGRAM BINARY CONFIG PRESET: the files of one package; with PRESET `yes` for rpm, whose scripts ask it.
tree() {
    local root=$1 program=$2 binary=$3 config=$4 preset=$5 unit
    install -D -m 755 "$binary" "$root/usr/bin/$program"
    [ "${STRIP:-yes}" = no ] || strip "$root/usr/bin/$program" 2>/dev/null || true
    for unit in service socket; do
        [ -f "systemd/$program.$unit" ] || continue
        install -D -m 644 "systemd/$program.$unit" "$root/usr/lib/systemd/system/$program.$unit"
        # The same words serve as the template for agents with a name of their own.
        [ "$program" != impush ] || install -m 644 "systemd/$program.$unit" "$root/usr/lib/systemd/system/$program@.$unit"
    done
    install -D -m 644 "systemd/$program.sysusers" "$root/usr/lib/sysusers.d/$program.conf"
    install -D -m 644 "systemd/$program.tmpfiles" "$root/usr/lib/tmpfiles.d/$program.conf"
    [ "$preset" = no ] || install -D -m 644 "systemd/$program.preset" "$root/usr/lib/systemd/system-preset/85-$program.preset"
    install -D -m 640 "packaging/etc/$config" "$root/etc/impush/$config"
    local page
    for page in "$work/manual/man/$program".1 "$work/manual/man/$program"-*.1; do
        # The gateway's pages begin like the agent's.
        [ -f "$page" ] && { [ "$program" != impush ] || [[ $(basename "$page") != impush-gateway* && $(basename "$page") != impush-lab* ]]; } || continue
        install -D -m 644 "$page" "$root/usr/share/man/man1/$(basename "$page")"
        gzip -9nf "$root/usr/share/man/man1/$(basename "$page")"
    done
    install -D -m 644 "$work/manual/completions/bash/$program.bash" "$root/usr/share/bash-completion/completions/$program"
    install -D -m 644 "$work/manual/completions/zsh/_$program" "$root/usr/share/zsh/vendor-completions/_$program"
    install -D -m 644 "$work/manual/completions/fish/$program.fish" "$root/usr/share/fish/vendor_completions.d/$program.fish"
    install -D -m 644 LICENSE "$root/usr/share/doc/$program/copyright"
    if [ "$program" = impush ]; then
        install -D -m 644 docs/logs.md "$root/usr/share/doc/impush/logs.md"
        install -D -m 644 docs/control.md "$root/usr/share/doc/impush/control.md"
        install -D -m 755 packaging/examples/client.py "$root/usr/share/doc/impush/examples/client.py"
        install -D -m 755 packaging/examples/client.mjs "$root/usr/share/doc/impush/examples/client.mjs"
        install -D -m 644 packaging/examples/impush-enrol.service "$root/usr/share/doc/impush/examples/impush-enrol.service"
    fi
}

describe() {
    case $1 in
        impush) echo "keeps this device reachable: vendor push or a kept-alive connection" ;;
        impush-gateway) echo "delivers messages to devices and vendor push clouds" ;;
    esac
}

check() {
    case $1 in
        impush) echo '/usr/bin/impush --name="$1" config check' ;;
        impush-gateway) echo '/usr/bin/impush-gateway check' ;;
    esac
}

units() { if [ "$1" = impush ]; then echo "impush.socket impush.service"; else echo "$1.service"; fi; }

# script NAME PROGRAM: one of the scripts that run when a package comes and goes.
script() {
    sed -e '/^@RESTART@$/{r packaging/scripts/restart.sh' -e 'd}' "packaging/scripts/$1" |
        sed -e "s|@CHECK@|$(check "$2")|" -e "s|@UNITS@|$(units "$2")|" -e "s|@PROGRAM@|$2|g"
}

deb() {
    local program=$1 binary=$2 config=$3 root=$work/deb-$1
    tree "$root" "$program" "$binary" "$config" no
    mkdir -p "$root/DEBIAN"
    cat >"$root/DEBIAN/control" <<END
Package: $program
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: impush developers <impush@localhost>
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Depends: libc6, systemd, init-system-helpers (>= 1.54)
Recommends: ca-certificates
Section: net
Priority: optional
Description: $(describe "$program")
 See impush(1) and the files in /usr/share/doc/$program.
END
    echo "/etc/impush/$config" >"$root/DEBIAN/conffiles"
    local name
    for name in preinst postinst prerm postrm; do
        script "deb.$name" "$program" >"$root/DEBIAN/$name"
        chmod 755 "$root/DEBIAN/$name"
    done
    dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" -b "$root" "$out/${program}_${version}_$(dpkg --print-architecture).deb" >/dev/null
    echo "$out/${program}_${version}_$(dpkg --print-architecture).deb"
}

rpm() {
    local program=$1 binary=$2 config=$3 root=$work/rpm-$1
    tree "$root" "$program" "$binary" "$config" yes
    (cd "$root" && find . -type f -o -type l) | sed 's/^\.//' | while read -r file; do
        case $file in
            /etc/*) echo "%config(noreplace) %attr(640,root,root) $file" ;;
            *) echo "$file" ;;
        esac
    done >"$work/$program.files"
    cat >"$work/$program.spec" <<END
Name: $program
Version: $version
Release: 1
Summary: $(describe "$program")
License: Apache-2.0
AutoReqProv: no
Requires: systemd
%description
$(describe "$program"). See impush(1).
%install
cp -a "$root"/. %{buildroot}/
%files -f $work/$program.files
%post
$(script rpm.post "$program" | sed s/%/%%/g)
%preun
$(script rpm.preun "$program" | sed s/%/%%/g)
%postun
$(script rpm.postun "$program" | sed s/%/%%/g)
END
    rpmbuild -bb --quiet --define "_topdir $work/rpm" --define "_rpmdir $out" --define '_build_name_fmt %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm' \
        --define 'debug_package %{nil}' --define '__os_install_post %{nil}' "$work/$program.spec"
    ls "$out/$program-$version"-*.rpm
}

# The static agents there are, as ARCHITECTURE:FILE.
static() {
    local architecture file
    for architecture in x86_64 aarch64 armv7; do
        file=target/static/$architecture/impush
        [ ! -f "$file" ] || echo "$architecture:$file"
    done
}

archive() {
    local architecture=$1 binary=$2 name=impush-$version-linux-$1-static root unit
    root=$work/tar/$name
    install -D -m 755 "$binary" "$root/impush"
    install -D -m 755 packaging/openrc/impush "$root/openrc/impush"
    install -D -m 755 packaging/openwrt/impush.init "$root/openwrt/impush.init"
    install -d "$root/systemd" "$root/examples"
    install -m 644 systemd/impush.* "$root/systemd/"
    for unit in service socket; do install -m 644 "systemd/impush.$unit" "$root/systemd/impush@.$unit"; done
    install -m 755 packaging/examples/client.* "$root/examples/"
    install -m 644 packaging/examples/*.rules packaging/examples/*.service "$root/examples/"
    install -m 644 packaging/etc/impush.toml LICENSE README.md docs/logs.md "$root/"
    tar -C "$work/tar" --owner=0 --group=0 -czf "$out/$name.tar.gz" "$name"
    echo "$out/$name.tar.gz"
}

ipk() {
    local architecture=$1 binary=$2 root=$work/ipk-$1 data
    data=$root/data
    install -D -m 755 "$binary" "$data/usr/bin/impush"
    install -D -m 755 packaging/openwrt/impush.init "$data/etc/init.d/impush"
    install -D -m 600 packaging/etc/impush.toml "$data/etc/impush/impush.toml"
    mkdir -p "$root/control"
    cat >"$root/control/control" <<END
Package: impush
Version: $version-1
Architecture: $(case $architecture in armv7) echo arm_cortex-a7 ;; aarch64) echo aarch64_generic ;; *) echo "$architecture" ;; esac)
Maintainer: impush developers <impush@localhost>
Section: net
Depends: ca-bundle
Description: $(describe impush)
END
    printf '/etc/impush/\n' >"$root/control/conffiles"
    script ipk.postinst impush >"$root/control/postinst"
    script ipk.prerm impush >"$root/control/prerm"
    chmod 755 "$root"/control/postinst "$root"/control/prerm
    echo 2.0 >"$root/debian-binary"
    tar -C "$data" --owner=0 --group=0 -czf "$root/data.tar.gz" .
    tar -C "$root/control" --owner=0 --group=0 -czf "$root/control.tar.gz" .
    tar -C "$root" --owner=0 --group=0 -czf "$out/impush_$version-1_$architecture.ipk" ./debian-binary ./control.tar.gz ./data.tar.gz
    echo "$out/impush_$version-1_$architecture.ipk"
}

# magisk AGENTS: the module, with every agent there is.
magisk() {
    local root=$work/magisk meta architecture code
    meta=$root/META-INF/com/google/android
    mkdir -p "$meta"
    install -m 755 packaging/android/magisk/update-binary "$meta/"
    echo '#MAGISK' >"$meta/updater-script"
    code=$(echo "$version" | awk -F. '{ print $1 * 10000 + $2 * 100 + $3 }')
    sed -e "s/@VERSION@/$version/" -e "s/@CODE@/$code/" packaging/android/magisk/module.prop >"$root/module.prop"
    install -m 755 packaging/android/magisk/*.sh "$root/"
    install -m 600 packaging/etc/impush.toml "$root/"
    for architecture in x86_64 aarch64 armv7; do
        [ ! -f "$1/$architecture/impush" ] || install -D -m 755 "$1/$architecture/impush" "$root/$architecture/impush"
    done
    rm -f "$out/impush-$version-magisk.zip"
    (cd "$root" && zip -q -r -X "$out/impush-$version-magisk.zip" .)
    echo "$out/impush-$version-magisk.zip"
}

if has deb; then deb impush "$IMPUSH" impush.toml; deb impush-gateway "$IMPUSH_GATEWAY" gateway.toml; fi
if has rpm; then rpm impush "$IMPUSH" impush.toml; rpm impush-gateway "$IMPUSH_GATEWAY" gateway.toml; fi
for one in $(static); do
    if has tar; then archive "${one%%:*}" "${one#*:}"; fi
    if has ipk; then ipk "${one%%:*}" "${one#*:}"; fi
    if has android; then install -D -m 755 "${one#*:}" "$work/android/impush-android/${one%%:*}/impush"; fi
done
if has android && [ -d "$work/android" ]; then
    install -m 644 packaging/android/impush.rc packaging/android/file_contexts packaging/android/impush.te packaging/etc/impush.toml "$work/android/impush-android/"
    install -m 755 packaging/android/install.sh "$work/android/impush-android/"
    tar -C "$work/android" --owner=0 --group=0 -czf "$out/impush-$version-android.tar.gz" impush-android
    echo "$out/impush-$version-android.tar.gz"
    if command -v zip >/dev/null; then
        magisk "$work/android/impush-android"
    else
        echo "zip is not installed: no Magisk module" >&2
    fi
fi
