"""Tries the ways out of the sandbox, prints one line each: what was tried and what came of it."""

import ctypes
import errno
import os
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = {
    "x86_64": dict(clone=56, ptrace=101, setns=308, unshare=272, mount=165, bpf=321, io_uring_setup=425, clone3=435,
                   add_key=248, request_key=249, keyctl=250, pidfd_open=434, pidfd_getfd=438, socket=41),
    "aarch64": dict(clone=220, ptrace=117, setns=268, unshare=97, mount=40, bpf=280, io_uring_setup=425, clone3=435,
                    add_key=217, request_key=218, keyctl=219, pidfd_open=434, pidfd_getfd=438, socket=198),
}[os.uname().machine]


def call(name, *words, offset=0):
    ctypes.set_errno(0)
    words = [ctypes.c_char_p(w) if isinstance(w, bytes) else ctypes.c_long(w) for w in words]
    result = LIBC.syscall(ctypes.c_long(CALLS[name] + offset), *words)
    return "ok" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")


def attempt(work):
    try:
        work()
        return "ok"
    except OSError as error:
        return errno.errorcode.get(error.errno, "?")


def family(number, kind=socket.SOCK_DGRAM, protocol=0):
    return attempt(lambda: socket.socket(number, kind, protocol).close())


def say(what, result):
    print(f"{what}={result}", flush=True)


outside = int(sys.argv[1])
NEWUSER, NEWNET, NEWCGROUP, NEWNS, NEWTIME = 0x10000000, 0x40000000, 0x02000000, 0x00020000, 0x00000080

say("write-cgroup-procs", attempt(lambda: open("/sys/fs/cgroup/unified/cgroup.procs", "w").write(str(os.getpid()))))
say("write-cgroup-procs-v2", attempt(lambda: open("/sys/fs/cgroup/cgroup.procs", "w").write(str(os.getpid()))))
say("cgroup-files", sum("cgroup.procs" in files for _, _, files in os.walk("/sys")))
say("pins", sum(len(files) for _, _, files in os.walk("/sys/fs/bpf")))
say("unlink-pins", attempt(lambda: os.rmdir("/sys/fs/bpf/nameward")))
say("own-sockets", len(os.listdir("/run/nameward")))
say("mount-cgroup2", call("mount", b"none", b"/tmp", b"cgroup2", 0, 0))
say("mount-bpf", call("mount", b"none", b"/tmp", b"bpf", 0, 0))
say("umount", attempt(lambda: os.system("umount /sys/fs/cgroup 2>/dev/null") and (_ for _ in ()).throw(OSError(errno.EPERM, ""))))
say("bpf", call("bpf", 0, 0, 0))
for name, flag in [("user", NEWUSER), ("net", NEWNET), ("cgroup", NEWCGROUP), ("mount", NEWNS), ("time", NEWTIME)]:
    say(f"unshare-{name}", call("unshare", flag))
say("unshare-user-high-bits", call("unshare", NEWUSER | 1 << 32))
say("clone-user", call("clone", NEWUSER | 17, 0, 0, 0, 0))
say("clone3", call("clone3", 0, 0))
say("setns", attempt(lambda: None if call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0) == "ok"
                     else (_ for _ in ()).throw(OSError(errno.EPERM, ""))))
for name, number in [("packet", 17), ("vsock", 40), ("xdp", 44), ("alg", 38), ("bluetooth", 31), ("can", 29), ("smc", 43)]:
    say(f"socket-{name}", family(number))
say("socket-raw", family(socket.AF_INET, socket.SOCK_RAW, 1))
say("socket-obsolete-packet", family(socket.AF_INET, 10))
say("socket-mptcp", family(socket.AF_INET, socket.SOCK_STREAM, 262))
for name, number in [("unix", 1), ("inet", 2), ("inet6", 10)]:
    say(f"socket-{name}", family(number))
say("socket-netlink", family(16, socket.SOCK_RAW))
say("socket-x32", call("socket", 2, 2, 0, offset=0x40000000))
GROUP4 = socket.inet_aton("239.1.2.3") + socket.inet_aton("127.0.0.1")
GROUP6 = socket.inet_pton(socket.AF_INET6, "ff05::1234") + bytes(4)


