#!/bin/busybox sh
# PID 1 of the virtual machine: makes of it a machine as systemd would leave it, runs /tests one after
# another, reports each to the second serial port, and turns the machine off.
export PATH=/usr/bin:/bin HOME=/root TERM=linux

if [ "$1" != again ]; then
    /bin/busybox --install -s /bin
    # pivot_root(2), which containers need, does not work on the kernel's first root: this is a second.
    mount --bind / /mnt && cd /mnt && mount --move . / && exec chroot . /init again
fi

cd /
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,size=80% tmpfs /tmp
mount -t tmpfs -o nosuid,nodev tmpfs /run
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
# No process is in the root group, nor in one that has others below it.
mkdir -p /sys/fs/cgroup/init.scope
echo 1 > /sys/fs/cgroup/init.scope/cgroup.procs
hostname vm
ip link set lo up
/sbin/modprobe zram && echo 512M > /sys/block/zram0/disksize && mkswap /dev/zram0 > /dev/null && swapon /dev/zram0
# A disk: this kernel's tmpfs knows no id-mapped mounts.
disk=/dev/zram$(cat /sys/class/zram-control/hot_add)
echo 256M > "/sys/block/${disk#/dev/}/disksize"
mkdir -p /var/tmp
mke2fs -b 4096 "$disk" > /dev/null && mount -t ext4 "$disk" /var/tmp
# A kernel that is in trouble ends; qemu with it.
echo 1 > /proc/sys/kernel/panic_on_oops

if grep -q skep.shell /proc/cmdline; then
    echo "The tests are in /tests; poweroff -f (or ctrl-A x) ends the machine."
    setsid cttyhack sh
    poweroff -f
fi

while read -r name group command; do
    echo "=== $name"
    start=$(cut -d. -f1 /proc/uptime)
    mkdir -p "/sys/fs/cgroup/$group"
    (
        sh -c 'echo $PPID' > "/sys/fs/cgroup/$group/cgroup.procs"
        eval "exec $command"
    ) < /dev/null
    status=$?
    echo "=== $name ended with $status after $(($(cut -d. -f1 /proc/uptime) - start)) s"
    echo "$name $status" > /dev/ttyS1
done < /tests
sync
poweroff -f
