#!/usr/bin/env bash
# Builds the agent as static programs, small: packaging/static.sh [x86_64 | aarch64 | armv7]...
#
# Needs zig and cargo-zigbuild (pip install ziglang; cargo install cargo-zigbuild): the agent's cryptography has C
# in it, and zig brings a C compiler and musl for every target. Where a target's standard library is not
# installed (rustup target add) it is built from the compiler's sources, if those are there.
set -euo pipefail
cd "$(dirname "$0")/.."
# The date of the source: an agent without a clock takes it for the earliest time there can be.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}
[ $# -gt 0 ] || set -- x86_64 aarch64 armv7
for architecture in "$@"; do
    case $architecture in
        x86_64 | aarch64) target=$architecture-unknown-linux-musl ;;
        armv7) target=armv7-unknown-linux-musleabihf ;;
        *) echo "$architecture? one of: x86_64 aarch64 armv7" >&2; exit 64 ;;
    esac
    more=()
    flags="${RUSTFLAGS:-} -C link-arg=-Wl,-T,$PWD/packaging/no-unwind-tables.ld"
    environment=("RUSTFLAGS=$flags")
    if [ ! -d "$("${RUSTC:-rustc}" --print target-libdir --target "$target")" ]; then
        more=(-Zbuild-std=std,panic_abort)
        # Its own start files are not installed either; zig's are used.
        environment=(RUSTC_BOOTSTRAP=1 "RUSTFLAGS=$flags -C link-self-contained=no")
    fi
    env "${environment[@]}" cargo zigbuild --profile device --no-default-features --bin impush --target "$target" "${more[@]}"
    install -D -m 755 "${CARGO_TARGET_DIR:-target}/$target/device/impush" "target/static/$architecture/impush"
    ls -l "target/static/$architecture/impush"
done
