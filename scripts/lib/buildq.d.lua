---@meta buildq

-- The Lua API, as `require "buildq"` gives it. This file is never run: it is the contract between the scripts and the
-- C bindings (core/lua), in LuaCATS annotations, which editors read as well. The manual with examples is
-- scripts/README.md.
--
-- Where a function can be called is in brackets: [build] in pipelines, [route] in route handlers, [any] everywhere.
-- A function marked "waits" suspends the calling coroutine only; nothing else stands still.
--
-- Errors. What is the caller's business to handle comes back as `nil, Failure`. Everything else is raised, as an
-- ErrorValue where it comes from a binding. A wrong argument raises a plain "bad argument #1 to …" string.
-- `kind` and `code` use one vocabulary, that of core/base/error.h:
--   invalid not_found conflict limit timeout unavailable outcome_unknown canceled io database script out_of_memory
-- A handler that lets `unavailable` or `outcome_unknown` pass is answered 503 with Retry-After; any other error, 500.
--
-- JSON across the border. null is json.null, whose type() is "userdata". A decoded array has a metatable with
-- `__jsontype = "array"` (also an empty one; it is what json.array gives), a decoded object has none. Encoding: a
-- table with that mark, or with keys 1..n and n > 0, is an array; any other table, the empty one too, is an object.
-- Integers of 64 bits stay integers. Refused with a message: NaN, infinities, NUL and bad UTF-8 in strings, more than
-- 64 levels, keys that aren't strings, functions and the like. Keys are written in sorted order.

---@alias Json nil|boolean|integer|number|string|table|lightuserdata

---@class Failure
---@field code "invalid"|"not_found"|"conflict"|"limit"|"unavailable"|"refused"
---@field message string one sentence for a person

---@class ErrorValue has __tostring, which gives the message
---@field kind string a word of the vocabulary above
---@field message string
---@field sqlstate? string five characters, for kind "database"

---@class buildq
---@field db buildq.db
---@field http buildq.http
---@field json buildq.json
---@field fs buildq.fs
---@field archive buildq.archive
---@field queue buildq.queue
---@field log buildq.log
---@field clock buildq.clock
---@field schedule buildq.schedule
---@field generations buildq.generations
---@field response buildq.response
---@field templates buildq.templates
---@field notifications buildq.notifications
---@field config buildq.config
local buildq = {}

---[any] SHA-256 of a string, in 64 lower-case hexadecimal digits.
---@param text string
---@return string
function buildq.sha256(text) end

---[any] Waits. In a route at most 60.
---@param seconds number 0 to 86400; fractions count to the millisecond
function buildq.sleep(seconds) end

---[any] A new UUID, version 7, lower-case.
---@return string
function buildq.uuid() end

---Read-only: the options that scripts may see, under their names in the configuration. Nothing secret is here.
---@class buildq.config
---@field AllowInlineCommands boolean
---@field BaseImages table<string, string> architecture → directory of an OCI layout, or "docker://REFERENCE"
---@field BrandColor string "#2563c9"
---@field BrandName string FromName when not set
---@field BuildTimeoutMinutes integer
---@field Credentials table<string, {hosts: string[], customers: string[], username: string?}> without their values
---@field DotnetDirectory string "" when not set
---@field DownloadBaseUrl string "" when not set
---@field EnableHealthChecks boolean
---@field LogoUrl string "" when not set
---@field MaxConcurrentBuilds integer
---@field MaxRetryAttempts integer
---@field NuGetSource string "" when not set
---@field ReplyTo string "" when not set
---@field RetryDelayMinutes integer
---@field MachineArchitecture string what this server's compilers make unless told otherwise: "linux-x64", "linux-arm64"
---@field ServerUrl string "http://127.0.0.1:8080", the address really bound
---@field SlackEvents table<string, true> what Slack is told: {failed = true, …}
---@field SlackWebhook string what tells its URL from others, "hooks.slack.com #1a2b3c4d"; "" when it is off
---@field SupportAddress string "" when not set
---@field TeamsEvents table<string, true>
---@field TeamsWebhook string likewise
---@field Webhook string likewise; "" also without WebhookSecrets
---@field WebhookEvents table<string, true>
---@field TrustedCertificates string "" when not set

-- json -----------------------------------------------------------------------------------------------------------

---@class buildq.json [any]
---@field null lightuserdata
local json = {}

---@param value Json
---@param options? {indent: integer} spaces a level, 0 (default) to 8; 0 is one line
---@return string text raises `invalid` for what JSON can't hold
function json.encode(value, options) end

---@param text string at most 8 MiB
---@param options? {relaxed: boolean} relaxed: comments, trailing commas and a byte order mark are taken as well
---@return Json? value nil when it can't be read (a JSON null is json.null)
---@return string? message "line 3, column 7: …"
function json.decode(text, options) end

---Marks a table as an array, so that an empty one is written [].
---@param list? table a new one when absent
---@return table list the same table
function json.array(list) end

---@return boolean # true for a table with the array mark, or with keys 1..n and n > 0
function json.is_array(value) end

-- clock, log -----------------------------------------------------------------------------------------------------

---@class buildq.clock [any]
local clock = {}

---@param unix? number seconds since 1970; now when absent
---@return string # RFC 3339 in UTC with microseconds: "2026-01-31T12:00:00.123456Z"
function clock.now(unix) end

---@return number # seconds since 1970, with fractions
function clock.unix() end

---@return number # seconds from an arbitrary start, never going back
function clock.monotonic() end

