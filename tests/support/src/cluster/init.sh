# The first process of a machine of a test cluster. It makes the machine's mounts, and then waits and reaps.
set -e
# The number that others know us by, from the /proc that we come from.
read -r outer rest < /proc/self/stat
mount -t proc proc /proc
mount --make-rshared /
# What others keep alive by a mount must not live on because of ours.
awk '$3 == "nsfs" { print $2 }' /proc/mounts | while read -r one; do umount -l "$one" || true; done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/log /run/processes /run/stand-ins
mount --bind /run/log /var/log
# Container runtime, CNI and kubelet keep things below it, at paths that cannot be changed.
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t bpf bpf /sys/fs/bpf
# kubelet sets these, which are the whole machine's. It finds them set.
stand_in() {
    file=/run/stand-ins/$(echo "$1" | tr / .)
    echo "$2" > "$file"
    mount --bind "$file" "/proc/sys/$1"
}
stand_in vm/overcommit_memory 1
stand_in vm/panic_on_oom 0
stand_in kernel/panic 10
stand_in kernel/panic_on_oops 1
stand_in kernel/keys/root_maxkeys 1000000
stand_in kernel/keys/root_maxbytes 25000000
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo "$outer" > "$1/init.new"
mv "$1/init.new" "$1/init"
trap : TERM INT HUP
while :; do
    sleep 86400 &
    wait $! || true
done
