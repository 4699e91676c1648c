-- Which file of this directory decides what. To change it, copy this file to ScriptDirectory/policies and name another;
-- without an entry the built-in rule decides (scripts/README.md, "Policies").
return {
  priority = "strict",
  retry = "configured",
  admission = "limits",
  schedule = "schedule",
  estimate = "history",
}