---The server's log, with the build's or the request's id. `fields`: string keys, scalar values; at most 16.
---@class buildq.log [any]
local log = {}
---@param message string cut at 8 KiB
---@param fields? table<string, string|number|boolean>
function log.debug(message, fields) end
---@param message string
---@param fields? table<string, string|number|boolean>
function log.info(message, fields) end
---@param message string
---@param fields? table<string, string|number|boolean>
function log.warn(message, fields) end
---@param message string
---@param fields? table<string, string|number|boolean>
function log.error(message, fields) end

-- db, http -------------------------------------------------------------------------------------------------------

---@class buildq.db [any]
local db = {}

---One statement on the scripts' own connections (with a statement_timeout). Waits. Parameters: $1, $2, … from strings,
---numbers, booleans, nil or json.null; a table is sent as JSON text. Columns come back as boolean, integer, number
---(float4/8), decoded value (json/jsonb), json.null, everything else (numeric, timestamps, uuid) as string.
---Raises `database` (with sqlstate), `unavailable`, `outcome_unknown`, `timeout`, `limit` (over 10 000 rows or 8 MiB).
---@param sql string
---@param ... Json
---@return table<string, Json>[] rows column → value
---@return integer affected rows inserted, updated or deleted, else the count of rows
function db.query(sql, ...) end

---@class HttpRequest
---@field url string http or https; other schemes are `invalid`
---@field method? string "GET"
---@field headers? table<string, string>
---@field body? string at most 8 MiB
---@field timeout? number seconds in all, 30; at most 600
---@field max_bytes? integer of the answer's body, 1 MiB; at most 64 MiB

---@class HttpAnswer
---@field status integer any status is an answer, not an error
---@field headers table<string, string> names in lower case; repeated ones joined with ", "
---@field body string

---@class buildq.http [any]
local http = {}

---Waits. Follows no redirect. Raises `unavailable` (no connection), `timeout`, `limit` (over max_bytes), `invalid`.
---@param request HttpRequest
---@return HttpAnswer
function http.request(request) end

-- fs, archive ----------------------------------------------------------------------------------------------------

---Files of the workspace. Paths are relative to it (or absolute below it); none leads out of it, by ".." or by a link:
---that is `invalid`. Everything waits (blocking pool) and raises `not_found`, `io`, `limit`.
---@class buildq.fs [build]
local fs = {}

---@param path string
---@param max_bytes? integer 1 MiB; at most 64 MiB; a larger file raises `limit`
---@return string
function fs.read(path, max_bytes) end

---Replaces the file (temporary name, then rename).
---@param path string
---@param text string at most 64 MiB
---@param options? {mode: integer} 0x1a4 (0644)
function fs.write(path, text, options) end

---@param path string made when missing
---@param text string
function fs.append(path, text) end

---@return boolean
function fs.exists(path) end

---@class FileStat
---@field type "file"|"directory"|"link"|"other" links aren't followed
---@field size integer bytes
---@field mode integer permission bits
---@field mtime number seconds since 1970

---@return FileStat? # nil when there is nothing
function fs.stat(path) end

---Names in a directory, sorted, without "." and ".."; at most 10 000.
---@return string[]
function fs.list(path) end

---Also the missing parents; an existing directory is fine.
function fs.mkdir(path) end

---A file, or a directory with all in it; follows no link. Nothing there is fine.
function fs.remove(path) end

---A file, or a directory with all in it (links are copied as links). Parents of `to` are made.
function fs.copy(from, to) end

---Parents of `to` are made; an existing file is replaced, an existing directory is `conflict`.
function fs.move(from, to) end

---Paths that match, sorted, relative to the workspace; * and ? within a segment, ** over segments; names that begin
---with a dot match like others; at most 10 000.
---@param pattern string "out/**/*.so"
---@return string[]
function fs.glob(pattern) end

---@param path string
---@return string # SHA-256 of the file, 64 lower-case hexadecimal digits
function fs.sha256(path) end

---@class PackOptions
---@field dir string what to pack: the directory's contents
---@field to string the archive to write
---@field format? "tar.zst"|"tar.gz"|"tar"|"zip" by the name of `to` when absent
---@field prefix? string a directory name put before every entry
---@field mtime? integer seconds since 1970 that every entry gets; 0

---@class PackResult
---@field path string `to`
---@field size integer bytes
---@field sha256 string
---@field files integer entries that aren't directories

---@class buildq.archive [build]
local archive = {}

---The same input gives the same bytes: names sorted, fixed times, owner 0. Waits. Raises like fs; `limit` over
---1 000 000 entries or 64 GiB of contents, also from unpack.
---@param options PackOptions
---@return PackResult
function archive.pack(options) end

---Entries that would leave `to` (absolute, "..", through a link) make it fail before anything is written there. Waits.
---@param options {from: string, to: string, strip?: integer, max_bytes?: integer} strip: leading directories to drop, 0; max_bytes: unpacked, 4 GiB
---@return {files: integer, bytes: integer}
function archive.unpack(options) end

-- queue ----------------------------------------------------------------------------------------------------------

---What POST /builds has made of a request, checked by scripts/lib. Lengths and shapes are checked again by the table.
---@class EnqueueFields
---@field id string a UUID from buildq.uuid()
---@field customerId string
---@field customerName string
---@field customerEmail string
---@field configurationName string
---@field manifestPath string a path below ManifestDirectory, or "inline:" and the manifest's SHA-256
---@field manifest table the normalised manifest: the copy that is kept
---@field trusted boolean whether the manifest may hold commands and local paths (kept with the copy)
---@field tier string
---@field architecture string
---@field cloudProvider string
---@field priority integer 0 to 3
---@field pipeline string
---@field metadata? table an object; {} when absent
---@field needs? string[] labels that a server must offer to run it; {} when absent
---@field requestId? string
---@field idempotency? {key: string, hash: string} hash: of everything that must be the same when the key comes again
---@field answer table the body of the 202 (with `estimate`); kept with the idempotency key

