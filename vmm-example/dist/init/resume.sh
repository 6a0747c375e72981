#!/bin/sh
# For a custom init: run this as soon as /proc, /sys, /dev and /run are mounted.
uptime=$(cut -d' ' -f1 /proc/uptime)
insmod /lib/modules/fdbox.ko
mkdir -p /run/vmm-example
vmm-example resume --all --init-uptime "$uptime" --report /run/vmm-example
