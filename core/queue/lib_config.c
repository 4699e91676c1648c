// The module `config`: the options that scripts may see. Nothing secret is here: of a webhook's URL there is a label.
#include <lauxlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/json.h"
#include "io/webhook.h"
#include "lua/libs.h"
#include "lua/stdlib.h"
#include "queue/server_internal.h"

static void set_text(lua_State *L, const char *name, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, int value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void set_boolean(lua_State *L, const char *name, int value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, name);
}

// {failed = true, …}: what was configured, else the default (config_options.c has it in words).
static void set_events(lua_State *L, const char *name, char *const *given, const char *const *standard) {
  const char *const *events = given[0] != NULL ? (const char *const *)given : standard;
  lua_newtable(L);
  for (; *events != NULL; events++) set_boolean(L, *events, 1);
  bq_lua_lock(L, name);
  lua_setfield(L, -2, name);
}

static void set_label(lua_State *L, const char *name, const char *url) {
  char label[BQ_WEBHOOK_LABEL_SIZE];
  bq_webhook_label(url, label);
  set_text(L, name, label);
}

// The object of the option's text; without the member `left_out` in its entries.
static void set_object(lua_State *L, const char *name, const char *text, const char *left_out) {
  bq_error err;
  json_t *object = NULL;
  const char *key;
  json_t *entry;
  if (bq_json_parse(text, strlen(text), BQ_JSON_STRICT, &object, &err) < 0) object = json_object();
  json_object_foreach(object, key, entry) {
    if (left_out != NULL) (void)json_object_del(entry, left_out);
  }
  bq_lua_give_json(L, object);
  bq_lua_lock(L, name);
  lua_setfield(L, -2, name);
}

static const char *machine_architecture(struct utsname *machine) {
  (void)uname(machine);
  if (strcmp(machine->machine, "x86_64") == 0) return "linux-x64";
  return strcmp(machine->machine, "aarch64") == 0 ? "linux-arm64" : machine->machine;
}

int bq_config_open(lua_State *L) {
  static const char *const ends[] = {"completed", "failed", "timedout", "cancelled", NULL};
  static const char *const all[] = {"queued", "started",  "retrying",  "completed",
                                    "failed", "timedout", "cancelled", NULL};
  const bq_server *server = bq_script_services(L)->product;
  const bq_config *config = server->config;
  struct utsname machine = {0};
  lua_newtable(L);
  set_boolean(L, "AllowInlineCommands", config->allow_inline_commands);
  set_object(L, "BaseImages", config->base_images, NULL);
  set_text(L, "BrandColor", config->email_brand_color);
  set_text(L, "BrandName", *config->email_brand_name != '\0' ? config->email_brand_name : config->email_from_name);
  set_integer(L, "BuildTimeoutMinutes", config->build_timeout_minutes);
  set_object(L, "Credentials", config->credentials, "value"); // for whom and where, never what
  set_text(L, "DotnetDirectory", config->dotnet_directory);
  set_text(L, "DownloadBaseUrl", config->download_base_url);
  set_boolean(L, "EnableHealthChecks", config->enable_health_checks);
  set_text(L, "LogoUrl", config->email_logo_url);
  set_text(L, "MachineArchitecture", machine_architecture(&machine));
  set_integer(L, "MaxConcurrentBuilds", config->max_concurrent_builds);
  set_integer(L, "MaxRetryAttempts", config->max_retry_attempts);
  set_text(L, "NuGetSource", config->nuget_source);
  set_text(L, "ReplyTo", config->email_reply_to);
  set_integer(L, "RetryDelayMinutes", config->retry_delay_minutes);
  // The first generation is loaded before the port is bound, and what is no server binds none.
  if (server->url != NULL) lua_pushstring(L, server->url);
  else lua_pushfstring(L, "http://%s", config->listen);
  lua_setfield(L, -2, "ServerUrl");
  set_events(L, "SlackEvents", config->slack_events, ends);
  set_label(L, "SlackWebhook", config->slack_webhook_url);
  set_text(L, "SupportAddress", config->email_support_address);
  set_events(L, "TeamsEvents", config->teams_events, ends);
  set_label(L, "TeamsWebhook", config->teams_webhook_url);
  set_text(L, "TrustedCertificates", config->trusted_certificates);
  set_label(L, "Webhook", *config->webhook_secrets != NULL ? config->webhook_url : "");
  set_events(L, "WebhookEvents", config->webhook_events, all);
  return 1;
}