---@class EnqueueResult
---@field id string
---@field answer table this request's answer, or the first one's when it is a replay
---@field replayed boolean true: the same key and hash were accepted before; nothing was written

---@class BuildView as GET /builds/{id} gives it; times RFC 3339, json.null for what isn't known
---@field id string
---@field status "pending"|"building"|"success"|"failed"|"cancelled"|"timedout"
---@field progressPercent integer
---@field currentStep string
---@field outputPath string
---@field imageUrl string
---@field downloadUrl string
---@field errorMessage string
---@field enqueuedAt string
---@field startedAt string
---@field completedAt string
---@field buildDurationSeconds number
---@field retryCount integer
---@field priority integer
---@field attempt integer 0: never claimed
---@field pipeline string
---@field generation string
---@field nextAttemptAt string when a retry is due
---@field metadata table
---@field customerId string
---@field customerName string
---@field configurationName string
---@field tier string
---@field architecture string
---@field cloudProvider string
---@field estimate? buildq.Estimate only in get_json and explain, until the build has ended

---Every call waits, and all but a few run one named statement of sql/queries. `id` may be any string: one that is no UUID is
---not_found. All raise `unavailable` while the database is away.
---@class buildq.queue [route]
local queue = {}

---One transaction: the row, the manifest's copy, the event, the idempotency key.
---@param fields EnqueueFields
---@return EnqueueResult? result
---@return Failure? failure conflict: the key was used for another request; invalid: the table refused a field
function queue.enqueue(fields) end

---What the same request was answered within a day; to be asked before the request is checked, because its manifest may
---have changed meanwhile.
---@param key string the Idempotency-Key
---@param hash string as in EnqueueFields
---@return EnqueueResult? result nil when the key is new
---@return Failure? failure conflict: the key was used for another request
function queue.replay(key, hash) end

---@param id string
---@return BuildView?
---@return Failure? # not_found
function queue.get(id) end

---The same as text, straight from SQL, for `{body = …}`.
---@param id string
---@return string? text
---@return Failure? # not_found
function queue.get_json(id) end

---Newest first.
---@param options {status?: string, customerId?: string, limit?: integer, cursor?: string, metadata?: table} limit: 1 to 500, 50; metadata: an object that the build's must contain
---@return {builds: BuildView[], nextCursor: string}? # nextCursor: opaque; json.null at the end
---@return Failure? # invalid: the cursor can't be read
function queue.list(options) end

---@param id string
---@param priority integer 0 to 3
---@return BuildView?
---@return Failure? # not_found; conflict: not pending
function queue.set_priority(id, priority) end

---@param id string
---@param reason? string at most 1000 bytes
---@return {id: string, status: "cancelled"|"building"}? # building: it is being stopped and will be cancelled
---@return Failure? # not_found; conflict: ended already
function queue.cancel(id, reason) end

---@param id string
---@return {id: string, status: "pending"}?
---@return Failure? # not_found; conflict: not ended
function queue.retry(id) end

---@param options {status: "failed"|"cancelled"|"timedout", since?: string, limit?: integer} since: RFC 3339, ended at or after it; limit: 1 to 10000, 1000
---@return {count: integer}
function queue.bulk_retry(options) end

---@class QueueControl
---@field paused boolean
---@field reason string json.null when not paused
---@field since string when it was paused; json.null when not

---For the cluster, durable. Builds that run go on. Pausing a paused queue replaces the reason.
---@param reason string 1 to 1000 bytes
---@return QueueControl
function queue.pause(reason) end

---@return QueueControl
function queue.resume() end

---@return QueueControl
function queue.control() end

---The body of GET /builds/statistics, at most 2 s old.
---@return table
function queue.statistics() end

---@class ArtifactView
---@field name string a plain file name
---@field kind string "archive", "checksums", "manifest", "provenance" or a pipeline's own word
---@field size integer bytes
---@field sha256 string

---The artifacts of the committed attempt; none before there is one.
---@param id string
---@return {attempt: integer, artifacts: ArtifactView[]}? # attempt: json.null while there is none
---@return Failure? # not_found: no such build
function queue.artifacts(id) end

---@param id string
---@return table[]? # oldest first: {attempt, startedAt, endedAt, outcome, errorMessage, node, generation, currentStep, progressPercent}
---@return Failure? # not_found
function queue.attempts(id) end

---@param id string
---@param after? integer only events with a larger number; 0
---@param limit? integer 1 to 1000, 100
---@return table[]? # oldest first: {seq, type, at, attempt, data}
---@return Failure? # not_found
function queue.events(id, after, limit) end

---[any] The text of a file below ManifestDirectory, at most 1 MiB. No "..", no link that leads out of it.
---@param path string relative to it, or absolute below it
---@return string? text
---@return Failure? # invalid: not a path below it; not_found; limit: too large
function queue.read_manifest(path) end

---[any] Whether builds on this server find a program: it is in /usr/local/bin, /usr/bin or /bin. Does not wait.
---@param name string without a slash
---@return boolean
function queue.has_program(name) end

---@class NodeView an element of GET /nodes
---@field id string
---@field name string the host's
---@field url string
---@field version string
---@field state "live"|"draining"|"drained"|"stopped"|"dead" draining: it stops; drained: an operator said so
---@field slots integer
---@field running integer builds
---@field labels string[] what it offers
---@field startedAt string
---@field heartbeatAt string
---@field heartbeatSeconds number since then
---@field endedAt string json.null while it runs

