"""Mutants of what the programs leave alone, and of the frame around what they change."""

from __future__ import annotations

from bpf.mutations.mutant import SOURCE, mutants

MUTANTS = mutants(
    SOURCE,
    # What is left alone.
    ("first fragments", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0x1fff"),
    ("later fragments", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0x2000"),
    ("reserved bit", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0xbfff"),
    ("don't fragment", "#define IPV4_FRAGMENT 0x3fff", "#define IPV4_FRAGMENT 0x7fff"),
    ("IP options", "ip->version_length != 0x45 ||", "(ip->version_length & 0xf0) != 0x40 ||"),
    ("IP version", "ip->version_length != 0x45 ||", "(ip->version_length & 0x0f) != 0x05 ||"),
    ("IPv6 version", "bpf_ntohl(ip->version) >> 28 != 6 ||", ""),
    ("IPv4 protocol", "|| ip->protocol != PROTOCOL_TCP", ""),
    ("IPv6 next header", "|| ip->next != PROTOCOL_TCP", ""),
    ("mapped addresses", "if (is_mapped(ip->source) || is_mapped(ip->destination))", "if (0)"),
    ("IPv4 cut off", "|| ETHERNET_HEADER + total > packet->skb->len", ""),
    (
        "IPv4 cut off by one",
        "ETHERNET_HEADER + total > packet->skb->len",
        "ETHERNET_HEADER + total > packet->skb->len + 1",
    ),
    ("IPv6 cut off", "if (ETHERNET_HEADER + IPV6_HEADER + payload > packet->skb->len)", "if (0)"),
    ("IPv4 total too short", "if (total < IPV4_HEADER || ", "if ("),
    (
        "low data offset",
        "if (length < TCP_HEADER || length > size)\n\t\treturn;\n\tnow",
        "if (length > size)\n\t\treturn;\n\tnow",
    ),
    (
        "data offset too high",
        "if (length < TCP_HEADER || length > size)\n\t\treturn;\n\tnow",
        "if (length < TCP_HEADER)\n\t\treturn;\n\tnow",
    ),
    (
        "padding left alone",
        "ETHERNET_HEADER + total > packet->skb->len",
        "ETHERNET_HEADER + total != packet->skb->len",
    ),
    (
        "IPv6 padding left alone",
        "IPV6_HEADER + payload > packet->skb->len",
        "IPV6_HEADER + payload != packet->skb->len",
    ),
    ("VLAN", "if (skb->vlan_present)", "if (0)"),
    ("IPv6 left alone", "else if (skb->protocol == bpf_htons(0x86dd))", "else if (0)"),
    ("sides swapped", "return from(skb, CLIENT);", "return from(skb, SERVER);"),
    # The frame.
    *(
        (f"{name}{at.strip()}", f"{at}, 0, difference, 0);", f"{at}, 0, {then});")
        for at in (
            "\n\tbpf_l4_csum_replace(skb, packet->tcp_at + CHECKSUM_AT",
            "bpf_l4_csum_replace(packet->skb, packet->tcp_at + CHECKSUM_AT",
        )
        for name, then in (
            ("checksum not updated: ", "0, 0"),
            ("pseudo-header updated: ", "difference, BPF_F_PSEUDO_HDR"),
        )
    ),
    ("mark overwritten", "\tskb->mark |= MARK_TRANSLATED;", "\tskb->mark = MARK_TRANSLATED;"),
    ("not marked", "\tskb->mark |= MARK_TRANSLATED;", ""),
    (
        "other filters not asked",
        "from_ipv6(&packet);\n\treturn TC_ACT_UNSPEC;",
        "from_ipv6(&packet);\n\treturn TC_ACT_OK;",
    ),
)
