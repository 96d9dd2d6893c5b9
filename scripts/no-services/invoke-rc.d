#!/bin/sh
# Stands before Debian's invoke-rc.d and deb-systemd-invoke: no service is started.
exit 0