---The servers there are, and those that ended within a day.
---@return NodeView[]
function queue.nodes() end

---No build starts on that server any more, those that run go on; durable, until `undrain` or until it is started again.
---@param id string
---@return NodeView? # nil: there is none, or it has ended, or is stopping anyway
function queue.drain(id) end

---@param id string
---@return NodeView? # likewise
function queue.undrain(id) end

---The labels that a pipeline names in `needs`; none when there is no such pipeline. Does not wait.
---@param pipeline string
---@return string[]
function queue.needs(pipeline) end

---What no server that takes builds offers of these labels.
---@param needs string[] at most 32
---@return string[]? # nil: one offers them all
function queue.unmet(needs) end

---[any] Names of the pipelines of this generation, sorted. Does not wait.
---@return string[]
function queue.pipelines() end

---[route] What POST /builds would say of such a build. Does not wait: its figures are in memory, counted every five seconds.
---@param fields {pipeline: string, tier: string, architecture: string} and what else is known, as in EnqueueFields
---@return buildq.Estimate? # nil while nothing is known
function queue.estimate(fields) end

---@class buildq.Estimate
---@field seconds? number half of such builds take longer
---@field secondsHigh? number nine of ten take no longer
---@field cost? number
---@field currency? string
---@field basedOn? {count: integer, of: string} the builds it was made of

---@class BuildFacts all that is known of why a build waits; scripts/lib/explain.lua puts it in words
---@field build BuildView with estimate
---@field ahead integer builds claimed before it; limit + 1 when there are more
---@field limit integer
---@field running integer builds that run on servers that could take it
---@field slots integer of those servers
---@field nodes integer live servers that offer what it needs
---@field unmetNeeds string[] what none of them offers; json.null when one offers all
---@field paused boolean
---@field pauseReason string json.null when not paused
---@field retrySeconds number until a retry's time; json.null when there is none
---@field elapsed number since it was started; json.null when it wasn't
---@field here {disk: boolean, freeMegabytes: integer, reserveMegabytes: integer, sandbox: boolean} whether this very server can start builds
---@field startSeconds? {p50: number, p90: number} from now; of a pending build, unless nothing starts
---@field endSeconds? {p50: number, p90: number} from now; until it has ended
---@field guesses? integer builds of unknown duration that the forecast counts as five minutes
---@field now number seconds since 1970, by the database's clock

---@param id string
---@return BuildFacts? # nil: there is no such build
function queue.explain(id) end

---@class HealthCheck
---@field name string "database", "scripts", "disk", "sandbox", "queue", …
---@field status "ok"|"degraded"|"failing" one that fails makes the server not ready
---@field message? string what to do about it
---@field data? table

---Never raises `unavailable`: the database is one of its checks.
---@return {ready: boolean, status: "ok"|"degraded"|"failing", generation: string, checks: HealthCheck[]}
function queue.health() end

---The Prometheus text. Never raises `unavailable`.
---@return string
function queue.metrics() end

---What routes/generations.lua asks. All but `here` wait. What a generation is: scripts/README.md.
---@class buildq.generations [route]
local generations = {}

---Reads the disk's scripts and templates again and waits for the end of that round. What the watch has found within the
---last two seconds counts as this round's change.
---@return {generation: string, previous: string, disk: string, held: boolean, added: string[], changed: string[], removed: string[]}?
---@return Failure? failure invalid: file, line and reason
function generations.reload() end

---@param limit? integer 1 to 200, 20 when absent
---@return table[] # last used first: {hash, createdAt, usedAt, files, builds, running, succeeded, failed, p50Seconds, p90Seconds}
function generations.list(limit) end

---@param limit? integer
---@return {at: string, generation: string?, share: integer?, who: string, reason: string?}[] # newest first
function generations.history(limit) end

---@param prefix string the beginning of a hash
---@return string[] # two at most
function generations.find(prefix) end

---@param hash string
---@return {path: string, hash: string, content: string}[] # empty when there is no such generation
function generations.files(hash) end

---@return {generation: string?, share: integer?, since: string?, who: string?, reason: string?}
function generations.activation() end

---@param hash? string nil releases
---@param share? integer percent, 100 when absent
---@param who string
---@param reason? string
---@return table? activation nil: there is no such generation
function generations.activate(hash, share, who, reason) end

---@return {current: string, disk: string, held: boolean, fault: string?} # of this server; fault: why the last round failed
function generations.here() end

---What scripts/lib/schedule.lua and routes/schedule.lua ask. All but `wanted` wait. What a schedule is: scripts/README.md.
---@class buildq.schedule [route]
local schedule = {}

---What the active policy says now, unchecked.
---@return Schedule[]? list empty when no policy is active
---@return Failure? failure invalid: the policy failed
function schedule.wanted() end

---Takes a checked list over for the cluster: [{name, cron, zone, missed, fields, request}]. What isn't in it is removed.
---@param list table[]
---@return {faults: {name: string, message: string}[], skipped: table[]}
function schedule.sync(list) end

---@class ScheduleClaim
---@field name string
---@field occurrence string RFC 3339
---@field buildId string of the build to enqueue: a repeat must be the same build
---@field request table the body of POST /builds

---Takes what is due for this server.
---@return {runs: ScheduleClaim[], skipped: table[], waitSeconds: number} # waitSeconds: until the next; json.null for none
function schedule.claim() end

---One more occurrence, now.
---@param name string
---@return ScheduleClaim? # nil: there is no such schedule
function schedule.begin(name) end

