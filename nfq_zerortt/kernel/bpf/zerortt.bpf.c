// SPDX-License-Identifier: MIT
/*
 * The kernel data path: renumbers the segments of flows that were handed over to it.
 *
 * It sits at the ingress of both interfaces, in front of netfilter. A segment of a flow in the map
 * is rewritten just as nfq_zerortt/core/direction.py does it (that is the reference, and a test
 * compares the two byte for byte) and marked, so that the iptables rules let it by. Whatever is not
 * understood here goes on untouched and unmarked, and so comes to the process through the queue.
 *
 * The entry of a flow is all there is of it: numbers, counts, how far both sides have come. So a
 * flow needs no process to live, and another process can go on with it.
 *
 * Two programs, because the side that a packet comes from says who of its ends is the client.
 * The verdict is always TC_ACT_UNSPEC: filters of others are asked, too.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "zerortt.h"

#define ETHERNET_HEADER 14
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER 20
#define TCP_LONGEST 60
#define PROTOCOL_TCP 6

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_SACK 5
#define OPTION_TIMESTAMPS 8
#define TIMESTAMPS_LENGTH 10
#define USUAL_OPTIONS 0x0101080a	/* NOP, NOP, timestamps: RFC 7323, appendix A */
#define WITH_TIMESTAMPS (TCP_HEADER + 12)

#define CHECKSUM_AT 16
#define HALF 0x80000000u
#define SLACK 65536u		/* as in direction.py */
#define FIN_SLACK 64240u	/* negotiation.DEFAULT_WINDOW: what stream.py allows beyond the window */
#define IPV4_FRAGMENT 0x3fff

