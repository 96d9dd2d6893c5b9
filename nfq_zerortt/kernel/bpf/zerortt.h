/* SPDX-License-Identifier: MIT */
/*
 * What the programs and the process share. nfq_zerortt/kernel/bpf/layout.py has the same in Python,
 * and a test holds the two together. Numbers are in the host's byte order, addresses and ports in
 * the network's; times are those of CLOCK_MONOTONIC in nanoseconds.
 */
#ifndef ZERORTT_H
#define ZERORTT_H

#include <linux/types.h>

#define LAYOUT 1	/* a new number for each change of what stands here */

#define MARK_TRANSLATED 0x10000000u	/* the queue has nothing to do with it */
#define MARK_LEFT 0x20000000u		/* counted in `left` */

#define HANDLED_SLOTS 16384
#define ENDINGS_BYTES (1 << 18)
#define LEAVE_FOR_NS 100000000ull	/* so long at most packets are left to the process */
#define PASSES_FOR_NS 120000000000ull	/* so long after its last packet a passing connection is known */
#define SILENT_FOR_NS 60000000000ull	/* so long at least both ends of a forgotten flow were silent */

enum { CLIENT, SERVER };

/* flow.flags */
#define FIN_CLIENT 0x01u
#define FIN_SERVER 0x02u
#define RST_CLIENT 0x04u
#define RST_SERVER 0x08u
#define FINS_ACKNOWLEDGED 0x10u
#define SUPERSEDED 0x20u	/* another connection has these addresses and ports now */
#define REPORTED 0x40u		/* the process has said that the flow ended */
#define PASSING 0x80u		/* a connection that passes untouched: it is only kept from the queue */
#define ENDED (RST_CLIENT | RST_SERVER | FINS_ACKNOWLEDGED)

/* direction.strip: options that the receiver was not told of */
#define STRIP_TIMESTAMPS 0x01
#define STRIP_SACK 0x02

/* IPv4 addresses as ::ffff:a.b.c.d. */
struct flow_key {
	__u8 client[16];
	__u8 server[16];
	__be16 client_port;
	__be16 server_port;
};

/* What one side sends; nfq_zerortt/core/direction.py says what each number means. */
struct direction {
	__u32 seq_shift;
	__u32 ack_shift;
	__u32 tsval_shift;
	__u32 tsecr_shift;
	__u32 next_seq;
	__u32 last_ack;
	__u32 fin_end;	/* the number behind its FIN; only with FIN_CLIENT or FIN_SERVER */
	__u32 left;	/* to the process since the hand-over: bytes of data, or 1 for a packet without */
	__u64 octets;
	__u64 segments;
	__u16 window;
	__s8 window_shift;
	__u8 scale;
	__u8 strip;
	__u8 settled;	/* none is left to it any more */
	__u8 unused[2];
};

struct flow {
	struct direction to_server;	/* what the client sends */
	struct direction to_client;
	__u64 created;
	__u64 handed_over;
	__u64 last_seen;
	__u32 ticket;	/* names this hand-over among those of a moment */
	__u32 flags;
	__u32 isn_client;
	/* From here on the programs look at nothing: it is kept for the process. */
	__u32 isn_spoofed;
	__u32 isn_server;
	__u32 number;
	__u32 suppressed;
	__u32 server_rtt_us;
	__s32 data_earlier_us;	/* negative: not known */
	__u16 syn_data;
	__u16 carried;
	__u8 attempts;
	__u8 fast_open;	/* this and the next: places in the tuples of flow_entry.py */
	__u8 strategy;
	__u8 unused;
	__u32 syn_end;	/* the programs': behind the client's SYN on a flow that had long been silent */
};

/*
 * How much of what was left to the process it has done, and how far both sides have come by then;
 * all by side, as in struct direction. The process alone writes it, the amount last.
 */
struct handled {
	__u32 ticket;
	__u32 amount[2];
	__u32 next_seq[2];
	__u32 last_ack[2];
	__u32 window[2];
	__u32 unused;
};

struct ending {
	struct flow_key key;
	__u32 how;
};

#endif
