# buildq: `make run` and `make test` are the two commands; `make help` lists the rest.
BUILD    ?= build
CC       ?= gcc
ifeq ($(origin CC),default)
CC       := gcc
endif
PREFIX   ?= /usr/local
DESTDIR  ?=
# SANITIZE=address,undefined (or thread) builds everything with these; give BUILD a directory of its own then.
SANITIZE ?=
FUZZ_SECONDS ?= 60
CHAOS_SECONDS ?= 300
TORTURE_SECONDS ?= 3600
SOAK_BUILDS ?= 1000000
JOBS     ?= 2
# V=1 shows the commands.
SAY       = $(if $(V),,@echo "  $(1) $@";)

LIBS     := libevent libevent_pthreads libpq libcurl lua5.4 jansson libarchive libcrypto gmime-3.0
WARN     := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DBQ_DATA_DIR='"$(PREFIX)/share/buildq"' -Icore \
            $(shell pkg-config --cflags $(LIBS) 2>/dev/null)
ifeq ($(SANITIZE),)
CFLAGS   ?= -O2 -g
HARDEN   := -fPIE -fno-plt -fstack-protector-strong -D_FORTIFY_SOURCE=2 $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)
LDFLAGS  += -pie -Wl,-z,relro,-z,now
else
CFLAGS   ?= -O1 -g
HARDEN   := -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -fno-sanitize-recover=all
LDFLAGS  += -fsanitize=$(patsubst fuzzer-no-link%,fuzzer%,$(SANITIZE))
endif
override CFLAGS += -std=c11 $(WARN) $(HARDEN) -pthread
LDFLAGS  += -pthread
LDLIBS   += $(shell pkg-config --libs $(LIBS) 2>/dev/null) -lm -ldl

SOURCES  := $(wildcard core/*/*.c)
MAIN     := $(wildcard core/main.c)
HEADERS  := $(wildcard core/*/*.h)
OBJECTS  := $(SOURCES:%.c=$(BUILD)/%.o)
UNITS    := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
BENCHES  := $(patsubst tests/bench/%.c,$(BUILD)/tests/%,$(wildcard tests/bench/bench_*.c))
FUZZERS  := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
SPECS    := $(shell find spec $(if $(MAIN),,-path spec/server -prune -o) -name '*_spec.lua' -print 2>/dev/null | sort)

.PHONY: templates-manual mail-screenshots all run test unit spec lint asan tsan fuzz bench chaos torture soak install clean help packages
.DELETE_ON_ERROR:

all: $(BUILD)/buildq ## build the program at build/buildq

$(BUILD)/buildq: $(BUILD)/core/main.o $(BUILD)/libbuildq.a
	$(call SAY,LD)$(CC) $(CFLAGS) $(LDFLAGS) -Wl,-E -o $@ $^ $(LDLIBS)

$(BUILD)/libbuildq.a: $(OBJECTS)
	@rm -f $@
	$(call SAY,AR)ar rcs $@ $^

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call SAY,CC)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# What several unit tests share; no test of its own.
SUPPORT  := $(BUILD)/tests/unit/support.o
.SECONDARY: $(SUPPORT)

$(BUILD)/tests/test_%: tests/unit/test_%.c $(SUPPORT) $(BUILD)/libbuildq.a
	@mkdir -p $(@D)
	$(call SAY,CC)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(SUPPORT) $(BUILD)/libbuildq.a $(LDLIBS) -lcmocka

$(BUILD)/tests/fuzz_%: tests/fuzz/fuzz_%.c $(BUILD)/libbuildq.a
	@mkdir -p $(@D)
	$(call SAY,CC)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(BUILD)/libbuildq.a $(LDLIBS)

$(BUILD)/tests/bench_%: tests/bench/bench_%.c $(BUILD)/libbuildq.a
	@mkdir -p $(@D)
	$(call SAY,CC)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(BUILD)/libbuildq.a $(LDLIBS)

