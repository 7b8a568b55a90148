# Sourced by Magisk when the module is installed (topjohnwu.github.io/Magisk, "Developer Guides"): ARCH, MODPATH,
# abort, ui_print and set_perm are its own.
case $ARCH in
    arm64) from=aarch64 ;;
    arm) from=armv7 ;;
    x64) from=x86_64 ;;
    *) abort "no agent for $ARCH" ;;
esac
[ -f "$MODPATH/$from/impush" ] || abort "this module was packed without an agent for $ARCH"
mkdir -p "$MODPATH/system/bin"
mv "$MODPATH/$from/impush" "$MODPATH/system/bin/impush"
rm -rf "$MODPATH/aarch64" "$MODPATH/armv7" "$MODPATH/x86_64"
set_perm "$MODPATH/system/bin/impush" 0 2000 0755

# /system cannot be written, so the configuration lies with the state, and an update leaves both alone.
data=${IMPUSH_DATA:-/data/misc/impush}
mkdir -p "$data/state"
chmod 700 "$data" "$data/state"
if [ -f "$data/impush.toml" ]; then
    rm -f "$MODPATH/impush.toml"
else
    mv "$MODPATH/impush.toml" "$data/impush.toml"
    chmod 600 "$data/impush.toml"
    ui_print "configure it in $data/impush.toml, then reboot"
fi
