#!/usr/bin/env bash
# An Android-like device under QEMU with the static agent as a service of its init, against a gateway here:
#
#   tests/long/android.sh [x86_64 | aarch64]...
#
# The guest has Android's partitions and paths, getprop and properties for root alone, an init that starts the service
# as packaging/android/impush.rc says (uid 1000, its capabilities, no standard streams), netd's resolver in place of
# resolv.conf, logd, netd's tables and rules for two networks, no libc, and QEMU's NAT. It is booted, logged in, sent a
# message, its agent killed, sent another, moved from one network to the other with its first address gone, sent a
# third, rebooted, and sent a fourth without logging in again. What cannot be shown so: bionic, SELinux, Doze, binder.
#
# netd and logd are the lab's: a static impush-lab beside the agent in target/static/ARCH (for this machine:
# RUSTFLAGS="-C target-feature=+crt-static" cargo build --bin impush-lab --target x86_64-unknown-linux-gnu).
# Needs the static agents (packaging/static.sh), qemu-system-x86, qemu-system-arm, cpio, kmod, e2fsprogs, and
# Debian's packages for kernels and busybox. LAB (by default /opt/impush-lab) keeps those for the next time.
set -euo pipefail
cd "$(dirname "$0")/../.."
lab=${LAB:-/opt/impush-lab}
# shellcheck source=tests/long/guest.sh
. tests/long/guest.sh
[ $# -gt 0 ] || set -- x86_64 aarch64

# parts ARCH: kernel, modules and busybox of that architecture below $lab/ARCH.
parts() {
    local debian=$1 place=$lab/android-$1 kernel options
    [ ! -f "$place/done" ] || return 0
    mkdir -p "$place"/{lists/partial,cache/archives/partial,debs,root}
    echo "deb [trusted=yes] $mirror bookworm main" >"$place/sources.list"
    options=(-qq -o "APT::Architecture=$debian" -o "APT::Architectures=$debian" -o "Dir::State::lists=$place/lists" -o "Dir::State::status=/dev/null"
        -o "Dir::Cache=$place/cache" -o Dir::Etc::SourceParts=/dev/null -o "Dir::Etc::SourceList=$place/sources.list")
    apt-get "${options[@]}" update
    kernel=$(apt-cache "${options[@]}" depends "linux-image-cloud-$debian" | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -1)
    (cd "$place/debs" && apt-get "${options[@]}" download "$kernel" busybox-static)
    for package in "$place"/debs/*.deb; do dpkg -x "$package" "$place/root"; done
    touch "$place/done"
}

# modules PLACE INTO NAME...: kernel modules with what they need, numbered in the order they load.
modules() {
    local from=$1 into=$2 number=10 name
    shift 2
    declare -A seen=()
    add() {
        local module=${1//-/_} file need
        [ -z "${seen[$module]:-}" ] || return 0
        seen[$module]=1
        file=$(find "$from" -name "$module.ko" -o -name "${module//_/-}.ko" | head -1)
        [ -n "$file" ] || return 0
        for need in $(modinfo -F depends "$file" | tr , ' '); do add "$need"; done
        cp "$file" "$into/$number-$module.ko"
        number=$((number + 1))
    }
    for name; do add "$name"; done
}

# tree ROOT PLACE AGENT: the guest's file system.
tree() {
    local root=$1 place=$2 agent=$3 applet
    mkdir -p "$root"/{system/{bin,etc/{init,impush},lib/modules},vendor,product/etc,odm,data,dev,proc,sys,mnt}
    ln -s /system/etc "$root/etc"
    ln -s /system/bin "$root/bin"
    cp "$place/root/bin/busybox" "$root/system/bin/busybox"
    for applet in sh ls cat ps mount umount ip ifconfig route uname date id kill pidof sleep grep sed head mkdir chmod chown echo insmod poweroff setsid tr awk env; do
        ln -s busybox "$root/system/bin/$applet"
    done
    install -m 755 "$(dirname "$agent")/impush-lab" "$root/system/bin/impush-lab"
    ${CC:-cc} -O1 -static -o "$root/system/bin/service" tests/long/service.c
    install -m 755 "$agent" "$root/system/bin/impush"
    install -m 644 packaging/android/impush.rc "$root/system/etc/init/"
    printf 'ro.build.version.release=14\nro.build.version.sdk=34\n' >"$root/system/build.prop"
    chmod 600 "$root/system/build.prop"
    printf 'ro.product.product.manufacturer=Xiaomi\nro.product.product.brand=Redmi\nro.product.product.model=Redmi K30 Pro\n' >"$root/product/etc/build.prop"
    printf 'ro.miui.ui.version.name=V12\nro.miui.ui.version.code=10\n' >"$root/vendor/build.prop"
    cat >"$root/system/bin/getprop" <<'PROP'
#!/system/bin/sh
all() { cat /system/build.prop /product/etc/build.prop /vendor/build.prop; }
if [ $# = 0 ]; then all | sed 's/^\([^=]*\)=\(.*\)$/[\1]: [\2]/'; else all | sed -n "s/^$1=//p"; fi
PROP
    # As much of Android's init as the service needs: on, mkdir, service, setenv, restart_period.
    cat >"$root/init" <<'INIT'
#!/system/bin/busybox sh
export PATH=/system/bin ANDROID_ROOT=/system ANDROID_DATA=/data
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /system/lib/modules/*.ko; do insmod "$m"; done
mount -t ext4 /dev/vda /data
mkdir -p /dev/socket /sys/power
ip link set lo up; ip link set eth0 name wlan0; ip link set eth1 name rmnet0
# As netd keeps them: a table a network, no default route in `main`, and a rule for everybody's.
for at in "wlan0 10.0.2 1002" "rmnet0 10.0.3 1003"; do
    set -- $at; ip link set "$1" up; ip addr add "$2.15/24" dev "$1"; ip route add default via "$2.2" dev "$1" table "$3"
done
ip rule add from all lookup 1002 pref 31000
impush-lab trouble dnsproxyd --socket /dev/socket/dnsproxyd --name push.example=10.0.2.2 --name push.example=10.0.3.2 >/dev/null &
(impush-lab trouble logdw | while read -r line; do echo "logcat: $line"; done) &
until [ -S /dev/socket/logdw ] && [ -S /dev/socket/dnsproxyd ]; do sleep 0.1; done
chmod 666 /dev/socket/dnsproxyd
# A kernel without wake locks has files in their place.
[ -e /sys/power/wake_lock ] || { mount -t tmpfs power /sys/power; : >/sys/power/wake_lock; : >/sys/power/wake_unlock; }
chown 1000:3010 /sys/power/wake_lock /sys/power/wake_unlock; chmod 660 /sys/power/wake_lock /sys/power/wake_unlock
rc=/system/etc/init/impush.rc
sed -n 's/^ *mkdir \([^ ]*\) \([0-7]*\).*/\1 \2/p' $rc | while read -r place mode; do mkdir -p "$place"; chmod "$mode" "$place"; chown -R 1000:1000 "$place"; done
for pair in $(sed -n 's/^ *setenv \([^ ]*\) \([^ ]*\).*/\1=\2/p' $rc); do export "$pair"; done
command=$(sed -n 's/^service impush //p' $rc)
period=$(sed -n 's/^ *restart_period //p' $rc)
ip addr | sed "s/^/net: /"; ip rule | sed "s/^/net: /"
echo "BOOT_COMPLETED $(getprop ro.product.product.manufacturer)"
impush detect | sed 's/^/detect: /'
# system; inet, wakelock, readproc; CAP_WAKE_ALARM, CAP_BLOCK_SUSPEND (android_filesystem_config.h, linux/capability.h).
(while :; do service 1000 3003,3010,3009 35,36 $command; echo "service impush ended; again in $period s"; sleep "$period"; done) &
. /system/etc/lab.rc
INIT
    cat >"$root/system/etc/lab.rc" <<'LAB'
until impush status >/dev/null 2>&1; do sleep 0.2; done
grep -q '"user"' /data/misc/impush/login.json 2>/dev/null || impush login ann --password-file /system/etc/impush/password
# The watcher ends with the agent; another takes its place.
while :; do
    impush watch --json 2>&1 | while read -r message; do
        echo "message: $message"
        case $message in
            *kill-me*)
                [ -f /dev/killed ] || kill -9 "$(ps | awk '/impush run/ && !/awk/ { print $1; exit }')"
                echo >/dev/killed
                ;;
            *move-on*)
                [ -f /dev/moved ] || { ip addr flush dev wlan0; ip rule add from all lookup 1003 pref 30999; ip rule del from all lookup 1002 pref 31000; echo MOVED; }
                echo >/dev/moved
                ;;
            *power-off*) echo GUEST_OFF; sleep 1; poweroff -f ;;
        esac
    done
    sleep 1
