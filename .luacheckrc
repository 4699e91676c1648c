std = "lua54"
max_line_length = 120
exclude_files = { "build" }
-- Type annotations for editors: declarations without bodies.
files["**/*.d.lua"] = { ignore = { "212", "211", "111", "112", "113", "241", "631" } }
files["**/*_spec.lua"] = { std = "lua54+busted" }
files["tests/mail_screenshots.lua"] = { std = "lua54+busted" }
files["*.rockspec"] = { std = "rockspec" }
