#!/bin/sh
# Stands before Debian's update-rc.d: init scripts are registered, but switched off.
if [ "${2-}" = defaults ]; then
    set -- "$1" defaults-disabled
fi
exec /usr/sbin/update-rc.d "$@"