---@param name string
---@param occurrence string
---@param outcome "enqueued"|"refused" enqueued is final
---@param reason? string
function schedule.settle(name, occurrence, outcome, reason) end

---@class ScheduleView
---@field name string
---@field cron string
---@field zone string
---@field missed string
---@field nextAt string json.null when none will come
---@field paused boolean
---@field pauseReason string json.null when not paused
---@field pausedAt string
---@field lastRun table {occurrence, through, occurrences, manual, outcome, reason, buildId}

---@return ScheduleView[]
function schedule.list() end

---@param name string
---@param next integer how many occurrences to come, as field `next`; 0 to 1000
---@param runs integer how many of the last ones, as field `runs`; 0 to 1000
---@return ScheduleView? # nil: there is no such schedule
function schedule.show(name, next, runs) end

---@param name string
---@param reason string
---@return ScheduleView?
function schedule.pause(name, reason) end

---@param name string
---@return ScheduleView?
function schedule.resume(name) end

-- routes ---------------------------------------------------------------------------------------------------------

---What a file in scripts/routes returns: one of these or a list of them. Before a handler runs, the server has
---refused a wrong Host or Origin, a write (anything but GET and HEAD) whose Content-Type isn't application/json (415),
---a path without a route (404) and a wrong method (405 with Allow).
---@class Route
---@field method string "GET" (HEAD is answered by it), "POST", "PATCH", "PUT", "DELETE"
---@field path string "/builds/{id}/log": a word wins over a parameter at the same place
---@field handle fun(request: Request): Response
---@field form? boolean it takes what a form sends (application/x-www-form-urlencoded, multipart/form-data) instead of JSON,
---from any origin: only for what a token in the request allows by itself; any page in a browser could send it too
---@field check? fun() self-check at a reload; raises when something is wrong

---What a handler is given. A field is made when it is first read, and stays in the table; one that was not read before
---the answer can't be read after it.
---@class Request
---@field method string
---@field path string percent-decoded
---@field params table<string, string> the path's parameters, percent-decoded
---@field query table<string, string> percent-decoded, "+" is a space; of a repeated name the last; "" for a bare name
---@field headers table<string, string> names in lower case; repeated ones joined with ", "
---@field id string the request id: the client's X-Request-Id or a new one; echoed by the server
---@field body string "" when there is none; bounded by the server (413)
local Request = {}

---The body as JSON.
---@return Json? value nil when it can't be read (an empty body too)
---@return string? message where and why
function Request:json() end

---What `handle` returns. One of json, body, or a response object of the functions below; none: an empty body.
---The server adds Content-Length, Date, X-Request-Id, and Content-Type: application/json for `json`, text/plain in
---UTF-8 for `body` when headers have none. Returning something else is a 500 and a line in the log.
---@class Response
---@field status? integer 200 to 599; 200
---@field headers? table<string, string> no CR, LF or NUL in either
---@field json? Json
---@field body? string

---Responses that C writes without Lua, so that a slow reader holds neither a handler nor a generation. Each returns an
---opaque object: return it from `handle` as it is. `headers` are added.
---@class buildq.response [route]
local response = {}

---An artifact of an attempt, with Range, If-Range, If-None-Match and a strong ETag. Answers 404 by itself when the
---file is gone.
---@param options {build: string, attempt: integer, name: string, type?: string, etag?: string, headers?: table<string, string>} type: Content-Type, application/octet-stream; etag: without quotes
---@return Response
function response.file(options) end

---An attempt's log as text/plain from byte `offset` of what was written; a gap where it was cut is marked in a line of
---its own. With follow it goes on until the attempt has ended. An attempt without a log gives an empty body.
---@param options {build: string, attempt: integer, offset?: integer, follow?: boolean, headers?: table<string, string>}
---@return Response
function response.log_stream(options) end

---Server-sent events with heartbeat comments, of one build (with ids: first what came after number `after`, then what
---comes; it ends when the build has) or of one customer (first the present state of each unfinished build, then every
---change; no ids).
---@param options {build?: string, after?: integer, customer?: string, headers?: table<string, string>} exactly one of build and customer
---@return Response
function response.event_stream(options) end

---A body made by a script, chunked. `producer` runs in a coroutine of its own; `write` waits while the peer is slow and
---raises `canceled` when it is gone. An error in it cuts the connection.
---@param producer fun(write: fun(text: string))
---@param options? {status?: integer, headers?: table<string, string>}
---@return Response
function response.stream(producer, options) end

-- templates ------------------------------------------------------------------------------------------------------

---Templates and the scripts of scripts/notifications, of the generation that this script belongs to.
---@class buildq.templates [any]
local templates = {}

---@param path string below templates: "email/failed.html"
---@return string? # nil when there is none
function templates.read(path) end

---@return string[] # the paths of the scripts in scripts/notifications, sorted
function templates.rules() end

---Runs one of them.
---@param path string one that rules() gave
---@return Notification
function templates.load_rule(path) end

---What routes/notifications.lua asks; all that asks the database waits. A notification is one delivery: an event, told
---one recipient by one channel. Its table is in sql/README.md ("Deliveries").
---@class buildq.notifications [route]
local notifications = {}

---Newest first.
---@param options {state?: string, channel?: string, event?: string, build?: string, customerId?: string, recipient?: string, limit?: integer, cursor?: string} limit: 1 to 500, 50 when absent
---@return {notifications: table[], nextCursor: string|Null}?
---@return Failure? failure invalid
function notifications.list(options) end

