#include "base/network.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADDRESS_BYTES = 16, MAPPED_BITS = 96 };

static const unsigned char mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static const struct {
  const char *network;
  const char *what;
} special[] = {
    {"0.0.0.0/8", "an address of this machine"},
    {"10.0.0.0/8", "a private address"},
    {"100.64.0.0/10", "a provider's internal address"},
    {"127.0.0.0/8", "a loopback address"},
    {"169.254.0.0/16", "a link-local address"},
    {"172.16.0.0/12", "a private address"},
    {"192.0.0.0/24", "a reserved address"},
    {"192.0.2.0/24", "an address of examples"},
    {"192.88.99.0/24", "a reserved address"},
    {"192.168.0.0/16", "a private address"},
    {"198.18.0.0/15", "an address of test networks"},
    {"198.51.100.0/24", "an address of examples"},
    {"203.0.113.0/24", "an address of examples"},
    {"224.0.0.0/4", "a multicast address"},
    {"240.0.0.0/4", "a reserved address"},
    {"::/128", "an address of this machine"},
    {"::1/128", "a loopback address"},
    {"2001::/23", "a reserved address"},
    {"2001:db8::/32", "an address of examples"},
    {"3fff::/20", "an address of examples"},
    {"fc00::/7", "a private address"},
    {"fe80::/10", "a link-local address"},
    {"fec0::/10", "a private address"},
    {"ff00::/8", "a multicast address"},
};

// The sixteen bytes of an address; 0 when it has none.
static int bytes_of(const struct sockaddr *address, unsigned char bytes[ADDRESS_BYTES]) {
  if (address->sa_family == AF_INET) {
    struct sockaddr_in four;
    memcpy(&four, address, sizeof four);
    memcpy(bytes, mapped_prefix, sizeof mapped_prefix);
    memcpy(bytes + sizeof mapped_prefix, &four.sin_addr, 4);
    return 1;
  }
  if (address->sa_family != AF_INET6) return 0;
  struct sockaddr_in6 six;
  memcpy(&six, address, sizeof six);
  memcpy(bytes, &six.sin6_addr, ADDRESS_BYTES);
  return 1;
}

static int is_mapped(const unsigned char bytes[ADDRESS_BYTES]) {
  return memcmp(bytes, mapped_prefix, sizeof mapped_prefix) == 0;
}

int bq_network_parse(bq_network *network, const char *text) {
  char address[INET6_ADDRSTRLEN];
  size_t length = strcspn(text, "/");
  if (length >= sizeof address) return -1;
  memcpy(address, text, length);
  address[length] = '\0';
  *network = (bq_network){.bits = 128};
  unsigned most = 128;
  if (inet_pton(AF_INET, address, network->address + sizeof mapped_prefix) == 1) {
    memcpy(network->address, mapped_prefix, sizeof mapped_prefix);
    most = 32;
  } else if (inet_pton(AF_INET6, address, network->address) != 1) {
    return -1;
  }
  if (text[length] == '\0') return 0;
  const char *digits = text + length + 1;
  size_t count = strspn(digits, "0123456789");
  if (count == 0 || count > 3 || digits[count] != '\0') return -1;
  unsigned long bits = strtoul(digits, NULL, 10);
  if (bits > most) return -1;
  network->bits = (unsigned)bits + 128 - most;
  return 0;
}

static int holds(const bq_network *network, const unsigned char bytes[ADDRESS_BYTES]) {
  if (network->bits < MAPPED_BITS && is_mapped(bytes)) return 0;
  unsigned whole = network->bits / 8;
  unsigned rest = network->bits % 8;
  if (memcmp(network->address, bytes, whole) != 0) return 0;
  return rest == 0 || ((network->address[whole] ^ bytes[whole]) >> (8 - rest)) == 0;
}

int bq_network_holds(const bq_network *network, const struct sockaddr *address) {
  unsigned char bytes[ADDRESS_BYTES];
  return bytes_of(address, bytes) && holds(network, bytes);
}

static int in(const char *text, const unsigned char bytes[ADDRESS_BYTES]) {
  bq_network network;
  return bq_network_parse(&network, text) == 0 && holds(&network, bytes);
}

static const char *what_of(const unsigned char bytes[ADDRESS_BYTES]) {
  for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
    if (in(special[i].network, bytes)) return special[i].what;
  }
  // The IPv4 address that a gateway would go on to.
  unsigned char inner[ADDRESS_BYTES];
  memcpy(inner, mapped_prefix, sizeof mapped_prefix);
  if (in("64:ff9b::/96", bytes)) {
    memcpy(inner + sizeof mapped_prefix, bytes + 12, 4);
    return what_of(inner);
  }
  if (in("2002::/16", bytes)) {
    memcpy(inner + sizeof mapped_prefix, bytes + 2, 4);
    return what_of(inner);
  }
  return is_mapped(bytes) || in("2000::/3", bytes) ? NULL : "a reserved address";
}

const char *bq_network_special(const struct sockaddr *address) {
  unsigned char bytes[ADDRESS_BYTES];
  return bytes_of(address, bytes) ? what_of(bytes) : "an address of an unknown kind";
}

void bq_network_address_text(const struct sockaddr *address, char text[BQ_ADDRESS_TEXT_SIZE]) {
  unsigned char bytes[ADDRESS_BYTES];
  const char *written = NULL;
  if (bytes_of(address, bytes)) {
    written = is_mapped(bytes) ? inet_ntop(AF_INET, bytes + sizeof mapped_prefix, text, BQ_ADDRESS_TEXT_SIZE)
                               : inet_ntop(AF_INET6, bytes, text, BQ_ADDRESS_TEXT_SIZE);
  }
  if (written == NULL) (void)snprintf(text, BQ_ADDRESS_TEXT_SIZE, "?");
}