def option(level, number, value):
    kind = socket.AF_INET6 if level == socket.IPPROTO_IPV6 else socket.AF_INET
    return attempt(lambda: socket.socket(kind, socket.SOCK_DGRAM).setsockopt(level, number, value))


say("join-group4", option(socket.IPPROTO_IP, 35, GROUP4))
say("join-source4", option(socket.IPPROTO_IP, 39, GROUP4 + GROUP4[4:]))
say("join-any-family", option(socket.IPPROTO_IP, 42, bytes(136)))
say("join-group6", option(socket.IPPROTO_IPV6, 20, GROUP6))
say("join-anycast6", option(socket.IPPROTO_IPV6, 27, GROUP6))
say("reuseport-cbpf", option(socket.SOL_SOCKET, 51, bytes(16)))
say("reuseport-ebpf", option(socket.SOL_SOCKET, 52, bytes(4)))
LOOPBACK = socket.if_nametoindex("lo")
for_many = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
say("broadcast", attempt(lambda: for_many.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)))
say("broadcast-is-on", for_many.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST))
say("device", option(socket.SOL_SOCKET, 25, b"lo"))
say("device-index", option(socket.SOL_SOCKET, 62, LOOPBACK))
say("link4", option(socket.IPPROTO_IP, 50, socket.htonl(LOOPBACK)))
say("link6", option(socket.IPPROTO_IPV6, 76, socket.htonl(LOOPBACK)))
say("packet-info6", option(socket.IPPROTO_IPV6, 50, bytes(16) + LOOPBACK.to_bytes(4, sys.byteorder)))
say("old-packet-info6", option(socket.IPPROTO_IPV6, 2, 1))
say("any-source4", option(socket.IPPROTO_IP, 15, 1))
say("any-source6", option(socket.IPPROTO_IPV6, 78, 1))
say("transparent4", option(socket.IPPROTO_IP, 19, 1))
say("transparent6", option(socket.IPPROTO_IPV6, 75, 1))
# A segment routing header towards 2001:db8::1, and a loose source route towards 192.0.2.1.
SEGMENTS = bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
say("route4", option(socket.IPPROTO_IP, 4, bytes([131, 7, 4]) + socket.inet_aton("192.0.2.1") + bytes(1)))
say("route6", option(socket.IPPROTO_IPV6, 57, SEGMENTS))
say("old-route6", option(socket.IPPROTO_IPV6, 5, bytes([1, 0, 0, 0])))
say("old-options6", option(socket.IPPROTO_IPV6, 6, bytes(32)))
say("upper-layer", option(socket.IPPROTO_TCP, 31, b"smc"))
say("io_uring", call("io_uring_setup", 8, 0))
say("add_key", call("add_key", b"user", b"nameward", b"x", 1, -3))
say("request_key", call("request_key", b"dns_resolver", b"denied.example", 0, -3))
say("keyctl", call("keyctl", 0, -3, 0))
say("pidfd-outside", call("pidfd_open", outside, 0))
say("ptrace-outside", call("ptrace", 16, outside, 0, 0))
say("ptrace-init", call("ptrace", 16, 1, 0, 0))
say("kill-outside", attempt(lambda: os.kill(outside, 0)))
say("processes", len([name for name in os.listdir("/proc") if name.isdigit() and int(name) > 2]))
say("core_pattern", attempt(lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/x")))
say("uevent_helper", attempt(lambda: open("/sys/kernel/uevent_helper", "w").write("/tmp/x")))
say("sysrq", attempt(lambda: open("/proc/sysrq-trigger", "w").write("?") if os.stat("/proc/sysrq-trigger").st_rdev == 0
                     else (_ for _ in ()).throw(OSError(errno.ENOENT, ""))))
say("tiocsti", ("ok" if LIBC.ioctl(0, 0x5412, b"x") == 0 else errno.errorcode.get(ctypes.get_errno(), "?")))
# TUNSETIFF, on a device that has no such request: what refuses it is not the device.
say("tunsetiff", ("ok" if LIBC.ioctl(0, 0x400454CA, 0) == 0 else errno.errorcode.get(ctypes.get_errno(), "?")))