done
LAB
    chmod 755 "$root/init" "$root/system/bin/getprop"
}

guest() {
    local architecture=$1 image=$2 data=$3 place=$4 kernel
    kernel=$(ls "$place"/root/boot/vmlinuz-* | head -1)
    case $architecture in
        x86_64) set -- qemu-system-x86_64 -accel tcg,thread=multi -cpu max; tty=ttyS0 ;;
        aarch64) set -- qemu-system-aarch64 -M virt -accel tcg,thread=multi -cpu cortex-a53; tty=ttyAMA0 ;;
    esac
    machine "$@" -smp 2 -m 512 -nographic -no-reboot -kernel "$kernel" -initrd "$image" \
        -append "console=$tty quiet loglevel=3 rdinit=/init net.ifnames=0 mitigations=off panic=-1" \
        -netdev user,id=n -device virtio-net-pci,romfile=,netdev=n \
        -netdev user,id=m,net=10.0.3.0/24,host=10.0.3.2,dns=10.0.3.3 -device virtio-net-pci,romfile=,netdev=m -drive "file=$data,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d
}

for architecture; do
    case $architecture in
        x86_64) debian=amd64 ;;
        aarch64) debian=arm64 ;;
        *) echo "$architecture? x86_64 or aarch64" >&2; exit 64 ;;
    esac
    agent=target/static/$architecture/impush
    [ -f "$agent" ] || { echo "$agent is missing: packaging/static.sh $architecture" >&2; exit 66; }
    parts "$debian"
    place=$lab/android-$debian
    : >"$console"
    start_gateway "$work/$architecture"
    tree "$home/root" "$place" "$agent"
    modules "$place/root/lib/modules" "$home/root/system/lib/modules" virtio_pci virtio_net virtio_blk crc32c_generic ext4
    gateway token --password-file "$home/password" ann >"$home/root/system/etc/impush/password"
    cp "$ca" "$home/root/system/etc/impush/ca.pem"
    agent_config /system/etc/impush/ca.pem | sed 's/10\.0\.2\.2/push.example/' >"$home/root/system/etc/impush/impush.toml"
    printf '[keep_alive]\nwake_device = true\n' >>"$home/root/system/etc/impush/impush.toml"
    # As a package installs them: everybody may read them, but for the password.
    chmod 644 "$home/root/system/etc/impush/"{ca.pem,impush.toml}
    (cd "$home/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$home/image.gz"
    mkfs.ext4 -q -F "$home/data.img" 32M

    guest "$architecture" "$home/image.gz" "$home/data.img" "$place"
    until_line 1 BOOT_COMPLETED
    until_line 1 'detect: channel *xiaomi'
    until_line 1 'event=link.up'
    gateway send ann 'please kill-me' >/dev/null
    until_line 1 'message: .*kill-me'
    until_line 1 'service impush ended'
    until_line 2 'event=link.up'
    until_line 1 'event=names.source.*source=netd'
    gateway send ann 'please move-on' >/dev/null
    until_line 1 'MOVED'
    until_line 3 'event=link.up'
    gateway send ann 'now power-off' >/dev/null
    until_line 1 GUEST_OFF
    wait "$machine" || true
    # The same device again: its login and its binding are on /data.
    cp "$console" "$console.first"
    : >"$console"
    guest "$architecture" "$home/image.gz" "$home/data.img" "$place"
    until_line 1 'event=link.up'
    grep -q 'event=login.stored' "$console" && fail "it had to log in again"
    gateway send ann 'after the reboot' >/dev/null
    until_line 1 'message: .*after the reboot'
    grep -q 'logcat: E ' "$console" "$console.first" && fail "an error was logged"
    kill "$machine"
    moved=$(sed -n '/MOVED/,$p' "$console.first" | sed -n 's/.*ts=\([^ ]*\) .*event=link\.\(down\|up\).*/\2 \1/p' | head -2 | tr '\n' ' ')
    echo "$architecture: booted, served, killed, served, moved ($moved), served, rebooted, served; $(grep -c 'logcat: ' "$console.first") log lines"
done
