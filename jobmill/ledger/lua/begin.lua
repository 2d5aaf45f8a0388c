-- Taking and beginning in one: ARGV = process, queue, turn that is expected, how many, largest answer (bytes), lease (ms),
-- then two values a system that knows its handles beforehand: its name, what stands in front of the token in a handle.
-- Entries that were begun stay at the head of the private list until the next turn is asked for, which says that their
-- answer came. The same turn again gives the same answer; any other one begins nothing. An entry that is no granted job is
-- buried. With 0 for how many, it only lets go of what was answered.
-- Answer: {turn to be expected next, 'more' where more stands there or '', 'go' | 'void', entry, …}.
local process, queue, expected = ARGV[1], ARGV[2], tonumber(ARGV[3])
local n, most, lease = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
local mine, known = P .. queue .. ':taken:' .. process, P .. 'Process:' .. process
local t, begun = turn(process, queue, expected), tonumber(call('HGET', known, 'begun:' .. queue) or 0)
if not t then return { call('HGET', known, 'turn:' .. queue) or '0', 'more' } end -- as in a record that was restored

local function job_in(entry) -- what an entry says: its head stands before the spec, which is not read here
  local at = entry:find(',"spec":', 1, true)
  if not at or entry:sub(-1) ~= '}' then return nil end
  local ok, row = pcall(cjson.decode, entry:sub(1, at - 1) .. '}')
  if not ok or type(row) ~= 'table' or type(row.id) ~= 'string' or type(row.system) ~= 'string' then return nil end
  if not row.id:match('^[%w][%w._-]*$') or #row.id > 64 or type(row.run) ~= 'number' or type(row.fence) ~= 'number' then
    return nil
  end
  local arrival = type(row.arrival) == 'number' and row.arrival or 0 -- 0: granted by an older version
  return { id = row.id, system = row.system, run = string.format('%.0f', row.run),
    fence = string.format('%.0f', row.fence), arrival = arrival > 0 and string.format('%.0f', arrival) or nil }
end

local function standing(it) -- the job's record where it is whole and the entry still speaks of it
  local j = redis.pcall('HMGET', P .. 'Job:' .. it.id, 'state', 'run', 'fence', 'system', 'owner', 'handle', 'score')
  if j.err or not (j[1] and j[4] and tonumber(j[7] or '')) or j[2] ~= it.run or j[3] ~= it.fence then return nil end
  if it.arrival and arrival_of(j[7]) ~= it.arrival then return nil end
  return { state = j[1], system = j[4], owner = j[5], handle = j[6] }
end

if t == 'again' then
  local answer, gone = { string.format('%.0f', expected + 1), 'more' }, {}
  for _, entry in ipairs(begun > 0 and call('LRANGE', mine, 0, begun - 1) or {}) do
    local it = job_in(entry)
    local j = it and not gone[it.id] and standing(it)
    local go = j and j.state == 'starting' and j.owner == process
    if go then gone[it.id] = true end -- an entry that stands there twice starts one launch
    answer[#answer + 1] = go and 'go' or 'void'
    answer[#answer + 1] = entry
  end
  return answer
end

local prefixes = {}
for i = 7, #ARGV, 2 do prefixes[ARGV[i]] = ARGV[i + 1] end
if n > 0 then adds() else frees() end
if begun > 0 then call('LTRIM', mine, begun, -1) end
local answer, bytes, count, have = { '', '' }, 0, 0, call('LLEN', mine)
local function chunk() -- a few at a time: they may be large, and what is not begun in this turn stays where it is
  local fit = math.floor((most - bytes) * count / (bytes + 1)) + 1 -- of the size that they had so far
  local size = math.min(n - count, 50, math.max(1, math.min(2 * count, fit)))
  if count < have then return call('LRANGE', mine, count, math.min(have, count + size) - 1) end
  local more = call('LRANGE', P .. queue, 0, size - 1)
  if #more > 0 then
    call('RPUSH', mine, unpack(more))
    call('LTRIM', P .. queue, #more, -1)
    have = have + #more
  end
  return more
end

local function begin(it, j)
  local key, prefix = P .. 'Job:' .. it.id, prefixes[j.system]
  if prefix then
    local life = it.arrival and ('.' .. it.arrival) or ''
    call('HSET', key, 'state', 'starting', 'owner', process, 'handle', prefix .. life .. ':' .. it.id .. ':' .. it.run)
  else
    call('HSET', key, 'state', 'starting', 'owner', process)
    if j.handle then call('HDEL', key, 'handle') end
  end
  zadd(P .. 'Starting_Queue' .. lane(j.system), NOW + lease, it.id)
  note({ id = it.id, run = it.run }, 'starting')
end

bundle()
while count < n and bytes <= most do
  local some = chunk()
  if #some == 0 then break end
  for _, entry in ipairs(some) do
    if bytes > most then break end
    bytes, count = bytes + #entry, count + 1
    local it, word = job_in(entry), 'void'
    local j = it and standing(it)
    if not it and entry ~= '' then -- emptied where it stands: whoever recovers it does not bury it again
      call('RPUSH', P .. 'Dead_Queue', cjson.encode({ reason = 'not a granted job', queue = queue, time = NOW / 1000 })
        .. '\n' .. entry)
      call('LSET', mine, count - 1, '')
      entry = ''
    elseif j and j.state == 'granted' then
      begin(it, j)
      word = 'go'
    end
    answer[#answer + 1] = word
    answer[#answer + 1] = entry
  end
end
if count > 0 then
  call('HSET', known, 'turn:' .. queue, string.format('%.0f', expected + 1), 'begun:' .. queue, count)
  expected = expected + 1
elseif begun > 0 then
  call('HDEL', known, 'begun:' .. queue)
end
answer[1] = string.format('%.0f', expected)
if call('LLEN', mine) > count or call('EXISTS', P .. queue) == 1 then answer[2] = 'more' end
publish()
return answer
