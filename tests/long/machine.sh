#!/usr/bin/env bash
# The .deb in a whole Debian machine under QEMU, behind its NAT, against a gateway here: installed, logged in,
# killed, rebooted, bound again, upgraded and purged. Takes some minutes; LAB (by default /opt/impush-lab) keeps
# the machine's image for the next time.
#
# Needs root, mmdebstrap, qemu-system-x86, e2fsprogs.
set -euo pipefail
cd "$(dirname "$0")/../.."
lab=${LAB:-/opt/impush-lab}/machine
# shellcheck source=tests/long/guest.sh
. tests/long/guest.sh

if [ ! -f "$lab/base.tar" ]; then
    mkdir -p "$lab"
    mmdebstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,iproute2,kmod,linux-image-cloud-amd64,procps,ca-certificates \
        bookworm "$lab/new.tar" "$mirror"
    mv "$lab/new.tar" "$lab/base.tar"
fi
mkdir "$work/root"
tar xf "$lab/base.tar" -C "$work/root"

start_gateway "$work/gateway"
root=$work/root
export IMPUSH=$bin/impush IMPUSH_GATEWAY=$bin/impush-gateway IMPUSH_LAB=$bin/impush-lab COMPRESSION=gzip
VERSION=0.1.0 packaging/build.sh --out "$root/root" deb >/dev/null
VERSION=0.1.1 packaging/build.sh --out "$root/root" deb >/dev/null
rm -f "$root"/root/impush-gateway*
gateway token --password-file "$home/password" ann >"$root/root/password"
cp "$ca" "$root/root/ca.pem"
agent_config /etc/impush/ca.pem >"$root/root/impush.toml"
echo '/dev/vda / ext4 rw,noatime 0 1' >"$root/etc/fstab"
echo lab >"$root/etc/hostname"
cat >"$root/etc/systemd/system/lab.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /root/lab.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=graphical.target multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../lab.service "$root/etc/systemd/system/multi-user.target.wants/lab.service"
sed -i 's/^After=.*/After=basic.target/' "$root/etc/systemd/system/lab.service"
# A login prompt would hang the console up.
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
cat >"$root/root/lab.sh" <<'LAB'
set -e
trap 'echo "LAB FAILED at line $LINENO"; journalctl -u impush --no-pager | tail -30' ERR
online() { for _ in $(seq 600); do impush status --json 2>/dev/null | grep -q '"state":"online"' && return 0; sleep 0.1; done; return 1; }
ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
if [ ! -f /root/second ]; then
    dpkg -i /root/impush_0.1.0_amd64.deb
    install -m 644 /root/ca.pem /etc/impush/ca.pem; cp /root/impush.toml /etc/impush/impush.toml; systemd-tmpfiles --create impush.conf
    systemctl start impush.socket impush
    impush login ann --password-file /root/password
    online; echo "LAB ONLINE $(systemctl show impush -p StatusText)"
    for _ in $(seq 600); do journalctl IMPUSH_EVENT=message.received -o cat | grep -q disk && break; sleep 0.1; done
    systemctl kill --kill-who=main -s KILL impush; sleep 1; online; echo "LAB BACK $(systemctl show impush -p NRestarts)"
    systemctl show impush -p MemoryCurrent -p TasksCurrent
    touch /root/second; rm /root/password; sync; systemctl reboot; exit 0
fi
online; echo "LAB REBOUND in $(cut -d' ' -f1 /proc/uptime) s of uptime"
was=$(cat /var/lib/impush/identity.json)
dpkg -i --force-confold /root/impush_0.1.1_amd64.deb; online
[ "$(cat /var/lib/impush/identity.json)" = "$was" ]; impush doctor
echo "LAB WARNINGS $(journalctl _COMM=impush -p warning -b -o cat | wc -l)"
dpkg -P impush; [ ! -e /var/lib/impush ]; [ ! -e /etc/impush/impush.toml ]
echo LAB DONE; sync; systemctl poweroff
LAB
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd"
mkfs.ext4 -q -F -d "$root" -L root "$work/disk.img" 1500M

boot() {
    machine qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 768 -smp 2 -nographic -no-reboot -kernel "$work/vmlinuz" -initrd "$work/initrd" \
        -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no net.ifnames=0 mitigations=off" \
        -drive "file=$work/disk.img,format=raw,if=virtio" -netdev user,id=n -device virtio-net-pci,romfile=,netdev=n
}
boot
until_line 1 'LAB ONLINE'
gateway send ann 'hello, machine' >/dev/null
until_line 1 'LAB BACK'
wait "$machine" || true
boot
until_line 1 'LAB DONE'
grep -a 'LAB ' "$console"
grep -aq 'LAB WARNINGS 0' "$console" || fail "a healthy run logs no warning"
echo "the machine was installed, killed, rebooted, bound again, upgraded and purged"
