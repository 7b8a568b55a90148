#!/system/bin/sh
# Run by Magisk when the module is removed: the login and the tokens go with it.
rm -rf "${IMPUSH_DATA:-/data/misc/impush}"