---Events that the rules failed on, so that there is no notification yet: the oldest 20, oldest first.
---@param options {build?: string, event?: string, customerId?: string}
---@return {buildId: string, event: string, round: integer, createdAt: string, fault: string, nextTryAt: string}[]?
---@return Failure? failure invalid
function notifications.faults(options) end

---@param id string
---@return table? # with data and attempts; nil: there is none
function notifications.get(id) end

---To be tried at once, with all tries.
---@param id string
---@param resend? boolean also what was sent: again, with a new Message-ID
---@return {outcome: "done"|"conflict", delivery: table?, state: string?}?
function notifications.requeue(id, resend) end

---@param id string
---@return {outcome: "done"|"conflict", delivery: table?, state: string?}? # only what waits can be cancelled
function notifications.cancel(id) end

---Queues one that nobody owes.
---@param options {channel: string, recipient: string, event: string, build?: string} without a build: with a sample
---@return table? # nil: there is no such build
function notifications.send_test(options) end

---An event of a build as rules and templates are given it: the last of that name, else as it would be now.
---@param build string
---@param event string
---@return NotificationEvent? # nil: there is no such build
function notifications.facts(build, event) end

---No more mails of `event` (all when absent) about builds of `customerId` (any) to `recipient` (any). What waits is
---skipped. One of customerId and recipient is needed; channel is email when absent.
---@param options {customerId?: string, recipient?: string, event?: string, channel?: string, reason?: string, source: string}
---@return table
function notifications.suppress(options) end

---Takes exactly that back.
---@param options {customerId?: string, recipient?: string, event?: string, channel?: string, source?: string} `source`: only if that one said so
---@return {removed: integer}
function notifications.unsuppress(options) end

---@param options {customerId?: string, recipient?: string, limit?: integer} limit: 1 to 1000
---@return table[] # newest first
function notifications.suppressions(options) end

---Recipients that have said they are gone (HTTP 410): nothing goes to them.
---@return {channel: string, recipient: string, reason: string?, createdAt: string}[]
function notifications.disabled() end

---@param channel string
---@param recipient string
---@return {removed: integer}
function notifications.enable(channel, recipient) end

---A mail as it would be sent now, headers and all (RFC 5322); doesn't wait. Raises what is wrong with an address.
---@param delivery table as notify.message is given it
---@param mail table what it made
---@return string
function notifications.mail_bytes(delivery, mail) end

---What would be sent for an event with other templates than those that run, rendered in a vm of its own.
---@param event string
---@param options {templates: table<string, string>, facts?: NotificationEvent, cloud?: string, channel?: string,
---  recipient?: string}
---@return table? preview as notify.preview gives it
---@return Failure? failure invalid: there is no such event; script: a template's or script's file and line
function notifications.preview(event, options) end

---The link that stops such mails; doesn't wait.
---@param event string
---@param customer string its id
---@param recipient string
---@return string? # nil: no UnsubscribeUrl or UnsubscribeSecret is set, or the link would be longer than 900 bytes
function notifications.unsubscribe_url(event, customer, recipient) end

---What the token of such a link says; doesn't wait.
---@param token string
---@return {event: string, customerId: string, recipient: string}?
---@return Failure? failure invalid: nobody who knows the secret has made it
function notifications.read_unsubscribe(token) end

-- pipelines ------------------------------------------------------------------------------------------------------

---What a file in scripts/pipelines returns.
---@class Pipeline
---@field run fun(build: Build)
---@field pin? "build" a retry stays on the generation of the first attempt; else it takes the newest
---@field needs? {secrets?: string[], labels?: string[]} secrets: the names that build:secret may ask for; labels: what the server must offer that runs it
---@field check? fun() self-check at a reload; raises when something is wrong

---@class Customer
---@field id string
---@field name string
---@field email string

---@class Build
---@field id string
---@field attempt integer from 1
---@field customer Customer
---@field tier string
---@field architecture string
---@field cloud string
---@field configuration string the configuration's name
---@field manifest table normalised by scripts/lib/manifest.lua
---@field manifest_path string below ManifestDirectory, or "inline:" and the manifest's SHA-256
---@field manifest_trusted boolean whether it came from ManifestDirectory, or AllowInlineCommands is set
---@field metadata table
---@field pipeline string its name
---@field generation string SHA-256, 64 hexadecimal digits
---@field workspace string absolute path of the one writable directory
---@field config buildq.config
local Build = {}

---Runs `fn` as a named step: the name becomes currentStep, progress goes to where the step begins, and to its end
---when fn returns. `at` says where it begins; steps with a weight (1 without `at`) share what is left to the next `at` or
---to 100, as known from the pipeline's last success on this server. Steps don't nest.
---@param name string at most 255 bytes
---@param options {weight?: number, at?: number} at: percent, 0 to 100
---@param fn fun(): ...
---@return ... # what fn returns
---@overload fun(self: Build, name: string, fn: fun(): ...): ...
function Build:step(name, options, fn) end

---@class ExecOptions
---@field argv? string[] the program and its arguments; the program is looked up in PATH
---@field shell? string instead of argv: a line for /bin/sh -c
---@field cwd? string relative to the workspace (its root)
---@field env? table<string, string> added to the clean environment (PATH, HOME, TMPDIR, LANG, TZ)
---@field timeout? number seconds; the build's own end comes anyway
---@field stdin? string bytes for standard input; empty when absent
---@field capture? boolean|integer standard output as `output`, masked; at most 1 MiB or that many bytes, then `limit`
---@field quiet? boolean with capture: standard output does not go to the log
---@field check? boolean true: an exit code other than 0 raises
---@field mounts? table<string, "read"|"write"> absolute paths that it sees as well; "write" for those of build:shared only

