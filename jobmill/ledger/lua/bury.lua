-- Entries of Dead_Queue go back or go away: ARGV = 'requeue' | 'drop', then 2 values an entry: position, sha1 of it.
-- An entry that is not there any more is passed over. Answer: how many.
local verb, moved = ARGV[1], 0
local found, named = {}, {}
local function below_header(entry) -- what was pushed here by hand has no header of ours, and is whole as it is
  local head, raw = entry:match('^({[^\n]*)\n(.*)$')
  local read, header = pcall(cjson.decode, head or '')
  return read and type(header) == 'table' and header.reason ~= nil and raw or entry
end
if verb == 'drop' then frees() else adds() end
for i = 2, #ARGV, 2 do
  local entry = call('LINDEX', P .. 'Dead_Queue', ARGV[i])
  if entry and redis.sha1hex(entry) == ARGV[i + 1] and not named[ARGV[i]] then
    named[ARGV[i]] = true
    found[#found + 1] = { ARGV[i], entry }
  end
end
table.sort(found, function(a, b) return tonumber(a[1]) < tonumber(b[1]) end) -- requeued in the order in which they stood
for _, f in ipairs(found) do
  if verb == 'requeue' then
    call('RPUSH', P .. 'Job_Queue', below_header(f[2]))
  end
  call('LSET', P .. 'Dead_Queue', f[1], '\0gone')
  moved = moved + 1
end
if moved > 0 then call('LREM', P .. 'Dead_Queue', moved, '\0gone') end
return moved
