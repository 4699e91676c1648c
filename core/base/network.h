// Networks as operators write them, and what an address is for: public, or only this machine's or this site's.
#ifndef BQ_BASE_NETWORK_H
#define BQ_BASE_NETWORK_H

#include <stddef.h>
#include <sys/socket.h>

// "10.0.0.0/8", "fd00::/8", or a single address. An IPv4 network is kept as its IPv4-mapped IPv6 form (RFC 4291,
// section 2.5.5.2), so that ::ffff:10.0.0.1 is 10.0.0.1.
typedef struct bq_network {
  unsigned char address[16];
  unsigned bits; // of the prefix, 0 to 128
} bq_network;

// 0, or -1 when `text` is none.
int bq_network_parse(bq_network *network, const char *text);

// 1 when the address lies in it; 0 also for families beside IPv4 and IPv6. An IPv6 network holds no IPv4 address.
int bq_network_holds(const bq_network *network, const struct sockaddr *address);

// What keeps an address from being anybody's on the internet: "a loopback address", "a private address", … NULL for a
// public one. By the registries of special-purpose addresses (RFC 6890, as kept by IANA): all that is not globally
// reachable, multicast (RFC 5771, RFC 4291), reserved ranges, and addresses that only wrap one of these (IPv4-mapped,
// NAT64 of RFC 6052, 6to4 of RFC 3056; Teredo always). Families beside IPv4 and IPv6 are not public.
const char *bq_network_special(const struct sockaddr *address);

// "127.0.0.1", "::1"; "?" for other families.
enum { BQ_ADDRESS_TEXT_SIZE = 64 };
void bq_network_address_text(const struct sockaddr *address, char text[BQ_ADDRESS_TEXT_SIZE]);

#endif