---@class ExecResult
---@field code integer exit code; 128 + signal when a signal ended it
---@field signal? integer
---@field duration number seconds
---@field lines string[] the last lines of both streams, masked, at most 20
---@field output? string with capture

---Runs a program in the sandbox; its output goes to the attempt's log. Waits. Raises `script` ("make: exit code 2
---after 3.1 s: …" with the last lines) when check isn't false, `timeout`, `invalid` (cwd outside the workspace), `io`.
---@param options ExecOptions
---@return ExecResult
function Build:exec(options) end

---Runs functions side by side. The first error ends the others and is raised. Waits.
---@param fns (fun(): any)[]
---@param options? {limit: integer} at a time; all when absent, 64 at most
---@return any[] # the first result of each, at its place
function Build:all(fns, options) end

---@param percent number of the whole build, 0 to 100; less than what is reached changes nothing
---@param text? string a line of the log, and progressText of the events `progress` (its first 255 bytes) until another
--- text or the next step; "" takes it away
function Build:progress(percent, text) end

---Copies a file, or a directory with all in it, from below ManifestDirectory into the workspace, owned by the build's
---user; a path not below it, and links that lead out of what is copied, are `invalid`. Whether a manifest may name such
---a path is for scripts to decide: scripts/lib/manifest.lua lets trusted ones. Waits. Raises `not_found`, `limit` (over
---100 000 entries or 4 GiB), `io`.
---@param from string relative to ManifestDirectory, or absolute below it
---@param to string in the workspace; must not exist
---@return "file"|"directory" # what it was
function Build:import(from, to) end

---A directory that the builds of this server share, StateDirectory/shared/NAME; made when missing. Commands see it with
---`mounts`, and lock what they change in it themselves (flock): whatever may write there can change what other builds
---get. One that no build has asked for in CompletedBuildRetentionDays is removed. Waits. Raises `invalid`, `io`.
---@param name string two words of [A-Za-z0-9._-] with a slash between: what for, and which; "git/0f3c"
---@return string # its absolute path
function Build:shared(name) end

---A credential of the option Credentials, for a host that it names and a build of a customer that it names. Its value is
---masked in the log. Waits for nothing.
---@param name string
---@param host string "git.example.org", with a port when the URL has one
---@return {username: string, value: string} # raises `invalid`: not for this host or customer; `not_found`
function Build:credential(name, host) end

---A line (or lines) in the attempt's log, masked.
---@param text string
function Build:log(text) end

---Takes a file of the workspace into the attempt's artifacts. The file is copied; what was registered is published as a
---whole, by a rename, when the build succeeds. Waits. Raises `not_found`, `conflict` (a name twice), `limit`.
---@param path string
---@param options? {name?: string, kind?: string} name: a plain file name of [A-Za-z0-9._+-], the path's last part; kind: "archive", "checksums", "manifest" or your own word, "file"
---@return {name: string, size: integer, sha256: string}
function Build:artifact(path, options) end

---What the row and build.json get at success. Called again, fields are laid over the earlier ones.
---@param fields {imageUrl?: string, provenance?: table} provenance: e.g. {source = {commit =}, tools = {gcc =}}; 64 KiB as JSON
function Build:result(fields) end

---Ends the build as failed. Does not return; no pcall catches it.
---@param message string becomes errorMessage; masked
---@param options? {retry: boolean} false: no retry; true when absent
function Build:fail(message, options) end

---Runs `fn` when the build ends, however it does (also after cancel and timeout), last one first, within 60 s in all.
---@param fn fun()
function Build:defer(fn) end

---A secret from the configuration, if the pipeline's `needs.secrets` names it. Its value is masked in logs from now on.
---@param name string
---@return string # raises `invalid` (not in needs) or `not_found`
function Build:secret(name) end

-- policies -------------------------------------------------------------------------------------------------------

-- A file in scripts/policies returns one table of hooks; active.lua names the file of each hook. Hooks are pure: json
-- and sha256 are all that `require "buildq"` gives them, os.time and os.date need a time, math.random is not there.

---@class Policy
---@field priority? fun(build: buildq.PolicyBuild, facts: buildq.PolicyFacts): buildq.PriorityAnswer
---@field choose? fun(candidates: buildq.Candidate[], facts: buildq.ChoiceFacts): string[]? ids of candidates, the first goes first; nil: by key
---@field admission? fun(build: buildq.PolicyBuild, facts: buildq.PolicyFacts): buildq.AdmissionAnswer
---@field retry? fun(failure: buildq.RetryFailure): buildq.RetryAnswer
---@field schedule? fun(): Schedule[] what is enqueued when
---@field estimate? fun(build: buildq.PolicyBuild, history: buildq.BuildHistory): buildq.EstimateAnswer? build: without enqueuedAt
---@field facts? table<string, string[]> by hook: what is looked up; see PolicyFacts; retry: "history"; choose: "running"
---@field check? fun() self-check at a reload; raises when something is wrong

---@class buildq.PolicyBuild
---@field id string
---@field customerId string
---@field customerName string
---@field tier string
---@field architecture string
---@field cloudProvider string
---@field configurationName string
---@field pipeline string
---@field priority integer 0 to 3
---@field metadata table<string, Json>
---@field enqueuedAt integer microseconds since 1970, by the database's clock; 0 unless it is asked about its place

