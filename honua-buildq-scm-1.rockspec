rockspec_format = "3.0"
package = "honua-buildq"
version = "scm-1"
source = {
  url = "git+https://github.com/honua-io/honua-buildq.git",
}
description = {
  summary = "A native build-queue server: C and libevent for the mechanism, Lua for the policy, PostgreSQL for the truth",
  detailed = [[
    buildq takes build requests over HTTP, queues them in PostgreSQL, runs them in Lua steps that start real compilers,
    and hands out the finished artifacts. The libraries it links (libevent, libpq, libcurl, jansson, libarchive,
    libcrypto, Lua) come from the system; `make packages` installs them on Debian.
  ]],
  license = "MIT",
}
dependencies = {
  "lua >= 5.4",
}
build = {
  type = "make",
  build_variables = { PREFIX = "$(PREFIX)" },
  -- What lies in a rock's lib/ is taken for Lua modules.
  install_variables = {
    PREFIX = "$(PREFIX)",
    UNITDIR = "$(PREFIX)/share/buildq/systemd",
    SYSUSERSDIR = "$(PREFIX)/share/buildq/sysusers.d",
    TMPFILESDIR = "$(PREFIX)/share/buildq/tmpfiles.d",
  },
}
