# buildq: `make run` and `make test` are the two commands; `make help` lists the rest.
BUILD    ?= build
CC       ?= gcc
PKGS     := libevent libevent_pthreads libpq libcurl lua5.4 jansson libarchive libcrypto
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Icore $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CFLAGS   ?= -O2 -g
CFLAGS   += -std=c11 -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -pthread
LDLIBS   += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -ldl
LDFLAGS  += -pthread

CORE     := $(filter-out core/main.c,$(wildcard core/*/*.c))
OBJECTS  := $(CORE:%.c=$(BUILD)/%.o)
UNITS    := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))

.PHONY: all clean unit
all: $(BUILD)/buildq

$(BUILD)/buildq: $(BUILD)/core/main.o $(BUILD)/libbuildq.a
	$(CC) $(CFLAGS) $(LDFLAGS) -Wl,-E -o $@ $^ $(LDLIBS)

$(BUILD)/libbuildq.a: $(OBJECTS)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/%: tests/unit/%.c $(BUILD)/libbuildq.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(BUILD)/libbuildq.a $(LDLIBS) -lcmocka

unit: $(UNITS)
	@set -e; for t in $(UNITS); do echo "== $$t"; $$t; done

clean:
	rm -rf $(BUILD)

-include $(OBJECTS:.o=.d) $(BUILD)/core/main.d