---@class buildq.PolicyFacts what `facts` of the hook's file asks for
---@field customer? {pending: integer, running: integer} the customer's builds
---@field customerUsage? {today: integer, month: integer} the customer's, enqueued since midnight and the 1st, UTC
---@field tierUsage? {today: integer, month: integer} the tier's, of all customers
---@field tags? {customer: integer[], queue: integer[]} for fair queueing, by priority + 1: last tag, virtual time
---@field queue? {pending: integer[], running: integer} pending by priority + 1; a look at all that is pending
---@field now? integer microseconds since 1970, when any fact was asked for
---@field disk? {freeMegabytes: integer, reserveMegabytes: integer, predictedMegabytes: integer?} of this server, when it is known; predicted: what builds of the pipeline took, when "disk" is asked for

---@class buildq.PriorityAnswer
---@field priority? integer 0 to 3; as asked when absent
---@field key? integer the smallest is claimed first, never 0; higher priority, then earlier, when absent
---@field tag? integer the customer's tag at that priority from now on
---@field reason? string shown as policyReason, 200 bytes at most

---@class buildq.Candidate: buildq.PolicyBuild a build that is due
---@field key integer the candidates' order, smallest first
---@field attempt integer how many attempts there were
---@field retryCount integer charged failures

---@class buildq.ChoiceFacts
---@field now integer microseconds since 1970
---@field running? buildq.Candidate[] what all servers run, longest first, 1,000 at most; when `facts` asks for it

---@class buildq.AdmissionAnswer
---@field action "accept"|"lower"|"refuse"
---@field priority? integer for lower: 0 (when absent) to 3
---@field reason? string for lower: shown as policyReason
---@field status? integer for refuse: 400 to 599, 429 when absent
---@field title? string for refuse
---@field detail? string for refuse: what is wrong and what to do
---@field retryAfter? integer for refuse: seconds

---@class buildq.BuildHistory durations of successful builds, in seconds
---@field count integer how many; 0: nothing is known, and there is nothing else in here
---@field p50? number
---@field p90? number
---@field mean? number
---@field of? "pipeline, tier, architecture"|"pipeline, architecture"|"pipeline"|"all" what they have in common

---@class buildq.EstimateAnswer
---@field seconds? number from 0
---@field secondsHigh? number from 0; seconds when absent
---@field cost? number from 0
---@field currency? string 15 bytes at most

---@class buildq.RetryFailure a charged failure, or a build that ran longer than BuildTimeoutMinutes
---@field build buildq.PolicyBuild
---@field message string
---@field kind "step"|"timeout"|"memory"|"limit"|"infrastructure" timeout: of the whole build; memory: Lua's, or a command got none; limit: Lua's time, a bound
---@field step string the step it failed in, "" for none
---@field retryable boolean false after build:fail(…, {retry = false}), a limit, a timeout
---@field attempt integer this attempt, counted from 1 over the build's whole life
---@field retryCount integer charged failures before this one
---@field maxRetries integer MaxRetryAttempts
---@field delaySeconds number what the configuration says: RetryDelayMinutes, doubled and spread
---@field random number 0 to 1, for jitter
---@field history {attempt: integer, outcome: string?, errorKind: string?, errorMessage: string?}[] earlier attempts, oldest first; empty unless asked for in `facts`

---@class buildq.RetryAnswer
---@field retry boolean
---@field after? number seconds, 0 to 86400; delaySeconds when absent
---@field reason? string for the log, 200 bytes at most

-- notifications --------------------------------------------------------------------------------------------------

---What a file in scripts/notifications returns. Its shape is checked at a reload.
---@class Notification
---@field events string[] which it is for: "queued", "started", "retrying", "completed", "failed", "timedout", "cancelled"
---@field deliver fun(event: NotificationEvent): Delivery[] who is told, and how; an empty list for nobody
---@field channel? string the channel that `message` serves; "email" when absent
---@field message? fun(delivery: table): {mail: table?, http: HttpMessage?} without one a mail is made of its templates
---@field check? fun() self-check at a reload; raises when something is wrong

---What is posted to a web server (core/io/webhook.h): where it may go, and what answers mean.
---@class HttpMessage
---@field url string|{secret: string} NAME of a secret: an option of Notifications or a file of SecretsDirectory
---@field body string|table 256 kB at most; a table is sent as JSON
---@field contentType? string "application/json" when absent
---@field headers? table<string, string|{secret: string, before: string?}> 20 at most
---@field sign? {id: string, secrets: string[]} by Standard Webhooks 1.0, once with each secret named

---@class NotificationEvent
---@field event string one of `events`
---@field round integer from 1; a manual retry begins another
---@field attempt integer which attempt, for "retrying"; else 0
---@field createdAt string
---@field data table error, nextAttemptAt, priority: what the event itself says
---@field build table a BuildView with artifacts {name, kind, size, sha256}, logTail (lines), expiresAt, maxRetries
---@field customer Customer

---@class Delivery
---@field channel string "email"
---@field recipient string
---@field template? string its name below templates/email; the event's when absent
---@field data? table what the template is given

-- what the server itself asks of scripts/lib ---------------------------------------------------------------------

-- A claimed row that nobody has checked (a plain INSERT: no kept manifest) is given to scripts/lib/intake.lua in the
-- build's state, before its pipeline is chosen:
--
--   require("intake").adopt(row) → Adopted, or nil and a sentence: the build then fails, without a retry
--
-- The server keeps what it gives beside the row (manifest's copy, trusted, pipeline), as an enqueue would have done.

---@class PlainRow
---@field manifestPath string
---@field manifest? table instead of that file: `buildq run --set` has changed it
---@field tier string
---@field architecture string
---@field cloudProvider string

---@class Adopted
---@field manifest table normalised
---@field trusted boolean
---@field pipeline string

return buildq
