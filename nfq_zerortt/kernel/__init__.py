"""All that talks to Linux: packet queue, raw sending, iptables rules, what the kernel offers."""