# The program with each fallible call of its own objects sent through tests/torture: whatever is defined there as __wrap_….
# At a fixed address, so that a caller is the same number in each run.
TORTURE  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/torture/*.c))
$(BUILD)/buildq-torture: $(BUILD)/core/main.o $(TORTURE) $(BUILD)/libbuildq.a
	$(call SAY,LD)$(CC) $(CFLAGS) $(LDFLAGS) -no-pie -Wl,-E $$(nm $(TORTURE) | sed -n 's/.* T __wrap_/-Wl,--wrap=/p') -o $@ $^ $(LDLIBS)

# --- the two commands ---------------------------------------------------------------------------------------------

run: packages-run ## start a server with its own PostgreSQL and do a demonstration build (STATE=DIR LISTEN=HOST:PORT)
	@$(MAKE) --no-print-directory all
	@STATE='$(STATE)' LISTEN='$(LISTEN)' DEMONSTRATION='$(DEMONSTRATION)' sh core/cli/data/demonstrate.sh $(BUILD)/buildq

# BUILD and the flags reach the sub-make, so that asan and tsan are this target with other flags.
test: packages-test ## build and run all tests; ends in one line `N passed, N failed`
	@$(MAKE) --no-print-directory -j$(JOBS) $(if $(MAIN),all) $(UNITS)
	@$(RUNNER) $(UNITS) $(SPECS)

RUNNER = BUILDQ_BUILD=$(BUILD) lua5.4 tests/run.lua -j $(JOBS)

unit: $(UNITS) ## run the C unit tests only
	@$(RUNNER) $(UNITS)

spec: $(if $(MAIN),all) ## run the Lua specs only (SPECS=file picks)
	@$(RUNNER) $(SPECS)

asan: ## all tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory test BUILD=build/asan SANITIZE=address,undefined

tsan: ## all tests under ThreadSanitizer
	@TSAN_OPTIONS="halt_on_error=1 suppressions=$(CURDIR)/tests/tsan.supp $$TSAN_OPTIONS" $(MAKE) --no-print-directory test BUILD=build/tsan SANITIZE=thread

fuzz: packages-lint ## fuzz each parser, FUZZ_SECONDS (60) in all
	@$(MAKE) --no-print-directory -j$(JOBS) fuzz-run BUILD=build/fuzz CC=clang SANITIZE=fuzzer-no-link,address,undefined

fuzz-run: $(FUZZERS)
	@BUILD=$(BUILD) sh tests/fuzz/run.sh $(FUZZ_SECONDS) $(JOBS) $(FUZZERS)

bench: packages-bench ## measure: each figure beside a limit of the same run (BENCH=name picks, ARGS=--json)
	@$(MAKE) --no-print-directory -j$(JOBS) all $(BENCHES) >&2
	@BUILDQ_BUILD=$(BUILD) lua5.4 tests/bench/run.lua $(ARGS) $(BENCH)

chaos: packages-test ## servers at work while things go wrong; a checker reads the history (SEED=n, CHAOS_SECONDS=300)
	@$(MAKE) --no-print-directory -j$(JOBS) all >&2
	@BUILDQ_BUILD=$(BUILD) sh tests/chaos/isolated.sh lua5.4 tests/chaos/run.lua --seconds $(CHAOS_SECONDS) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

torture: packages-test ## fail each call that can fail, one at a time (TORTURE_SECONDS=3600, TORTURE_SAMPLE=n, SEED=n, ARGS)
	@$(MAKE) --no-print-directory -j$(JOBS) torture-run BUILD=build/asan SANITIZE=address,undefined

torture-run: $(BUILD)/buildq-torture
	@BUILDQ_BUILD=$(BUILD) lua5.4 tests/torture/run.lua --seconds $(TORTURE_SECONDS) \
	  $(if $(TORTURE_SAMPLE),--sample $(TORTURE_SAMPLE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: packages-test ## builds that do nothing, SOAK_BUILDS (1,000,000) of them: whether memory, files and tables stay flat
	@$(MAKE) --no-print-directory -j$(JOBS) all >&2
	@BUILDQ_BUILD=$(BUILD) lua5.4 tests/soak.lua $(SOAK_BUILDS)

mail-screenshots: packages-screenshots all ## draw every mail with Chromium into build/mails (320 and 800 pixels, light and dark)
	@BUILDQ_BUILD=$(BUILD) lua5.4 /usr/bin/busted tests/mail_screenshots.lua && echo build/mails/index.html

templates-manual: ## write templates/README.md from the code
	@LUA_PATH="./?.lua;./scripts/lib/?.lua;;" lua5.4 -e 'io.write(require("spec.support.templates_manual").text())' \
	  > templates/README.md.new && mv templates/README.md.new templates/README.md

# What receives notifications: packages from npm, in the versions and with the checksums of the lock, and programs around
# them. `flock`: specs that run side by side want them at once. Not through the network when npm's cache has them.
NPM_FILES := $(wildcard tests/npm/*)
build/npm/installed: $(NPM_FILES)
	@mkdir -p build && flock build/npm.lock sh -c '[ -e $@ ] && [ -z "$$(find $(NPM_FILES) tests/npm/.npmrc -newer $@)" ] || { \
	  rm -rf build/npm && mkdir build/npm && cp tests/npm/.npmrc $(NPM_FILES) build/npm && cd build/npm && \
	  timeout 100 npm ci --prefer-offline --ignore-scripts --no-audit --no-fund --loglevel=error \
	    --fetch-retries=1 --fetch-timeout=20000 && touch installed; }'

# --- lint: each linter is a target of its own ---------------------------------------------------------------------

LINTERS := gcc clang headers layers migrations tidy cppcheck luacheck rockspec
.PHONY: $(LINTERS:%=lint-%) fuzz-run torture-run
lint: packages-lint $(LINTERS:%=lint-%) ## compilers' warnings, layers, migrations, clang-tidy, cppcheck, luacheck, luarocks lint
	@echo "lint: clean"

C_ALL    := $(SOURCES) $(MAIN) $(wildcard tests/unit/*.c tests/fuzz/*.c tests/bench/*.c tests/torture/*.c)
C_FLAGS  := $(CPPFLAGS) -std=c11 $(WARN)

lint-gcc lint-clang: lint-%:
	@printf '%s\n' $(C_ALL) | xargs -P$(JOBS) -n4 $* -O1 $(C_FLAGS) -Werror -fsyntax-only

lint-headers:
	@for h in $(HEADERS); do \
	  echo "#include \"$${h#core/}\"" | clang $(C_FLAGS) -Werror -fsyntax-only -x c - || { echo "$$h does not compile by itself"; exit 1; }; done

lint-layers:
	@lua5.4 tests/layers.lua

# Two branches may each have added the next one.
lint-migrations:
	@cd sql/migrations && LC_ALL=C ls | awk '$$0 !~ /^[0-9][0-9][0-9][0-9]_[a-z0-9_]+\.sql$$/ || substr($$0, 1, 4) + 0 != NR { \
	  printf "sql/migrations/%s: not %04d_name.sql, which comes here\n", $$0, NR; exit 1 }'

lint-tidy: $(patsubst %.c,build/lint/%.tidy,$(SOURCES) $(MAIN))

build/lint/%.tidy: %.c $(HEADERS) .clang-tidy
	@mkdir -p $(@D)
	@clang-tidy --quiet --warnings-as-errors='*' $< -- $(C_FLAGS) 2>build/lint/$(notdir $*).err \
	  || { cat build/lint/$(notdir $*).err; exit 1; }
	@touch $@

lint-cppcheck:
	@cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	  --suppress=missingIncludeSystem --suppress=varFuncNullUB -j$(JOBS) -D_GNU_SOURCE -D__clang_analyzer__ -Icore $(SOURCES) $(MAIN)

lint-luacheck:
	@luacheck --quiet .

lint-rockspec:
	@luarocks --lua-version 5.4 lint honua-buildq-scm-1.rockspec

# --- packages, installation, the rest -----------------------------------------------------------------------------

packages: ## install what is missing from Debian's packages, for building, testing and linting
	@sh .ci/packages run test lint

packages-run packages-test packages-lint packages-bench packages-screenshots: packages-%:
	@sh .ci/packages run $(filter-out run,$*)

SHARE        = $(DESTDIR)$(PREFIX)/share
UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
install: all ## install under PREFIX (/usr/local), below DESTDIR when given
	install -D -m 0755 $(BUILD)/buildq $(DESTDIR)$(PREFIX)/bin/buildq
	@for f in $$(find scripts templates sql -type f 2>/dev/null); do install -D -m 0644 $$f $(SHARE)/buildq/$$f || exit 1; done
	install -D -m 0644 core/cli/data/alerts.yml $(SHARE)/buildq/alerts.yml
	@mkdir -p $(SHARE)/man/man1
	sh core/cli/data/manual.sh $(BUILD)/buildq > $(SHARE)/man/man1/buildq.1
	install -D -m 0644 core/cli/data/buildq.sysusers $(DESTDIR)$(SYSUSERSDIR)/buildq.conf
	install -D -m 0644 core/cli/data/buildq.tmpfiles $(DESTDIR)$(TMPFILESDIR)/buildq.conf
	@mkdir -p $(DESTDIR)$(UNITDIR)
	sed 's|@PREFIX@|$(PREFIX)|g' core/cli/data/buildq.service > $(DESTDIR)$(UNITDIR)/buildq.service

clean: ## remove everything that was built
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

-include $(OBJECTS:.o=.d) $(SUPPORT:.o=.d) $(TORTURE:.o=.d) $(BUILD)/core/main.d $(UNITS:=.d) $(FUZZERS:=.d) $(BENCHES:=.d)
