# What runs goes over to the new program, what had failed is tried once more, what an administrator stopped stays
# stopped. A service whose configuration the new program refuses keeps running as it is. No service's state fails a
# package.
restart_services() {
    systemctl list-units --all --plain --no-legend '@PROGRAM@.service' '@PROGRAM@@*.service' |
        while read -r unit load active rest; do
            [ "$load" = loaded ] || continue
            case $active in
                active | activating | reloading) action=try-restart ;;
                failed) systemctl --quiet is-enabled "$unit" && action=start || continue ;;
                *) continue ;;
            esac
            name=${unit#@PROGRAM@}
            name=${name#@}
            if ! why=$(check "${name%.service}" 2>&1); then
                echo "$unit is left as it is: $why" >&2
                continue
            fi
            [ "$action" = try-restart ] || systemctl reset-failed "$unit" || true
            manage "$action" "$unit" || echo "$unit does not start; \`systemctl status $unit\` says why" >&2
        done || true
}
