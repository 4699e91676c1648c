-- The command line of `dotnet publish` for one project and one target. Pure: what goes in decides what comes out, and
-- spec/fixtures/dotnet has the result for each architecture and each option.

local arguments = {}

--- A property's argument. MSBuild takes ; and , apart and %XX for a character.
function arguments.property(name, value)
  local escaped = tostring(value):gsub("[%%;,$@*?'\"]", function(c) return ("%%%02X"):format(c:byte()) end)
  return ("-p:%s=%s"):format(name, escaped)
end

---@class PublishOptions
---@field project string path of the project file
---@field output string where the files go
---@field artifacts string --artifacts-path: what is made on the way, of this target alone
---@field workspace? string the directory that is written as /build into what is compiled: each build has another
---@field targets_file? string MSBuild file with the ilcOptions
---@field nuget_source? string

local function words(value) return value and "true" or "false" end

local function add_native(list, optimizations, cross)
  list("PublishAot", "true")
  if cross then list("ObjCopyName", cross .. "-objcopy") end
  if optimizations.vectorization then list("IlcInstructionSet", optimizations.vectorization) end
  local preference = optimizations.optimizationPreference
  if preference == "speed" then list("OptimizationPreference", "Speed") end
  if preference == "size" then list("OptimizationPreference", "Size") end
end

local function add_managed(list, optimizations)
  list("PublishAot", "false")
  list("PublishReadyToRun", words(optimizations.readyToRun))
  list("PublishTrimmed", words(optimizations.trim and optimizations.selfContained))
  list("TieredPGO", words(optimizations.pgo and optimizations.dynamicPgo))
  list("TieredCompilation", words(optimizations.tieredCompilation))
  if optimizations.readyToRun and optimizations.vectorization then
    list("PublishReadyToRunCrossgen2ExtraArgs", "--instruction-set:" .. optimizations.vectorization)
  end
end

--- The argument list.
---@param target PlanTarget
---@param properties table<string, string>
---@param options PublishOptions
---@param cross? string the triplet of the cross compiler, when the target's processor is another
---@return string[]
function arguments.publish(target, properties, options, cross)
  local optimizations = target.optimizations
  local argv = {
    "dotnet", "publish", options.project, "--configuration", "Release", "--runtime", target.architecture,
    "--self-contained", words(optimizations.selfContained), "--output", options.output,
    "--artifacts-path", options.artifacts, "--nologo", "--verbosity", "minimal",
  }
  local function list(name, value) argv[#argv + 1] = arguments.property(name, value) end
  if optimizations.nativeAot then
    add_native(list, optimizations, cross)
  else
    add_managed(list, optimizations)
  end
  list("ContinuousIntegrationBuild", "true")
  if options.workspace then list("PathMap", options.workspace .. "=/build") end
  if options.targets_file then list("CustomAfterMicrosoftCommonTargets", options.targets_file) end
  if options.nuget_source then list("RestoreSources", options.nuget_source) end
  local names = {}
  for name in pairs(properties) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do list(name, properties[name]) end
  return argv
end

--- The MSBuild file that gives the native compiler its options, which are items and can't be said on a command line.
---@param options string[]
function arguments.targets_file(options)
  local lines = { "<Project>", "  <ItemGroup>" }
  for _, option in ipairs(options) do
    local escaped = option:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" })
    lines[#lines + 1] = ('    <IlcArg Include="%s" />'):format(escaped)
  end
  lines[#lines + 1] = "  </ItemGroup>\n</Project>\n"
  return table.concat(lines, "\n")
end

return arguments
