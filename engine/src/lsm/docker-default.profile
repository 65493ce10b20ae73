# What containers of Skep run in unless they are told otherwise. The namespaces, the capabilities and the seccomp
# filter say what a container may do; this keeps the host's settings out of its reach by another lock.

profile docker-default flags=(attach_disconnected,mediate_deleted) {
  # Its own affairs.
  file,
  capability,
  network,
  umount,

  # Among themselves, and by whoever looks after them.
  signal (receive),
  signal (send) peer=docker-default,
  ptrace (read, trace) peer=docker-default,
  ptrace (readby, tracedby),

  # Nothing is mounted, whatever its capabilities are.
  deny mount,

  # The kernel's settings and switches: only processes' own directories (which begin with a digit, or are self and
  # thread-self), their views of the network, and the settings of shared memory are its own.
  deny /proc/* wl,
  deny /proc/{[^0-9st]**,scsi,sysvipc,tty}/** wl,
  deny /proc/sys/[^k]** wl,
  deny /proc/sys/kernel/{[^s],s[^h],sh[^m]}** wl,
  deny /proc/{kcore,keys,kmem,mem,sysrq-trigger,timer_list} rwlk,

  # Devices, firmware and the kernel's insides by /sys; cgroups are judged by who owns them.
  deny /sys/[^f]** wl,
  deny /sys/f[^s]** wl,
  deny /sys/fs/[^c]** wl,
  deny /sys/fs/c[^g]** wl,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwlk,
}
