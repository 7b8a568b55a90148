#!/bin/sh
# Puts the agent on a device over adb: install.sh [--serial S] [--config impush.toml]
#
# Needs a device whose /system can be written (userdebug, or `adb disable-verity` first); for others there is the
# Magisk module, and this says so. Installed again it keeps /data/misc/impush; `install.sh --remove` takes the agent
# away, `--purge` its state too. Never run on a device yet: its steps are tested against a stand-in for adb.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
serial= config= action=install
while [ $# -gt 0 ]; do
    case $1 in
        --serial) serial="-s $2"; shift 2 ;;
        --config) config=$2; shift 2 ;;
        --remove) action=remove; shift ;;
        --purge) action=purge; shift ;;
        *) echo "usage: install.sh [--serial S] [--config FILE | --remove | --purge]" >&2; exit 64 ;;
    esac
done
# shellcheck disable=SC2086
device() { adb $serial "$@"; }

# What a device does not know it may leave unanswered.
# shellcheck disable=SC2086
briefly() { timeout "$1" adb $serial $2 </dev/null >/dev/null 2>&1; }
briefly 8 root || true
briefly 60 wait-for-device || { echo "no device; see adb devices" >&2; exit 69; }
briefly 8 remount || true
if ! device shell "touch /system/.impush && rm /system/.impush" </dev/null >/dev/null 2>&1; then
    root=$(device shell "su -c 'magisk -v' 2>/dev/null || true" </dev/null | tr -d '\r')
    echo "/system cannot be written on this device." >&2
    if [ -n "$root" ]; then
        echo "It has Magisk $root: copy impush-VERSION-magisk.zip to it, then Magisk, Modules, Install from storage." >&2
    else
        echo "A userdebug build: adb root && adb disable-verity && adb reboot, and this again. Any other: Magisk, and impush-VERSION-magisk.zip." >&2
    fi
    exit 73
fi
if [ "$action" != install ]; then
    device shell "stop impush; rm -rf /system/bin/impush /system/etc/init/impush.rc /system/etc/impush"
    [ "$action" = remove ] || device shell "rm -rf /data/misc/impush"
    exit 0
fi
abi=$(device shell getprop ro.product.cpu.abi | tr -d '\r')
case $abi in
    arm64-v8a) binary=aarch64 ;;
    armeabi-v7a) binary=armv7 ;;
    x86_64) binary=x86_64 ;;
    *) echo "no agent for $abi" >&2; exit 69 ;;
esac
[ -f "$here/$binary/impush" ] || { echo "$here/$binary/impush is missing: build it first" >&2; exit 66; }
device shell "stop impush 2>/dev/null; mkdir -p /system/etc/impush /system/etc/init /data/misc/impush; chmod 700 /data/misc/impush; chown system:system /data/misc/impush 2>/dev/null; true"
device push "$here/$binary/impush" /system/bin/impush
device push "$here/impush.rc" /system/etc/init/impush.rc
[ -z "$config" ] || device push "$config" /system/etc/impush/impush.toml
device shell "chmod 755 /system/bin/impush; chmod 644 /system/etc/init/impush.rc; restorecon -R /system/bin/impush /data/misc/impush 2>/dev/null; start impush; true"
echo "installed for $abi; the service starts with the next boot if it did not now"