/* Taken from struct iphdr, ipv6hdr and tcphdr without their bit fields; network order. */
struct ipv4 {
	__u8 version_length;
	__u8 service;
	__be16 total;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6 {
	__be32 version;
	__be16 payload;
	__u8 next;
	__u8 hops;
	__u8 source[16];
	__u8 destination[16];
};

struct tcp {
	__be16 source;
	__be16 destination;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

/* The layout is in the maps' names: a process never goes on with maps of another one. */
#define JOINED(name, layout) name##_##layout
#define NAMED(name, layout) JOINED(name, layout)
#define FLOWS NAMED(flows, LAYOUT)
#define HANDLED NAMED(handled, LAYOUT)
#define ENDINGS NAMED(endings, LAYOUT)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);	/* the loader says how many */
	__type(key, struct flow_key);
	__type(value, struct flow);
} FLOWS SEC(".maps");

/* The process writes here, by memory, how much of what was left to it is done. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HANDLED_SLOTS);
	__type(key, __u32);
	__type(value, struct handled);
} HANDLED SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, ENDINGS_BYTES);
} ENDINGS SEC(".maps");

/* The options of nearly every segment. */
struct timestamps {
	__be32 kinds;
	__be32 tsval;
	__be32 tsecr;
};

/* A TCP header with its options, and room for the longest. */
struct header {
	__u8 bytes[TCP_LONGEST + 12];	/* longer than any, so that one bound holds for an option, too */
};

/* What one packet is about. */
struct packet {
	struct __sk_buff *skb;
	struct tcp *tcp;	/* in the packet */
	struct flow_key *key;
	struct flow *flow;
	struct direction *direction;	/* of the sender */
	struct direction *other;
	__u32 side;		/* CLIENT or SERVER: the sender */
	__u32 tcp_at;		/* offset of the TCP header */
	__u32 data;		/* bytes behind it */
};

static __always_inline int within(__u32 number, __u32 start, __u32 end)
{
	return number - start <= end - start;
}

/* Whether so much time has passed; another processor may have noted a later time meanwhile. */
static __always_inline int passed(__u64 now, __u64 since, __u64 time)
{
	return (__s64)(now - since) > (__s64)time;
}

static __always_inline __u32 word(const __u8 *at)
{
	return (__u32)at[0] << 24 | (__u32)at[1] << 16 | (__u32)at[2] << 8 | at[3];
}

static __always_inline void shift(__u8 *at, __u32 by)
{
	__u32 value = word(at) + by;

	at[0] = value >> 24;
	at[1] = value >> 16;
	at[2] = value >> 8;
	at[3] = value;
}

/* The window field in the units of the other side: Direction.rescaled(). */
static __always_inline __u16 rescaled(__u16 window, __s8 by)
{
	__u32 wide = window;

	if (by > 0) {
		wide <<= by & 15;
		return wide > 0xffff ? 0xffff : wide;
	}
	wide >>= -by & 15;
	return wide ? wide : window != 0;
}

/* Whether a segment acknowledges what it may, or not far from that: a stranger has to guess it. */
static __always_inline int fits_ack(const struct packet *packet, __u32 ack)
{
	__u64 newer = (__u32)(ack - packet->direction->last_ack + SLACK);
	__u64 newest = (__u32)(packet->other->next_seq - packet->direction->last_ack);

	return newer <= newest + 2 * SLACK;
}

/* Takes in how far the sender has come: Direction._note(). */
static __always_inline void note(struct packet *packet, const struct tcp *tcp)
{
	struct direction *own = packet->direction, *other = packet->other;
	__u32 seq = bpf_ntohl(tcp->seq), ack = bpf_ntohl(tcp->ack) + own->ack_shift;

	int fits = fits_ack(packet, ack);

	if (!(tcp->flags & ACK))
		return;
	if (within(ack, own->last_ack, other->next_seq)) {
		own->last_ack = ack;
		own->window = bpf_ntohs(tcp->window);
	}
	if (packet->data && fits) {
		__u32 ahead = seq + packet->data - own->next_seq;
		__u32 room = other->last_ack + ((__u32)other->window << (other->scale & 15)) +
			     SLACK - own->next_seq;

		if (ahead <= room && room < HALF) {
			own->next_seq = seq + packet->data;
			own->octets += ahead;
		}
	}
}

static __always_inline void end(struct packet *packet, __u32 how)
{
	struct ending *record;

	if (__sync_fetch_and_or(&packet->flow->flags, how) & ENDED)
		return;
	record = bpf_ringbuf_reserve(&ENDINGS, sizeof(*record), 0);
	if (!record)
		return;	/* the process finds the flow when it next looks through the map */
	record->key = *packet->key;
	record->how = how;
	bpf_ringbuf_submit(record, 0);
}

/* FIN and RST, as in Stream.carry(), Flow.believes_fin(), Flow.is_exact() and Flow.note_fin(). */
static __always_inline void note_flags(struct packet *packet, const struct tcp *tcp)
{
	__u32 seq = bpf_ntohl(tcp->seq), ack = bpf_ntohl(tcp->ack);
	__u8 flags = tcp->flags;
	struct direction *own = packet->direction, *other = packet->other;
	struct flow *flow = packet->flow;
	__u32 fin = packet->side == CLIENT ? FIN_CLIENT : FIN_SERVER;

	if (flags & FIN) {
		__u32 end_seq = seq + packet->data + 1;
		__u32 window = (__u32)other->window << (other->scale & 15);

		if (flags & ACK && fits_ack(packet, ack + own->ack_shift) &&
		    within(end_seq, other->last_ack, other->last_ack + window + 1 + FIN_SLACK)) {
			__u32 ahead = end_seq - own->next_seq;

			own->fin_end = end_seq;
			if (ahead && ahead < HALF) {
				own->next_seq = end_seq;
				own->octets += ahead - 1;
			}
			if (!(flow->flags & fin))
				__sync_fetch_and_or(&flow->flags, fin);
		}
	}
	if (flow->flags & ENDED)
		return;
	if (flags & RST) {
		if (seq == other->last_ack || seq == own->next_seq ||
		    (flow->flags & fin && seq == own->fin_end - 1))
			end(packet, packet->side == CLIENT ? RST_CLIENT : RST_SERVER);
	} else if ((flow->flags & (FIN_CLIENT | FIN_SERVER)) == (FIN_CLIENT | FIN_SERVER) &&
		   other->last_ack == own->fin_end && own->last_ack == other->fin_end) {
		end(packet, FINS_ACKNOWLEDGED);
	}
}

/*
 * Renumbers the options of one segment: Direction._options().
 *
 * One loop in small steps. Where it stands is kept in bytes that the verifier knows nothing of, so
 * that it sees each step once, and not each way to get there. Not inline and not static: so it is
 * verified by itself, once, which makes loading five times as fast.
 */
__noinline int change_options(const struct direction *direction, struct header *new,
			      __u32 length, int has_ack)
{
	volatile __u8 next = TCP_HEADER, edges_end = 0, blank_end = 0;
	__u8 *header;

	if (!direction || !new)
		return 0;
	header = new->bytes;

	for (int step = 0; step < TCP_LONGEST - TCP_HEADER; step++) {
		__u32 at = next, size;

		if (at >= length || at >= TCP_LONGEST)
			return 0;
		barrier_var(at);	/* older kernels know this bound for this register only */
		if (at < blank_end) {
			header[at] = OPTION_NOP;
			next = at + 1;
			continue;
		}
		if (at < edges_end) {	/* of a SACK option's blocks */
			if (at + 4 > edges_end || at + 4 > TCP_LONGEST) {
				next = edges_end;
				continue;
			}
			shift(&header[at], direction->ack_shift);
			next = at + 4;
			continue;
		}
		if (header[at] == OPTION_NOP) {
			next = at + 1;
			continue;
		}
		if (at + 1 >= length || at + 1 >= TCP_LONGEST)
			return 0;
		size = header[at + 1];
		if (header[at] == OPTION_END || size < 2 || at + size > length)
			return 0;
		next = at + size;
		if (header[at] == OPTION_TIMESTAMPS && size == TIMESTAMPS_LENGTH) {
			if (at + TIMESTAMPS_LENGTH > TCP_LONGEST)
				return 0;
			if (direction->strip & STRIP_TIMESTAMPS) {
				__builtin_memset(&header[at], OPTION_NOP, TIMESTAMPS_LENGTH);
			} else {
				shift(&header[at + 2], direction->tsval_shift);
				if (has_ack)	/* else it means nothing: RFC 7323, section 3.2 */
					shift(&header[at + 6], direction->tsecr_shift);
			}
		} else if (header[at] == OPTION_SACK && direction->strip & STRIP_SACK) {
			header[at] = OPTION_NOP;
			next = at + 1;
			blank_end = at + size;
		} else if (header[at] == OPTION_SACK) {
			next = at + 2;
			edges_end = at + size;
		}
	}
	return 0;
}

/* Takes in what only the process has seen: it is never behind what the programs know, but later. */
static __always_inline void catch_up(struct direction *direction, const struct handled *done,
				     __u32 side)
{
	__u32 ahead = done->next_seq[side] - direction->next_seq;
	__u32 newer = done->last_ack[side] - direction->last_ack;

	if (ahead && ahead < HALF) {
		direction->next_seq += ahead;
		direction->octets += ahead;
	}
	if (newer && newer < HALF) {
		direction->last_ack += newer;
		direction->window = done->window[side];
	}
}

/*
 * Whether the process may still have packets of this direction that came earlier.
 *
 * They are in the queue, and this one must not overtake them. When the process has done all that
 * was left to it since the hand-over, which is one packet at least, then what had come before the
 * hand-over is done, too. A process that is gone, or late, or has no pause, is waited for a moment.
 *
 * Counted are bytes of data, and one for a packet without: the queue cuts a large packet up.
 */
static __always_inline int must_wait(struct packet *packet, __u64 now)
{
	struct direction *own = packet->direction;
	struct flow *flow = packet->flow;
	__u32 side = packet->side, slot = flow->ticket % HANDLED_SLOTS;
	struct handled *done;
	int ours;

	if (own->settled)
		return 0;
	done = bpf_map_lookup_elem(&HANDLED, &slot);
	if (!done)
		return 0;	/* cannot be: the map has that slot */
	ours = done->ticket == flow->ticket;
	if (!passed(now, flow->handed_over, LEAVE_FOR_NS) &&
	    !(ours && own->left && done->amount[side] == own->left)) {
		__sync_fetch_and_add(&own->left, packet->data ? packet->data : 1);
		return 1;
	}
	if (ours && !passed(now, flow->handed_over, 10 * LEAVE_FOR_NS)) {
		catch_up(own, done, side);
		catch_up(packet->other, done, 1 - side);
	}
	own->settled = 1;
	return 0;
}

/* Replaces a word of the packet, and adds what that does to the checksum (RFC 1624). */
static __always_inline void put(__be32 *at, __u32 value, __u64 *difference)
{
	__be32 new = bpf_htonl(value);

	*difference += (__u64)(__u32)~*at + new;
	*at = new;
}

static __always_inline void correct_checksum(struct packet *packet, __u64 difference)
{
	difference = (difference & 0xffffffff) + (difference >> 32);
	difference = (difference & 0xffffffff) + (difference >> 32);
	bpf_l4_csum_replace(packet->skb, packet->tcp_at + CHECKSUM_AT, 0, difference, 0);
}

/* Renumbers a segment with any options: a copy of the header, which then replaces it. */
static __always_inline void renumber_copy(struct packet *packet, __u32 length)
{
	struct direction *own = packet->direction;
	struct __sk_buff *skb = packet->skb;
	struct header old = {}, new;
	struct tcp *changed = (struct tcp *)&new;
	int has_ack = packet->tcp->flags & ACK;

	if (length < TCP_HEADER || length > TCP_LONGEST ||
	    bpf_skb_load_bytes(skb, packet->tcp_at, &old, length))
		return;
	new = old;
	changed->seq = bpf_htonl(bpf_ntohl(changed->seq) + own->seq_shift);
	if (has_ack)
		changed->ack = bpf_htonl(bpf_ntohl(changed->ack) + own->ack_shift);
	if (own->window_shift)
		changed->window = bpf_htons(rescaled(bpf_ntohs(changed->window), own->window_shift));
	change_options(own, &new, length, has_ack);
	__s64 difference = bpf_csum_diff((__be32 *)&old, length, (__be32 *)&new, length, 0);
	if (bpf_skb_store_bytes(skb, packet->tcp_at, &new, length, 0))
		return;
	bpf_l4_csum_replace(skb, packet->tcp_at + CHECKSUM_AT, 0, difference, 0);
	skb->mark |= MARK_TRANSLATED;
}

/* Renumbers a segment where it lies: without options, or with timestamps, as nearly all are. */
static __always_inline void renumber_in_place(struct packet *packet, struct timestamps *timestamps)
{
	struct direction *own = packet->direction;
	struct tcp *tcp = packet->tcp;
	int has_ack = tcp->flags & ACK;
	__u64 difference = 0;

	put(&tcp->seq, bpf_ntohl(tcp->seq) + own->seq_shift, &difference);
	if (has_ack)
		put(&tcp->ack, bpf_ntohl(tcp->ack) + own->ack_shift, &difference);
	if (own->window_shift) {
		__be16 window = bpf_htons(rescaled(bpf_ntohs(tcp->window), own->window_shift));

		difference += (__u64)(__u16)~tcp->window + window;
		tcp->window = window;
	}
	if (timestamps) {
		put(&timestamps->tsval, bpf_ntohl(timestamps->tsval) + own->tsval_shift, &difference);
		if (has_ack)	/* else it means nothing: RFC 7323, section 3.2 */
			put(&timestamps->tsecr, bpf_ntohl(timestamps->tsecr) + own->tsecr_shift,
			    &difference);
	}
	correct_checksum(packet, difference);
	packet->skb->mark |= MARK_TRANSLATED;
}

static __always_inline void renumber(struct packet *packet, __u32 length)
{
	struct timestamps *timestamps = (struct timestamps *)(packet->tcp + 1);

	if (length == TCP_HEADER)
		renumber_in_place(packet, 0);
	else if (length == WITH_TIMESTAMPS && !packet->direction->strip &&
		 (void *)(timestamps + 1) <= (void *)(long)packet->skb->data_end &&
		 timestamps->kinds == bpf_htonl(USUAL_OPTIONS))
		renumber_in_place(packet, timestamps);
	else
		renumber_copy(packet, length);
}

/*
 * A SYN goes on untouched; the process, if there is one, deals with it. If there is none, a new
 * connection on the addresses and ports of an old one must be a direct one: when the old one is over,
 * or is none of ours; or when it has been silent for long, and the server answers the SYN as one
 * who knows of no connection (else it would send an ACK: RFC 5961, section 4.2).
 */
static __always_inline void note_syn(struct packet *packet, const struct tcp *tcp, __u64 now)
{
	struct flow *flow = packet->flow;
	__u32 seq = bpf_ntohl(tcp->seq);
	int from_client = packet->side == CLIENT;

	if (!(tcp->flags & ACK)) {
		if (flow->flags & PASSING ||
		    (flow->flags & ENDED && !(from_client && seq == flow->isn_client)))
			__sync_fetch_and_or(&flow->flags, SUPERSEDED);
		else if (from_client && passed(now, flow->last_seen, SILENT_FOR_NS))
			flow->syn_end = seq + 1;
	} else if (!from_client && flow->syn_end && bpf_ntohl(tcp->ack) == flow->syn_end &&
		   seq != flow->isn_server && passed(now, flow->last_seen, SILENT_FOR_NS)) {
		__sync_fetch_and_or(&flow->flags, SUPERSEDED);
	}
}

/* Deals with a TCP segment whose addresses are in the key; size is that of header and data. */
static __always_inline void carry(struct packet *packet, __u32 size)
{
	struct flow_key *key = packet->key;
	struct tcp *tcp = packet->tcp;
	__u32 length;
	__u64 now;
	int left;

	if (size < TCP_HEADER)
		return;
	key->client_port = packet->side == CLIENT ? tcp->source : tcp->destination;
	key->server_port = packet->side == CLIENT ? tcp->destination : tcp->source;
	packet->flow = bpf_map_lookup_elem(&FLOWS, key);
	if (!packet->flow || packet->flow->flags & SUPERSEDED)
		return;
	if (packet->side == CLIENT) {
		packet->direction = &packet->flow->to_server;
		packet->other = &packet->flow->to_client;
	} else {
		packet->direction = &packet->flow->to_client;
		packet->other = &packet->flow->to_server;
	}
	length = (tcp->offset >> 4) * 4;
	if (length < TCP_HEADER || length > size)
		return;
	now = bpf_ktime_get_coarse_ns();
	if (tcp->flags & SYN) {
		note_syn(packet, tcp, now);
		return;
	}
	if (packet->flow->flags & PASSING && passed(now, packet->flow->last_seen, PASSES_FOR_NS))
		return;
	packet->flow->last_seen = now;
	packet->data = size - length;
	packet->direction->segments += packet->skb->gso_segs ? packet->skb->gso_segs : 1;
	left = must_wait(packet, now);
	if (packet->flow->flags & PASSING) {
		packet->skb->mark |= left ? MARK_LEFT : MARK_TRANSLATED;
		return;
	}
	note(packet, tcp);
	if (tcp->flags & (FIN | RST) || packet->flow->flags & (FIN_CLIENT | FIN_SERVER))
		note_flags(packet, tcp);
	if (left)
		packet->skb->mark |= MARK_LEFT;
	else
		renumber(packet, length);
}

/* Whether an IPv6 address stands for one of IPv4: none of these is on the wire (RFC 4291, 2.5.5.2). */
static __always_inline int is_mapped(const __u8 *address)
{
	const __u32 *words = (const __u32 *)address;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline void map_ipv4(__u8 *address, const __u8 *ipv4)
{
	address[10] = address[11] = 0xff;	/* RFC 4291, section 2.5.5.2 */
	__builtin_memcpy(address + 12, ipv4, 4);
}

/*
 * The IP header, of so many bytes, with at least the first part of a TCP header behind it; the
 * kernel may hold them elsewhere than where a program can look at them. Nothing if there is less.
 */
static __always_inline void *headers(struct __sk_buff *skb, __u32 size)
{
	__u32 end = ETHERNET_HEADER + size + TCP_HEADER;

	if ((void *)(long)skb->data + end > (void *)(long)skb->data_end &&
	    (skb->len < end || bpf_skb_pull_data(skb, end)))
		return 0;
	if ((void *)(long)skb->data + end > (void *)(long)skb->data_end)
		return 0;
	return (void *)(long)skb->data + ETHERNET_HEADER;
}

static __always_inline void from_ipv4(struct packet *packet)
{
	struct ipv4 *ip = headers(packet->skb, IPV4_HEADER);
	int from_client = packet->side == CLIENT;
	__u32 total;

	if (!ip || ip->version_length != 0x45 || ip->protocol != PROTOCOL_TCP ||
	    ip->fragment & bpf_htons(IPV4_FRAGMENT))
		return;
	total = bpf_ntohs(ip->total);
	if (total < IPV4_HEADER || ETHERNET_HEADER + total > packet->skb->len)
		return;
	map_ipv4(packet->key->client, from_client ? ip->source : ip->destination);
	map_ipv4(packet->key->server, from_client ? ip->destination : ip->source);
	packet->tcp_at = ETHERNET_HEADER + IPV4_HEADER;
	packet->tcp = (struct tcp *)(ip + 1);
	carry(packet, total - IPV4_HEADER);
}

static __always_inline void from_ipv6(struct packet *packet)
{
	struct ipv6 *ip = headers(packet->skb, IPV6_HEADER);
	int from_client = packet->side == CLIENT;
	__u32 payload;

	if (!ip || bpf_ntohl(ip->version) >> 28 != 6 || ip->next != PROTOCOL_TCP)
		return;
	payload = bpf_ntohs(ip->payload);
	if (ETHERNET_HEADER + IPV6_HEADER + payload > packet->skb->len)
		return;
	if (is_mapped(ip->source) || is_mapped(ip->destination))
		return;	/* it would be taken for one of an IPv4 flow */
	__builtin_memcpy(packet->key->client, from_client ? ip->source : ip->destination, 16);
	__builtin_memcpy(packet->key->server, from_client ? ip->destination : ip->source, 16);
	packet->tcp_at = ETHERNET_HEADER + IPV6_HEADER;
	packet->tcp = (struct tcp *)(ip + 1);
	carry(packet, payload);
}

static __always_inline int from(struct __sk_buff *skb, __u32 side)
{
	struct flow_key key = {};
	struct packet packet = { .skb = skb, .key = &key, .side = side };

	if (skb->vlan_present)
		return TC_ACT_UNSPEC;	/* it belongs to the interface of that VLAN */
	if (skb->protocol == bpf_htons(0x0800))
		from_ipv4(&packet);
	else if (skb->protocol == bpf_htons(0x86dd))
		from_ipv6(&packet);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int zerortt_client(struct __sk_buff *skb)
{
	return from(skb, CLIENT);
}

SEC("tc")
int zerortt_server(struct __sk_buff *skb)
{
	return from(skb, SERVER);
}

char terms[] SEC("license") = "Dual MIT/GPL";
