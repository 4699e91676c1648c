// Networks: how they are written, what they hold, and which addresses are nobody's on the internet.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/network.h"

static const struct sockaddr *address(const char *text) {
  static struct sockaddr_storage storage;
  struct sockaddr_in four = {.sin_family = AF_INET};
  struct sockaddr_in6 six = {.sin6_family = AF_INET6};
  memset(&storage, 0, sizeof storage);
  if (inet_pton(AF_INET, text, &four.sin_addr) == 1) memcpy(&storage, &four, sizeof four);
  else if (inet_pton(AF_INET6, text, &six.sin6_addr) == 1) memcpy(&storage, &six, sizeof six);
  else fail_msg("%s is no address", text);
  return (const struct sockaddr *)&storage;
}

static void networks_are_read(void **state) {
  (void)state;
  static const char *const right[] = {"10.0.0.0/8", "127.0.0.1", "0.0.0.0/0", "1.2.3.4/32", "::1", "fd00::/8", "::/0",
                                      "2001:db8::1/128", "::ffff:10.0.0.1"};
  static const char *const wrong[] = {"", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "::1/129", "10.0.0.0/8 ",
                                      "10.0.0.0/8x", "10.0.0.0/0008", "example.org", "fe80::1%eth0", "[::1]", "0x7f.1"};
  bq_network network;
  for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) assert_int_equal(bq_network_parse(&network, right[i]), 0);
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    if (bq_network_parse(&network, wrong[i]) == 0) fail_msg("%s was taken", wrong[i]);
  }
}

static void networks_hold_their_addresses(void **state) {
  (void)state;
  static const struct {
    const char *network;
    const char *address;
    int holds;
  } rows[] = {
      {"10.0.0.0/8", "10.255.255.255", 1}, {"10.0.0.0/8", "11.0.0.0", 0},        {"10.0.0.0/8", "::ffff:10.1.2.3", 1},
      {"172.16.0.0/12", "172.31.0.1", 1},  {"172.16.0.0/12", "172.32.0.1", 0},   {"0.0.0.0/0", "8.8.8.8", 1},
      {"0.0.0.0/0", "::1", 0},             {"::/0", "8.8.8.8", 0},               {"::/0", "2001:db8::1", 1},
      {"127.0.0.1", "127.0.0.1", 1},       {"127.0.0.1", "127.0.0.2", 0},        {"fd00::/8", "fd12::1", 1},
      {"fd00::/8", "fe12::1", 0},          {"192.168.1.128/25", "192.168.1.127", 0}, {"::ffff:10.0.0.0", "10.0.0.0", 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    bq_network network;
    assert_int_equal(bq_network_parse(&network, rows[i].network), 0);
    if (bq_network_holds(&network, address(rows[i].address)) != rows[i].holds) {
      fail_msg("%s in %s", rows[i].address, rows[i].network);
    }
  }
  bq_network all;
  assert_int_equal(bq_network_parse(&all, "0.0.0.0/0"), 0);
  assert_int_equal(bq_network_holds(&all, &(struct sockaddr){.sa_family = AF_UNIX}), 0);
}

static void special_addresses_are_known(void **state) {
  (void)state;
  static const char *const special[] = {
      "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.9", "169.254.169.254",
      "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.168.0.1", "198.18.0.1", "198.19.255.255", "203.0.113.9", "224.0.0.1",
      "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
      "::ffff:169.254.169.254", "64:ff9b::127.0.0.1", "64:ff9b::10.1.1.1", "64:ff9b:1::1", "100::1", "2001::1",
      "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::", "3fff::1", "fc00::1", "fdff::1", "fe80::1", "fec0::1", "ff02::1", "4000::1"};
  static const char *const open[] = {"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
                                     "169.253.1.1", "11.0.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1",
                                     "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"};
  for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
    if (bq_network_special(address(special[i])) == NULL) fail_msg("%s passes for public", special[i]);
  }
  for (size_t i = 0; i < sizeof open / sizeof open[0]; i++) {
    const char *what = bq_network_special(address(open[i]));
    if (what != NULL) fail_msg("%s is taken for %s", open[i], what);
  }
  assert_string_equal(bq_network_special(address("127.0.0.1")), "a loopback address");
  assert_string_equal(bq_network_special(address("::ffff:192.168.1.1")), "a private address");
  assert_non_null(bq_network_special(&(struct sockaddr){.sa_family = AF_UNIX}));
}

static void addresses_are_written(void **state) {
  (void)state;
  char text[BQ_ADDRESS_TEXT_SIZE];
  bq_network_address_text(address("::ffff:10.0.0.1"), text);
  assert_string_equal(text, "10.0.0.1");
  bq_network_address_text(address("fd00::1"), text);
  assert_string_equal(text, "fd00::1");
  bq_network_address_text(&(struct sockaddr){.sa_family = AF_UNIX}, text);
  assert_string_equal(text, "?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(networks_are_read),
      cmocka_unit_test(networks_hold_their_addresses),
      cmocka_unit_test(special_addresses_are_known),
      cmocka_unit_test(addresses_are_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
