#!/bin/busybox sh
# First program of the virtual machine: this machine's own files, written to memory only, below another kernel.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in /modules/*.ko; do $b insmod "$module"; done
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "$options,cache=loose,ro" root /lower
$b mount -t tmpfs -o mode=755 rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work new /new
for folder in run mnt; do $b mount -t tmpfs "$folder" "/new/$folder"; done
$b mkdir -p /new/run/job /new/run/lock
$b mount -t 9p -o "$options,cache=none" job /new/run/job
exec $b switch_root /new /bin/sh /run/job/start
