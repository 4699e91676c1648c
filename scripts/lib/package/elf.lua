-- What the first bytes of a program say: for which processor it is, and whether it needs a dynamic linker.

local elf = {}

local HEADER_BYTES <const> = 16384
local PT_INTERP <const> = 3 -- System V ABI, chapter 5, Program Header

---@class ElfInfo
---@field machine integer e_machine
---@field executable boolean a program or a position-independent one, no object file
---@field interpreter? string the dynamic linker that it asks for

--- Reads the header of an ELF file (System V ABI, chapter 4). nil: it is none, or a damaged one.
---@param bytes string the beginning of the file
---@return ElfInfo?
function elf.parse(bytes)
  if #bytes < 64 or bytes:sub(1, 4) ~= "\127ELF" or bytes:byte(5) ~= 2 or bytes:byte(6) ~= 1 then return nil end
  local kind, machine = string.unpack("<I2I2", bytes, 17)
  local offset = string.unpack("<I8", bytes, 33)
  local size, count = string.unpack("<I2I2", bytes, 55)
  local info = { machine = machine, executable = kind == 2 or kind == 3 }
  -- None of its segments can be seen. What is below 0 was 2^63 or more.
  if offset < 0 or offset > #bytes or size < 56 then return info end
  for index = 0, count - 1 do
    local at = offset + index * size + 1
    if at + 55 > #bytes then break end
    if string.unpack("<I4", bytes, at) == PT_INTERP then
      local where, length = string.unpack("<I8", bytes, at + 8), string.unpack("<I8", bytes, at + 32)
      local is_here = where >= 0 and length >= 0 and where <= #bytes and length <= #bytes - where
      local text = is_here and bytes:sub(where + 1, where + length):gsub("\0.*", "") or "unknown"
      info.interpreter = text
    end
  end
  return info
end

--- The same of a file of the workspace.
---@param build Build
---@param path string
---@return ElfInfo?
function elf.read(build, path)
  local result = build:exec { argv = { "head", "-c", tostring(HEADER_BYTES), "--", path }, capture = HEADER_BYTES * 2,
    quiet = true }
  return elf.parse(result.output or "")
end

return elf
